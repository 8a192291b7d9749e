//! A YAML document as a tree that knows where each value was written, so that every mistake can be reported with its
//! line, and files can be merged before they are judged.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::problem::Problem;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// A file's path, or the command line flag.
    pub source: Arc<str>,
    /// Line in the file, from 1; 0 where lines mean nothing.
    pub line: u64,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.source),
            line => write!(f, "{}:{line}", self.source),
        }
    }
}

/// One value of a document.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Tree>),
    Map(Vec<Entry>),
}

/// One field of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) origin: Origin,
    pub(super) value: Tree,
}

impl Tree {
    /// An empty document.
    pub(super) fn empty(source: &str) -> Self {
        Self { origin: Origin { source: source.into(), line: 0 }, value: Value::Map(Vec::new()) }
    }

    /// Parses one document. A key that is written twice, or text that is no YAML, is a problem.
    pub(super) fn parse(source: &str, text: &str, problems: &mut Vec<Problem>) -> Option<Self> {
        let source: Arc<str> = source.into();
        let options = serde_saphyr::options! {
            duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        };
        match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
            Ok(raw) => Some(place(raw, &source, "", problems)),
            Err(error) => {
                let line = error.location().map_or(0, |at| at.line());
                let what = error.without_snippet().to_string();
                let what = what.split(" at line").next().unwrap_or_default().trim().to_owned();
                problems.push(Problem {
                    origin: Origin { source, line },
                    field: String::new(),
                    what: format!("not valid YAML: {what}"),
                    fix: "correct the syntax; JSON is allowed too".into(),
                });
                None
            }
        }
    }

    /// Lays `over` on top: mappings are merged field by field, everything else is replaced.
    pub(super) fn merge(&mut self, over: Self) {
        match (&mut self.value, over.value) {
            (Value::Map(fields), Value::Map(news)) => {
                for new in news {
                    match fields.iter_mut().find(|field| field.key == new.key) {
                        Some(field) => {
                            field.origin = new.origin;
                            field.value.merge(new.value);
                        }
                        None => fields.push(new),
                    }
                }
            }
            (_, value) => {
                self.value = value;
                self.origin = over.origin;
            }
        }
    }

    /// A document that sets one field, named by its path (`a.b.c`).
    pub(super) fn at(path: &str, leaf: Self) -> Self {
        path.rsplit('.').fold(leaf, |value, key| Self {
            origin: value.origin.clone(),
            value: Value::Map(vec![Entry { key: key.to_owned(), origin: value.origin.clone(), value }]),
        })
    }

    /// The value of a field, if this is a mapping that has it.
    pub(super) fn field(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.value),
            _ => None,
        }
    }
}

impl Value {
    /// What a reader of an error message calls it. Text is not quoted: it may be a secret in the wrong place.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".into(),
            Self::Bool(value) => format!("the boolean {value}"),
            Self::Int(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Text(_) => "text".into(),
            Self::List(_) => "a list".into(),
            Self::Map(_) => "a mapping".into(),
        }
    }
}

fn place(raw: Spanned<Raw>, source: &Arc<str>, path: &str, problems: &mut Vec<Problem>) -> Tree {
    let origin = Origin { source: source.clone(), line: raw.referenced.line() };
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Bool(value) => Value::Bool(value),
        Raw::Int(value) => Value::Int(value),
        Raw::Float(value) => Value::Float(value),
        Raw::Text(value) => Value::Text(value),
        Raw::List(items) => {
            Value::List(items.into_iter().enumerate().map(|(at, item)| place(item, source, &format!("{path}[{at}]"), problems)).collect())
        }
        Raw::Map(fields) => Value::Map(entries(fields, source, path, problems)),
    };
    Tree { origin, value }
}

fn entries(fields: Vec<(Spanned<String>, Spanned<Raw>)>, source: &Arc<str>, path: &str, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::with_capacity(fields.len());
    for (key, value) in fields {
        let origin = Origin { source: source.clone(), line: key.referenced.line() };
        let path = join(path, &key.value);
        let value = place(value, source, &path, problems);
        match entries.iter().find(|entry| entry.key == key.value) {
            Some(first) => problems.push(Problem {
                what: format!("is set twice, first at line {}", first.origin.line),
                origin,
                field: path,
                fix: "keep one of them".into(),
            }),
            None => entries.push(Entry { key: key.value, origin, value }),
        }
    }
    entries
}

/// `parent.key`
pub(super) fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") }
}

/// A value as the parser gives it, before it is told where it is.
enum Raw {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }
    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Int(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        // Nothing in the configuration is that large: any such number is out of range where it is read.
        Ok(i64::try_from(value).map_or(Raw::Float(value as f64), Raw::Int))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Float(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut fields = Vec::new();
        while let Some(key) = map.next_key()? {
            fields.push((key, map.next_value()?));
        }
        Ok(Raw::Map(fields))
    }
}
