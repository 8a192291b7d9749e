//! A list of specs by their whole names, one a line, as `lab/conformance/` holds them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

/// Specs that belong together.
#[derive(Clone, Debug)]
pub struct SpecList {
    path: PathBuf,
    names: BTreeSet<String>,
}

impl SpecList {
    /// Reads a list; what follows a `#` at the start of a line is a comment.
    ///
    /// # Errors
    /// When the file cannot be read or names nothing.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let names: BTreeSet<String> =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect();
        ensure!(!names.is_empty(), "{} names no spec", path.display());
        Ok(Self { path: path.to_owned(), names })
    }

    /// Where it was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The regular expression, in Go's syntax, that matches these names and no others. ginkgo puts the suite's own name and a blank
    /// before them.
    pub fn expression(&self) -> String {
        let names: Vec<String> = self.names.iter().map(|name| escaped(name)).collect();
        format!("(^| )({})$", names.join("|"))
    }

    /// Whether each of them is among those that ran: one that was renamed must not go missing unseen.
    ///
    /// # Errors
    /// Which are not.
    pub fn check<'a>(&self, ran: impl Iterator<Item = &'a str>) -> Result<()> {
        let ran: BTreeSet<&str> = ran.collect();
        let missing: Vec<&str> = self.names.iter().map(String::as_str).filter(|name| !ran.contains(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        bail!("{}: {} of {} specs did not run: {}", self.path.display(), missing.len(), self.names.len(), missing.join("; "))
    }
}

fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 16);
    for character in name.chars() {
        if r"\.+*?()|[]{}^$".contains(character) {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> SpecList {
        SpecList { path: PathBuf::from("some.txt"), names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn names_are_matched_as_they_stand() {
        let list = list(&["[sig-network] DNS a.b (c) [Conformance]", "[sig-cli] d"]);
        assert_eq!(list.expression(), r"(^| )(\[sig-cli\] d|\[sig-network\] DNS a\.b \(c\) \[Conformance\])$");
        let expression = regex::Regex::new(&list.expression()).unwrap();
        assert!(expression.is_match("The suite [sig-cli] d") && !expression.is_match("[sig-cli] d too"));
    }

    #[test]
    fn a_spec_that_did_not_run_is_told() {
        let list = list(&["one", "two"]);
        list.check(["two", "one", "three"].into_iter()).unwrap();
        let error = list.check(["one"].into_iter()).unwrap_err().to_string();
        assert!(error.contains("1 of 2") && error.ends_with(": two"), "{error}");
    }
}
