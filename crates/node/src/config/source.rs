//! Where a configuration comes from: one file, its drop-ins, flags.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::problem::{ConfigErrors, Problem};
use super::section::Section;
use super::tree::{Origin, Tree, Value};
use super::{NodeConfiguration, schema};
use crate::paths::Paths;

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct ConfigSource {
    /// The file. Default: `/etc/kube-pet/node.yaml` below the root, if it is there.
    pub file: Option<PathBuf>,
    /// The root, as a flag gives it.
    pub root: Option<PathBuf>,
    /// Fields that flags set.
    pub overrides: Vec<Override>,
}

/// One field set by a flag.
#[derive(Clone, Debug)]
pub struct Override {
    flag: String,
    field: String,
    value: Given,
}

#[derive(Clone, Debug)]
enum Given {
    Text(String),
    Yaml(String),
}

impl Override {
    /// A field whose value is this text.
    pub fn text(flag: &str, field: &str, value: impl Into<String>) -> Self {
        Self { flag: flag.into(), field: field.into(), value: Given::Text(value.into()) }
    }

    /// `field=value` of `--set`; the value is read as YAML.
    pub fn assignment(text: &str) -> Option<Self> {
        let (field, value) = text.split_once('=')?;
        let valid = field.split('.').all(|part| !part.is_empty());
        valid.then(|| Self { flag: "--set".into(), field: field.into(), value: Given::Yaml(value.into()) })
    }

    fn tree(&self, problems: &mut Vec<Problem>) -> Option<Tree> {
        let origin = Origin { source: format!("flag {}", self.flag).into(), line: 0 };
        let leaf = match &self.value {
            Given::Text(text) => Tree { origin, value: Value::Text(text.clone()) },
            Given::Yaml(text) => {
                let mut tree = Tree::parse(&origin.source, text, problems)?;
                tree.origin = origin;
                tree
            }
        };
        Some(Tree::at(&self.field, leaf))
    }
}

impl ConfigSource {
    /// The configuration file that is read.
    pub fn main_file(&self) -> PathBuf {
        let default = || Paths::new(self.root.as_deref().unwrap_or(Path::new("/"))).config_dir().join("node.yaml");
        self.file.clone().unwrap_or_else(default)
    }

    /// What the flags set, as a file would: to be written down. They are known to be valid once the configuration has been loaded.
    pub fn flags_as_file(&self) -> serde_json::Value {
        let mut document = serde_json::Value::Object(serde_json::Map::new());
        for Override { field, value, .. } in &self.overrides {
            let value = match value {
                Given::Text(text) => serde_json::Value::String(text.clone()),
                Given::Yaml(text) => serde_saphyr::from_str(text).unwrap_or(serde_json::Value::Null),
            };
            place(&mut document, &mut field.split('.'), value);
        }
        document
    }

    pub(super) fn load(&self) -> Result<NodeConfiguration, ConfigErrors> {
        let mut problems = Vec::new();
        let mut document = self.files(&mut problems);
        for over in &self.overrides {
            if let Some(tree) = over.tree(&mut problems) {
                document.merge(tree);
            }
        }
        if let Some(root) = &self.root {
            let root = Override::text("--root", "rootDir", root.display().to_string());
            if let Some(tree) = root.tree(&mut problems) {
                document.merge(tree);
            }
        }
        let problems = RefCell::new(problems);
        let mut root = PathBuf::from("/");
        let top = Section::new(String::new(), Some(&document), &problems);
        top.path("rootDir", &mut root);
        let mut config = NodeConfiguration::defaults(root);
        schema::apply(top, &mut config);
        match problems.into_inner() {
            none if none.is_empty() => Ok(config),
            mut problems => {
                problems.sort_by(|a, b| (&a.origin.source, a.origin.line).cmp(&(&b.origin.source, b.origin.line)));
                Err(ConfigErrors(problems))
            }
        }
    }

    fn files(&self, problems: &mut Vec<Problem>) -> Tree {
        let main = self.main_file();
        let mut document = match read(&main, problems) {
            Read::Text(text) => parse(&main, &text, true, problems),
            Read::Missing if self.file.is_some() => {
                problems.push(whole_file(&main, "is not there", "create it, or correct --config"));
                None
            }
            Read::Missing | Read::Failed => None,
        }
        .unwrap_or_else(|| Tree::empty(&main.display().to_string()));
        for path in drop_ins(&main, problems) {
            if let Read::Text(text) = read(&path, problems)
                && let Some(tree) = parse(&path, &text, false, problems)
            {
                document.merge(tree);
            }
        }
        document
    }
}

/// Puts a value where the path says, and objects on the way to it.
fn place(tree: &mut serde_json::Value, path: &mut std::str::Split<'_, char>, value: serde_json::Value) {
    let Some(field) = path.next() else {
        *tree = value;
        return;
    };
    if !tree.is_object() {
        *tree = serde_json::Value::Object(serde_json::Map::new());
    }
    if let Some(fields) = tree.as_object_mut() {
        place(fields.entry(field).or_insert(serde_json::Value::Null), path, value);
    }
}

enum Read {
    Text(String),
    Missing,
    Failed,
}

fn read(path: &Path, problems: &mut Vec<Problem>) -> Read {
    let fix = "make it a text file that the agent may read";
    match std::fs::read(path).map(String::from_utf8) {
        Ok(Ok(text)) => Read::Text(text),
        Ok(Err(_)) => {
            problems.push(whole_file(path, "is not UTF-8", fix));
            Read::Failed
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Read::Missing,
        Err(error) => {
            problems.push(whole_file(path, &format!("cannot be read: {error}"), fix));
            Read::Failed
        }
    }
}

fn parse(path: &Path, text: &str, main: bool, problems: &mut Vec<Problem>) -> Option<Tree> {
    let source = path.display().to_string();
    let mut tree = Tree::parse(&source, text, problems)?;
    match tree.value {
        Value::Map(_) => {}
        Value::Null => tree.value = Value::Map(Vec::new()),
        ref other => {
            problems.push(Problem {
                origin: tree.origin.clone(),
                field: String::new(),
                what: format!("expected a mapping, found {}", other.describe()),
                fix: "write settings as name: value".into(),
            });
            return None;
        }
    }
    let found = RefCell::new(Vec::new());
    schema::check_type(&Section::new(String::new(), Some(&tree), &found), main);
    problems.append(&mut found.into_inner());
    Some(tree)
}

/// `node.yaml.d/*.yaml`, by name.
fn drop_ins(main: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut folder = main.as_os_str().to_owned();
    folder.push(".d");
    let folder = PathBuf::from(folder);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let what = format!("cannot be listed: {error}");
            problems.push(whole_file(&folder, &what, "make it a folder that the agent may read"));
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

fn whole_file(path: &Path, what: &str, fix: &str) -> Problem {
    Problem {
        origin: Origin { source: path.display().to_string().into(), line: 0 },
        field: String::new(),
        what: what.into(),
        fix: fix.into(),
    }
}
