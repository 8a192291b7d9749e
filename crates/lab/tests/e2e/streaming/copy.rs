//! `kubectl cp` is tar over exec: a tree with names that break what splits at spaces or lines.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{Over, done, finished, kubectl, pod};
use crate::harness::{Bed, shell};

/// What is at a path: mode and content, a link's target, or a folder's mode.
type Tree = BTreeMap<PathBuf, String>;

fn make(root: &Path) -> Result<()> {
    let deep = root.join("deep/er/and/er");
    fs::create_dir_all(&deep)?;
    fs::create_dir_all(root.join("empty folder"))?;
    let names = ["plain", "with space", "with\nnewline", "quote'\"s", "-dash", "semi;colon&amp", "$(dollar)", "deep/er/and/er/file"];
    for (number, name) in names.iter().enumerate() {
        fs::write(root.join(name), format!("content of {number}\n"))?;
    }
    fs::write(root.join("empty"), "")?;
    fs::write(root.join("binary"), (0..=255).cycle().take(100_000).collect::<Vec<u8>>())?;
    for mode in [0o600, 0o644, 0o755, 0o400] {
        let path = root.join(format!("mode-{mode:o}"));
        fs::write(&path, "x")?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// What kubectl itself, or the tar of a small image, changes or leaves out when it copies.
fn make_difficult(root: &Path) -> Result<()> {
    make(root)?;
    for name in ["star*?[a]", "back\\slash", "umlauts äöü", "日本語", "emoji 🐾"] {
        fs::write(root.join(name), name)?;
    }
    fs::write(root.join("l".repeat(200)), "a long name")?;
    fs::write(root.join(format!("deep/er/{}", "m".repeat(255))), "a longer one")?;
    symlink("plain", root.join("link"))?;
    symlink("nowhere", root.join("dangling link"))?;
    symlink("../deep", root.join("deep/link to a folder"))?;
    Ok(())
}

fn read(root: &Path) -> Result<Tree> {
    fn add(root: &Path, folder: &Path, tree: &mut Tree) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let meta = path.symlink_metadata()?;
            let mode = meta.permissions().mode() & 0o7777;
            let what = if meta.is_symlink() {
                format!("-> {}", fs::read_link(&path)?.display())
            } else if meta.is_dir() {
                add(root, &path, tree)?;
                format!("{mode:o} folder")
            } else {
                format!("{mode:o} {:?}", fs::read(&path)?)
            };
            tree.insert(path.strip_prefix(root)?.to_owned(), what);
        }
        Ok(())
    }
    let mut tree = Tree::new();
    add(root, root, &mut tree)?;
    Ok(tree)
}

/// kubectl gives files that it copies from a pod the mode of any new file.
fn without_modes(tree: Tree) -> Tree {
    let content = |what: String| what.split_once(' ').filter(|(first, _)| *first != "->").map_or(what.clone(), |(_, rest)| rest.to_owned());
    tree.into_iter().map(|(path, what)| (path, content(what))).collect()
}

fn compare(over: Over, sent: &Tree, returned: &Tree) -> Result<()> {
    for (path, what) in sent {
        ensure!(returned.get(path) == Some(what), "{over:?} {path:?}: {what} became {:?}", returned.get(path));
    }
    ensure!(
        sent.len() == returned.len(),
        "{over:?}: more came back: {:?}",
        returned.keys().filter(|path| !sent.contains_key(*path)).collect::<Vec<_>>()
    );
    Ok(())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path of text")
}

#[e2e]
async fn e2e_copying_a_tree_there_and_back_changes_nothing() -> Result<()> {
    let bed = Bed::shared("copy").await?;
    let mut container = shell("c", "exec sleep 3600");
    container["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    bed.pod("p", json!({"containers": [container], "volumes": [{"name": "data", "emptyDir": {}}]})).await?;
    bed.phase("p", "Running").await?;
    pod(&bed, "idle", &[shell("c", "exec sleep 3600")]).await?;
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("copy-{}", bed.namespace));
    for over in Over::BOTH {
        let (sent, difficult) = (dir.join(format!("{over:?}-sent")), dir.join(format!("{over:?}-difficult")));
        fs::create_dir_all(&sent)?;
        fs::create_dir_all(&difficult)?;
        make(&sent)?;
        make_difficult(&difficult)?;

        let back = dir.join(format!("{over:?}-back"));
        let remote = format!("p:/data/{over:?}");
        let there = done(kubectl(&bed, over, &["cp", text(&sent)?, &remote])?).await?;
        ensure!(there.code == 0, "{over:?}: {there:?}");
        let here = done(kubectl(&bed, over, &["cp", &remote, text(&back)?])?).await?;
        ensure!(here.code == 0, "{over:?}: {here:?}");
        compare(over, &without_modes(read(&sent)?), &without_modes(read(&back)?))?;
        let script = format!("cd /data/{over:?} && stat -c '%n %a' mode-*");
        let modes = done(kubectl(&bed, over, &["exec", "p", "--", "sh", "-c", &script])?).await?;
        ensure!(modes.stdout == "mode-400 400\nmode-600 600\nmode-644 644\nmode-755 755\n", "{over:?}: {modes:?}");

        // What kubectl's help advises for links and modes: tar at both ends.
        let back = dir.join(format!("{over:?}-difficult-back"));
        fs::create_dir_all(&back)?;
        let folder = format!("/data/{over:?}-difficult");
        let mut unpack = kubectl(&bed, over, &["exec", "-i", "p", "--", "sh", "-c", &format!("mkdir {folder} && tar xpf - -C {folder}")])?;
        let mut pack = kube_pet_lab::command::argv(&["tar", "--format=gnu", "-cf", "-", "-C", text(&difficult)?, "."]);
        let mut pack = pack.stdout(Stdio::piped()).spawn()?;
        let archive: Stdio = pack.stdout.take().context("piped")?.try_into()?;
        let there = finished(unpack.stdin(archive).spawn()?).await?;
        ensure!(there.code == 0 && pack.wait().await?.success(), "{over:?}: {there:?}");
        let mut pack = kubectl(&bed, over, &["exec", "p", "--", "tar", "cf", "-", "-C", &folder, "."])?.stdin(Stdio::null()).spawn()?;
        let archive: Stdio = pack.stdout.take().context("piped")?.try_into()?;
        let mut unpack = kube_pet_lab::command::argv(&["tar", "-xpf", "-", "-C", text(&back)?]);
        ensure!(unpack.stdin(archive).status().await?.success(), "{over:?}: the archive that came back is broken");
        let packed = finished(pack).await?;
        ensure!(packed.code == 0, "{over:?}: {packed:?}");
        compare(over, &read(&difficult)?, &read(&back)?)?;
    }
    fs::remove_dir_all(&dir)?;
    bed.done().await
}
