//! The build's name: `v<Kubernetes>+kube-pet.<version>.g<commit>`, semver for tools, a build for people.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// The Kubernetes release whose kubelet this agent behaves like.
const KUBERNETES: &str = "1.37.1";

fn main() {
    println!("cargo::rerun-if-env-changed=KUBE_PET_COMMIT");
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let commit = env::var("KUBE_PET_COMMIT").ok().filter(|commit| !commit.is_empty()).or_else(commit_of_checkout);
    // A build without a repository is a build too.
    let suffix = commit.map(|commit| format!(".g{}", commit.chars().take(7).collect::<String>())).unwrap_or_default();
    println!("cargo::rustc-env=KUBE_PET_VERSION=v{KUBERNETES}+kube-pet.{version}{suffix}");
}

/// Reads the commit from git's files: no program is run, and only these files lead to another run of this script.
fn commit_of_checkout() -> Option<String> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    let git = manifest.ancestors().map(|dir| dir.join(".git")).find(|git| git.exists())?;
    let git = match fs::read_to_string(&git) {
        // A work tree of its own: the file names the folder.
        Ok(text) => git.parent()?.join(text.trim().strip_prefix("gitdir: ")?),
        Err(_) => git,
    };
    let head = watched(&git.join("HEAD"))?;
    let Some(reference) = head.strip_prefix("ref: ") else { return is_commit(&head) };
    let common = fs::read_to_string(git.join("commondir")).map_or(git.clone(), |dir| git.join(dir.trim()));
    if let Some(commit) = watched(&common.join(reference)) {
        return is_commit(&commit);
    }
    let packed = watched(&common.join("packed-refs"))?;
    packed.lines().find_map(|line| line.strip_suffix(reference)?.strip_suffix(' ').and_then(is_commit))
}

fn watched(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    println!("cargo::rerun-if-changed={}", path.display());
    Some(text.trim().to_owned())
}

fn is_commit(text: &str) -> Option<String> {
    (text.len() >= 40 && text.chars().all(|c| c.is_ascii_hexdigit())).then(|| text.to_owned())
}
