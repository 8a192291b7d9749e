//! The parameters of a log query, with the kubelet's rules.

use std::fmt;

use jiff::Timestamp;

const MAX_SERVICES: usize = 4;
const MAX_SERVICE_LENGTH: usize = 256;
const MAX_TAIL_LINES: i64 = 100_000;
const MAX_PATTERN_LENGTH: usize = 4096;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Query {
    pub(super) services: Vec<String>,
    pub(super) files: Vec<String>,
    pub(super) options: Options,
}

/// Which part of a service's log.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Options {
    pub(super) since: Option<Timestamp>,
    pub(super) until: Option<Timestamp>,
    pub(super) tail_lines: Option<i64>,
    /// 0 is the current boot, -1 the one before it.
    pub(super) boot: Option<i64>,
    /// A regular expression of journalctl's.
    pub(super) pattern: String,
}

/// All that is wrong with a query.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Problems(Vec<String>);

impl Problems {
    fn invalid(&mut self, field: &str, value: impl fmt::Debug, why: &str) {
        self.0.push(format!("{field}: Invalid value: {value:?}: {why}"));
    }

    fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Problems {
    /// As Kubernetes joins errors.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => f.write_str(one),
            many => write!(f, "[{}]", many.join(", ")),
        }
    }
}

impl Query {
    /// None: nothing of a query is there, the request is for a file.
    pub(super) fn parse(query: &str) -> Result<Option<Self>, Problems> {
        let mut problems = Problems::default();
        let mut parsed = Self::default();
        let values: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let of = |name: &str| values.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect::<Vec<_>>();
        let first = |name: &str| of(name).first().copied().unwrap_or_default();
        let queries = of("query");
        for query in &queries {
            // A slash tells a file from a service.
            if query.contains(['/', '\\']) {
                parsed.files.push((*query).to_owned());
            } else if !query.trim().is_empty() {
                parsed.services.push((*query).to_owned());
            }
        }
        if !queries.is_empty() && parsed.files.is_empty() && parsed.services.is_empty() {
            problems.invalid("query", &queries, "may not be empty");
        }
        for (name, into) in [("sinceTime", &mut parsed.options.since), ("untilTime", &mut parsed.options.until)] {
            match first(name) {
                "" => {}
                text => match text.parse() {
                    Ok(time) => *into = Some(time),
                    Err(_) => problems.invalid(name, text, "invalid time format"),
                },
            }
        }
        for (name, into) in [("boot", &mut parsed.options.boot), ("tailLines", &mut parsed.options.tail_lines)] {
            match first(name) {
                "" => {}
                text => match text.parse() {
                    Ok(number) => *into = Some(number),
                    Err(_) => problems.invalid(name, text, "is not a number"),
                },
            }
        }
        first("pattern").clone_into(&mut parsed.options.pattern);
        problems.into_result()?;
        Ok((parsed != Self::default()).then_some(parsed))
    }

    /// Whether its parts go together and are within limits.
    pub(super) fn check(&self) -> Result<(), Problems> {
        let mut problems = Problems::default();
        let Self { services, files, options } = self;
        for service in services {
            if service.len() > MAX_SERVICE_LENGTH {
                problems.invalid("query", service, &format!("length must be less than {MAX_SERVICE_LENGTH}"));
            }
            if !service.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:@".contains(c)) {
                problems.invalid("query", service, "input contains unsupported characters");
            }
        }
        if services.len() > MAX_SERVICES {
            problems.0.push(format!("query: Too many: {}: must have at most {MAX_SERVICES} items", services.len()));
        }
        match (services.as_slice(), files.as_slice()) {
            ([], []) => problems.0.push("query: Required value: cannot be empty with options".to_owned()),
            ([_, ..], [_, ..]) => problems.invalid("query", (files, services), "cannot specify a file and service"),
            (_, [_, _, ..]) => problems.invalid("query", files, "cannot specify more than one file"),
            (_, [_]) if *options != Options::default() => problems.invalid("query", files, "cannot specify file with options"),
            _ => {}
        }
        let Options { since, until, tail_lines, boot, pattern } = options;
        if let (Some(since), Some(until)) = (since, until)
            && since > until
        {
            problems.invalid("untilTime", until.to_string(), "must be after `sinceTime`");
        }
        if boot.is_some_and(|boot| boot > 0) {
            problems.invalid("boot", boot.unwrap_or_default(), "must be less than 1");
        }
        if tail_lines.is_some_and(|lines| !(0..=MAX_TAIL_LINES).contains(&lines)) {
            problems.invalid("tailLines", tail_lines.unwrap_or_default(), &format!("must be between 0 and {MAX_TAIL_LINES}, inclusive"));
        }
        if pattern.len() > MAX_PATTERN_LENGTH || pattern.contains('\0') {
            problems.invalid("pattern", pattern, "is not a regular expression of reasonable length");
        }
        problems.into_result()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let parsed = |query: &str| Query::parse(query).map_err(|problems| problems.to_string());
        assert_eq!(parsed(""), Ok(None));
        assert_eq!(parsed("other=1"), Ok(None));
        let query = parsed("query=foo&query=%2Fbar.log&tailLines=3&boot=-1&pattern=a&sinceTime=2026-01-01T00:00:00Z").unwrap().unwrap();
        assert_eq!((query.services, query.files), (vec!["foo".to_owned()], vec!["/bar.log".to_owned()]));
        assert_eq!((query.options.tail_lines, query.options.boot, query.options.pattern.as_str()), (Some(3), Some(-1), "a"));
        assert_eq!(parsed("query=+"), Err(r#"query: Invalid value: [" "]: may not be empty"#.to_owned()));
        let two = parsed("tailLines=x&sinceTime=y").unwrap_err();
        assert!(two.starts_with('[') && two.contains("sinceTime") && two.contains("tailLines"), "{two}");
    }

    #[test]
    fn limits() {
        let table = [
            ("query=foo", ""),
            ("query=foo.service&query=a@b:c_d-e", ""),
            ("query=%2Fa", ""),
            ("query=foo%3Bbar", "unsupported characters"),
            ("query=--file%3Dx", "unsupported characters"),
            ("query=a&query=b&query=c&query=d&query=e", "Too many"),
            ("query=a&query=%2Fb", "a file and service"),
            ("query=%2Fa&query=%2Fb", "more than one file"),
            ("query=%2Fa&tailLines=1", "file with options"),
            ("tailLines=1", "cannot be empty with options"),
            ("query=a&tailLines=100001", "between 0 and 100000"),
            ("query=a&tailLines=-1", "between 0 and 100000"),
            ("query=a&boot=1", "less than 1"),
            ("query=a&sinceTime=2026-01-02T00:00:00Z&untilTime=2026-01-01T00:00:00Z", "must be after"),
            ("query=a&pattern=%00", "regular expression"),
        ];
        for (query, problem) in table {
            let checked = Query::parse(query).unwrap().unwrap().check().map_err(|problems| problems.to_string());
            match (checked, problem) {
                (Ok(()), "") => {}
                (Err(text), problem) if !problem.is_empty() && text.contains(problem) => {}
                (other, _) => panic!("{query}: {other:?}"),
            }
        }
    }
}
