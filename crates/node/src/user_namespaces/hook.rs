//! How a container gets into its pod's user namespace: a hook of Podman's, at the stage `precreate` (`oci-hooks(5)`), which is given the
//! container's OCI configuration before the runtime is, and may change it. `docs/decisions/0011-user-namespaces.md` says why.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The annotation that names the pod's user namespace; the hook runs for containers that have it.
pub const ANNOTATION: &str = "kube-pet.dev/user-namespace";
/// The subcommand of `kube-pet` that the hook is.
pub const COMMAND: &str = "user-namespace-hook";

/// The configuration cannot be changed: the container does not start.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It is not JSON.
    #[error("the container's OCI configuration cannot be read: {0}")]
    Parse(#[from] serde_json::Error),
    /// It lacks something.
    #[error("the container's OCI configuration has no {0}")]
    Lacks(&'static str),
}

/// The program to run, where `running` is the running one's `/proc/self/exe`: by the same name, but the newer one, if it was replaced meanwhile.
pub fn program(running: &Path) -> PathBuf {
    let name = running.as_os_str().as_bytes();
    let name = name.strip_suffix(b" (deleted)").filter(|_| !running.exists()).unwrap_or(name);
    PathBuf::from(OsStr::from_bytes(name))
}

/// What Podman reads of the hook: that `program` is run for containers with [`ANNOTATION`]. By a shell, because Podman starts no container
/// at all while a hook's program is not there; so only those with the annotation do not start while `program` is not.
pub fn definition(program: &Path) -> String {
    let definition = json!({
        "version": "1.0.0",
        "hook": {
            "path": "/bin/sh",
            "args": ["sh", "-c", format!("exec \"$0\" {COMMAND}"), program.display().to_string()],
            "timeout": 60,
        },
        "when": {"annotations": {format!("^{}$", ANNOTATION.replace('.', "\\.")): ".+"}},
        "stages": ["precreate"],
    });
    format!("{definition:#}\n")
}

/// The configuration with the pod's user namespace in place of the one that the runtime would make, and with a /sys of the pod's own
/// network, which Podman does not dare to mount for a user namespace.
///
/// # Errors
/// It is not what Podman writes for such a container.
pub fn join(configuration: &str) -> Result<String, HookError> {
    let mut configuration: Value = serde_json::from_str(configuration)?;
    let path = configuration["annotations"][ANNOTATION].as_str().ok_or(HookError::Lacks("annotation for a user namespace"))?.to_owned();
    let namespaces = configuration.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut);
    let user = namespaces.and_then(|all| all.iter_mut().find(|one| one["type"] == "user"));
    user.ok_or(HookError::Lacks("user namespace"))?["path"] = path.into();
    if let Some(mounts) = configuration.get_mut("mounts").and_then(Value::as_array_mut)
        && let Some(at) = mounts.iter().position(|mount| mount["destination"] == "/sys" && mount["type"] == "bind")
    {
        let writable = mounts[at]["options"].as_array().is_some_and(|options| options.contains(&json!("rw")));
        let options = ["nosuid", "noexec", "nodev", if writable { "rw" } else { "ro" }];
        mounts[at] = json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": options});
        // The machine's /sys had the cgroups in it.
        let cgroups = json!({
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["rprivate", "nosuid", "noexec", "nodev", "relatime", "ro"],
        });
        mounts.insert(at + 1, cgroups);
    }
    Ok(configuration.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_namespace_and_its_own_sys_take_the_place_of_podmans() {
        let given = json!({
            "ociVersion": "1.0.2",
            "annotations": {ANNOTATION: "/run/kube-pet/sandboxes/u/user"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["rprivate", "ro", "rbind"]},
            ],
            "linux": {"namespaces": [{"type": "user"}, {"type": "network", "path": "/n"}], "uidMappings": [{"containerID": 0}]},
        });
        let joined: Value = serde_json::from_str(&join(&given.to_string()).unwrap()).unwrap();
        let mut wanted = given.clone();
        wanted["linux"]["namespaces"][0]["path"] = json!("/run/kube-pet/sandboxes/u/user");
        wanted["mounts"][1] =
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]});
        let cgroups = joined["mounts"][2].clone();
        assert_eq!((&cgroups["destination"], &cgroups["type"]), (&json!("/sys/fs/cgroup"), &json!("cgroup")));
        wanted["mounts"].as_array_mut().unwrap().push(cgroups);
        assert_eq!(joined, wanted);
        for lacking in ["/annotations", "/linux/namespaces/0/type"] {
            let mut broken = given.clone();
            *broken.pointer_mut(lacking).unwrap() = Value::Null;
            assert!(join(&broken.to_string()).is_err(), "{lacking}");
        }
        assert!(join("no JSON").is_err());
    }

    #[test]
    fn a_program_that_was_replaced_is_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kube-pet");
        let deleted = folder.path().join("kube-pet (deleted)");
        assert_eq!((program(&path), program(&deleted)), (path.clone(), path));
        std::fs::write(&deleted, "").unwrap();
        assert_eq!(program(&deleted), deleted, "it has that name");
    }

    #[test]
    fn podman_runs_it_for_annotated_containers_only() {
        let definition: Value = serde_json::from_str(&definition(Path::new("/usr/bin/kube-pet"))).unwrap();
        assert_eq!(definition["when"], json!({"annotations": {"^kube-pet\\.dev/user-namespace$": ".+"}}));
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "what Podman does with the definition")]
    fn the_program_is_missed_only_by_those_that_need_it() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("a b' $c");
        let hook = || {
            let definition: Value = serde_json::from_str(&definition(&program)).unwrap();
            let path = definition["hook"]["path"].as_str().unwrap().to_owned();
            assert!(Path::new(&path).is_file(), "Podman starts nothing without it");
            let arguments: Vec<String> = serde_json::from_value(definition["hook"]["args"].clone()).unwrap();
            std::process::Command::new(path).args(&arguments[1..]).output().unwrap()
        };
        assert_eq!(hook().status.code(), Some(127));
        std::os::unix::fs::symlink("/bin/echo", &program).unwrap();
        assert_eq!(String::from_utf8(hook().stdout).unwrap(), format!("{COMMAND}\n"));
    }
}
