//! Reads a mapping field by field into typed settings. What is asked for is what is known: everything else is an unknown
//! field, so there is no second list of names to fall behind.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::duration;
use super::hints;
use super::problem::Problem;
use super::tree::{Entry, Tree, Value, join};

/// Collects the mistakes of one configuration.
pub(super) type Problems = RefCell<Vec<Problem>>;

/// One mapping, or its absence.
pub(super) struct Section<'a> {
    path: String,
    tree: Option<&'a Tree>,
    entries: &'a [Entry],
    asked: RefCell<Vec<&'static str>>,
    problems: &'a Problems,
    wrong: Cell<bool>,
}

/// A value with its place.
pub(super) struct Field<'a> {
    pub(super) path: String,
    pub(super) tree: &'a Tree,
    problems: &'a Problems,
}

impl<'a> Section<'a> {
    pub(super) fn new(path: String, tree: Option<&'a Tree>, problems: &'a Problems) -> Self {
        let mut section = Self { path, tree, entries: &[], asked: RefCell::new(Vec::new()), problems, wrong: Cell::new(false) };
        match tree.map(|tree| &tree.value) {
            None | Some(Value::Null) => {}
            Some(Value::Map(entries)) => section.entries = entries,
            Some(other) => {
                section.wrong.set(true);
                let what = format!("expected a mapping, found {}", other.describe());
                if let Some(tree) = tree {
                    section.field_at(String::new(), tree).problem(what, "write the settings below it, indented");
                }
            }
        }
        section
    }

    fn field_at(&self, key: String, tree: &'a Tree) -> Field<'a> {
        let path = if key.is_empty() { self.path.clone() } else { join(&self.path, &key) };
        Field { path, tree, problems: self.problems }
    }

    /// A field that is there and not null.
    pub(super) fn field(&self, key: &'static str) -> Option<Field<'a>> {
        self.asked.borrow_mut().push(key);
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        match entry.value.value {
            Value::Null => None,
            _ => Some(self.field_at(key.to_owned(), &entry.value)),
        }
    }

    /// A field that was asked for before, or will be.
    pub(super) fn peek(&self, key: &str) -> Option<Field<'a>> {
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        Some(self.field_at(key.to_owned(), &entry.value))
    }

    /// A mapping within this one.
    pub(super) fn section(&self, key: &'static str) -> Section<'a> {
        let field = self.field(key);
        Section::new(join(&self.path, key), field.map(|field| field.tree), self.problems)
    }

    /// All fields of a mapping whose keys are free.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> + '_ {
        self.entries.iter().map(|entry| (entry.key.as_str(), self.field_at(entry.key.clone(), &entry.value)))
    }

    /// Reports a field that is not as the other ones need it: at its own place, or at the mapping's where it is not there.
    pub(super) fn conflict(&self, key: &str, what: &str, fix: &str) {
        let at = self.entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value).or(self.tree);
        if let Some(tree) = at.filter(|_| !self.wrong.get()) {
            self.field_at(key.to_owned(), tree).problem(what, fix);
        }
    }

    /// Ends the reading: what was not asked for is unknown.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for entry in self.entries.iter().filter(|entry| !asked.contains(&entry.key.as_str())) {
            self.problems.borrow_mut().push(Problem {
                origin: entry.origin.clone(),
                field: join(&self.path, &entry.key),
                what: "is not a known setting".into(),
                fix: hints::unknown(&entry.key, &asked, self.path.is_empty()),
            });
        }
    }

    pub(super) fn bool(&self, key: &'static str, into: &mut bool) {
        if let Some(value) = self.field(key).and_then(|field| field.bool()) {
            *into = value;
        }
    }

    pub(super) fn text(&self, key: &'static str, into: &mut String) {
        if let Some(value) = self.field(key).and_then(|field| field.text()) {
            value.clone_into(into);
        }
    }

    pub(super) fn path(&self, key: &'static str, into: &mut PathBuf) {
        if let Some(value) = self.field(key).and_then(|field| field.path()) {
            *into = value;
        }
    }

    pub(super) fn optional_path(&self, key: &'static str, into: &mut Option<PathBuf>) {
        if let Some(value) = self.field(key).and_then(|field| field.path()) {
            *into = Some(value);
        }
    }

    pub(super) fn ip(&self, key: &'static str, into: &mut IpAddr) {
        if let Some(value) = self.field(key).and_then(|field| field.ip()) {
            *into = value;
        }
    }

    /// An address with its port; empty text for none.
    pub(super) fn address(&self, key: &'static str, into: &mut Option<SocketAddr>) {
        let Some(field) = self.field(key) else { return };
        match field.text().map(|text| (text, text.parse())) {
            Some(("", _)) => *into = None,
            Some((_, Ok(address))) => *into = Some(address),
            Some((text, Err(_))) => {
                field.problem(format!("{text:?} is not an address with a port"), "write one such as 127.0.0.1:10256 or [::]:10256");
            }
            None => {}
        }
    }

    pub(super) fn number<T: TryFrom<i64>>(&self, key: &'static str, range: RangeInclusive<i64>, into: &mut T) {
        if let Some(value) = self.field(key).and_then(|field| field.number(range)) {
            *into = value;
        }
    }

    pub(super) fn duration(&self, key: &'static str, at_least: Duration, into: &mut Duration) {
        if let Some(value) = self.field(key).and_then(|field| field.duration(at_least)) {
            *into = value;
        }
    }

    /// A list of values of one kind.
    pub(super) fn list<T>(&self, key: &'static str, read: impl Fn(&Field<'a>) -> Option<T>, into: &mut Vec<T>) {
        if let Some(field) = self.field(key) {
            *into = field.items().iter().filter_map(read).collect();
        }
    }

    /// A mapping from free names to text.
    pub(super) fn texts(&self, key: &'static str, into: &mut BTreeMap<String, String>) {
        let section = self.section(key);
        if section.tree.is_some() {
            *into = section.all().filter_map(|(name, field)| Some((name.to_owned(), field.scalar()?))).collect();
        }
    }
}

impl<'a> Field<'a> {
    pub(super) fn problem(&self, what: impl Into<String>, fix: impl Into<String>) {
        self.problems.borrow_mut().push(Problem {
            origin: self.tree.origin.clone(),
            field: self.path.clone(),
            what: what.into(),
            fix: fix.into(),
        });
    }

    fn expected<T>(&self, kind: &str, fix: &str) -> Option<T> {
        self.problem(format!("expected {kind}, found {}", self.tree.value.describe()), fix);
        None
    }

    pub(super) fn section(&self) -> Section<'a> {
        Section::new(self.path.clone(), Some(self.tree), self.problems)
    }

    pub(super) fn bool(&self) -> Option<bool> {
        match self.tree.value {
            Value::Bool(value) => Some(value),
            _ => self.expected("a boolean", "write true or false, without quotes"),
        }
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        match &self.tree.value {
            Value::Text(value) => Some(value),
            Value::Bool(_) | Value::Int(_) | Value::Float(_) => self.expected("text", "put the value in quotes"),
            _ => self.expected("text", "write a single value"),
        }
    }

    /// Text or a number: quantities and label values are written as either.
    pub(super) fn scalar(&self) -> Option<String> {
        match &self.tree.value {
            Value::Text(value) => Some(value.clone()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(value.to_string()),
            Value::Bool(_) => self.expected("text", "put the value in quotes"),
            _ => self.expected("text", "write a single value"),
        }
    }

    pub(super) fn number<T: TryFrom<i64>>(&self, range: RangeInclusive<i64>) -> Option<T> {
        let fix = format!("write a number from {} to {}", range.start(), range.end());
        let Value::Int(value) = self.tree.value else {
            return self.expected("a whole number", &fix);
        };
        match T::try_from(value) {
            Ok(number) if range.contains(&value) => Some(number),
            _ => {
                self.problem(format!("{value} is out of range"), fix);
                None
            }
        }
    }

    pub(super) fn path(&self) -> Option<PathBuf> {
        let path = PathBuf::from(self.text()?);
        if path.is_absolute() {
            return Some(path);
        }
        self.problem("is not an absolute path", "write the whole path, from / on");
        None
    }

    pub(super) fn ip(&self) -> Option<IpAddr> {
        let text = self.text()?;
        let parsed = text.trim().parse().ok();
        if parsed.is_none() {
            self.problem(format!("{text:?} is not an IP address"), "write an address such as 10.0.0.5 or fd00::5");
        }
        parsed
    }

    /// One or two addresses, written with a comma as the kubelet's flag, or as a list.
    pub(super) fn parts(&self) -> Vec<String> {
        match &self.tree.value {
            Value::List(_) => self.items().iter().filter_map(|item| item.text().map(str::to_owned)).collect(),
            _ => self.text().map(|text| text.split(',').map(|part| part.trim().to_owned()).collect()).unwrap_or_default(),
        }
    }

    pub(super) fn duration(&self, at_least: Duration) -> Option<Duration> {
        let fix = "write a number with a unit, such as 10s, 500ms or 1m30s";
        let text = match &self.tree.value {
            Value::Text(text) => text,
            _ => return self.expected("a duration", fix),
        };
        match duration::parse(text) {
            Some(value) if value >= at_least => Some(value),
            Some(_) => {
                self.problem(format!("{text} is too short"), format!("write at least {}", duration::format(at_least)));
                None
            }
            None => {
                self.problem(format!("{text:?} is not a duration"), fix);
                None
            }
        }
    }

    pub(super) fn items(&self) -> Vec<Field<'a>> {
        match &self.tree.value {
            Value::List(items) => items
                .iter()
                .enumerate()
                .map(|(at, tree)| Field { path: format!("{}[{at}]", self.path), tree, problems: self.problems })
                .collect(),
            _ => {
                self.problem(
                    format!("expected a list, found {}", self.tree.value.describe()),
                    "write [a, b], or one item per line after a dash",
                );
                Vec::new()
            }
        }
    }

    /// A field of this mapping.
    pub(super) fn child(&self, key: &str) -> Option<Field<'a>> {
        let tree = self.tree.field(key)?;
        Some(Field { path: join(&self.path, key), tree, problems: self.problems })
    }
}
