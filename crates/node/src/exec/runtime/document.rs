//! The process of a command, as the runtime specification describes it: the container's own, with other words.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;
use serde_json::{Map, Value};

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not what is expected: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{} describes no process", path.display())]
    NoProcess { path: PathBuf },
}

/// What crun knows of a running container.
#[derive(Deserialize)]
struct Status {
    bundle: PathBuf,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    process: Map<String, Value>,
}

/// The document for `words` in the container `id` (blocking). It holds the container's environment: secrets, perhaps.
pub(super) fn of(state_dir: &Path, id: &str, words: &[String], tty: bool) -> Result<Vec<u8>, Error> {
    let status: Status = json(&state_dir.join(id).join("status"))?;
    let path = status.bundle.join("config.json");
    let Config { process } = json(&path)?;
    if process.is_empty() {
        return Err(Error::NoProcess { path });
    }
    serde_json::to_vec(&process_of(process, words, tty)).map_err(|source| Error::Json { path, source })
}

fn json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, Error> {
    let content = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&content).map_err(|source| Error::Json { path: path.to_owned(), source })
}

/// User, groups, capabilities, limits, profiles and whatever later versions add stay the container's, as with other runtimes.
fn process_of(mut process: Map<String, Value>, words: &[String], tty: bool) -> Value {
    process.insert("args".into(), words.into());
    process.insert("terminal".into(), tty.into());
    // Of the container's own terminal.
    process.remove("consoleSize");
    if tty && let Value::Array(env) = process.entry("env").or_insert_with(|| Value::Array(Vec::new())) {
        let has_term = env.iter().any(|variable| variable.as_str().is_some_and(|variable| variable.starts_with("TERM=")));
        if !has_term {
            env.push("TERM=xterm".into());
        }
    }
    Value::Object(process)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(process: &Value) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("c1")).unwrap();
        fs::write(dir.path().join("c1/status"), json!({"pid": 1, "bundle": dir.path()}).to_string()).unwrap();
        fs::write(dir.path().join("config.json"), json!({"ociVersion": "1.0.2", "process": process}).to_string()).unwrap();
        dir
    }

    fn made(process: &Value, tty: bool) -> Value {
        let dir = container(process);
        serde_json::from_slice(&of(dir.path(), "c1", &["echo".into(), "a b".into()], tty).unwrap()).unwrap()
    }

    #[test]
    fn everything_but_the_words_and_the_terminal_stays() {
        let own = json!({
            "terminal": true, "consoleSize": {"width": 1, "height": 2}, "user": {"uid": 7, "additionalGids": [8]}, "args": ["sleep"],
            "env": ["A=1"], "cwd": "/w", "capabilities": {"bounding": ["CAP_CHOWN"]}, "noNewPrivileges": true, "invented": [1],
        });
        let mut expected = own.clone();
        expected["args"] = json!(["echo", "a b"]);
        expected["terminal"] = json!(false);
        expected.as_object_mut().unwrap().remove("consoleSize");
        assert_eq!(made(&own, false), expected);
        expected["terminal"] = json!(true);
        expected["env"] = json!(["A=1", "TERM=xterm"]);
        assert_eq!(made(&own, true), expected);
    }

    #[test]
    fn a_container_s_own_term_is_kept() {
        assert_eq!(made(&json!({"args": [], "env": ["TERM=vt100"]}), true)["env"], json!(["TERM=vt100"]));
    }

    #[test]
    fn what_cannot_be_read_names_its_file() {
        let dir = container(&json!({}));
        let error = |id: &str| of(dir.path(), id, &[], false).unwrap_err().to_string();
        assert!(error("c2").contains("c2/status: No such file"), "{}", error("c2"));
        assert!(error("c1").contains("config.json describes no process"), "{}", error("c1"));
        fs::write(dir.path().join("config.json"), "{").unwrap();
        assert!(error("c1").contains("config.json is not what is expected"), "{}", error("c1"));
    }
}
