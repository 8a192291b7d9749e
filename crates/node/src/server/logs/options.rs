//! The query of `/containerLogs`: `v1.PodLogOptions` as the kubelet decodes and validates it.

use jiff::{SignedDuration, Timestamp};

use super::line::Stream;

/// What to send of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogOptions {
    pub(super) follow: bool,
    pub(super) previous: bool,
    pub(super) timestamps: bool,
    /// Older lines are left out.
    pub(super) since: Option<Timestamp>,
    pub(super) tail_lines: Option<u64>,
    pub(super) limit_bytes: Option<u64>,
    /// Only this stream; `None` is both.
    pub(super) stream: Option<Stream>,
}

/// Why a query is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadQuery {
    /// A value does not have the type of its parameter.
    Undecodable,
    /// The values are out of range or exclude each other.
    Invalid,
}

impl LogOptions {
    pub(super) fn from_query(query: &str, now: Timestamp) -> Result<Self, BadQuery> {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let first = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        // Any value but these two is true, an empty one too.
        let boolean = |name| first(name).is_some_and(|v| v != "0" && !v.eq_ignore_ascii_case("false"));
        let integer = |value: Option<&str>| value.map(|v| v.parse::<i64>().map_err(|_| BadQuery::Undecodable)).transpose();
        let tail = match first("tail").filter(|t| !t.is_empty()) {
            Some("all") => None,
            Some(tail) => Some(tail),
            None => first("tailLines"),
        };
        let tail_lines = integer(tail)?;
        let limit_bytes = integer(first("limitBytes"))?;
        let since_seconds = integer(first("sinceSeconds"))?;
        let since_time = first("sinceTime").map(since_time).transpose()?;
        let stream = match first("stream") {
            None | Some("All") => None,
            Some("Stdout") => Some(Stream::Stdout),
            Some("Stderr") => Some(Stream::Stderr),
            Some(_) => return Err(BadQuery::Invalid),
        };
        if tail_lines.is_some_and(|n| n < 0)
            || limit_bytes.is_some_and(|n| n < 1)
            || since_seconds.is_some_and(|n| n < 1)
            || (since_seconds.is_some() && since_time.is_some())
            || (stream.is_some() && tail_lines.is_some())
        {
            return Err(BadQuery::Invalid);
        }
        let since = since_seconds.map(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN));
        Ok(Self {
            follow: boolean("follow"),
            previous: boolean("previous"),
            timestamps: boolean("timestamps"),
            since: since.or(since_time),
            tail_lines: tail_lines.map(i64::unsigned_abs),
            limit_bytes: limit_bytes.map(i64::unsigned_abs),
            stream,
        })
    }
}

fn since_time(value: &str) -> Result<Timestamp, BadQuery> {
    match value {
        "" | "null" => Ok(Timestamp::MIN),
        value => value.parse().map_err(|_| BadQuery::Undecodable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<LogOptions, BadQuery> {
        LogOptions::from_query(query, "2026-01-01T00:01:00Z".parse().unwrap())
    }

    #[test]
    fn every_parameter_is_read() {
        assert_eq!(parse(""), Ok(LogOptions::default()));
        let all = "follow=true&previous=1&timestamps=&sinceSeconds=60&tailLines=5&limitBytes=9&stream=All";
        let expected = LogOptions {
            follow: true,
            previous: true,
            timestamps: true,
            since: Some("2026-01-01T00:00:00Z".parse().unwrap()),
            tail_lines: Some(5),
            limit_bytes: Some(9),
            stream: None,
        };
        assert_eq!(parse(all), Ok(expected));
        let since = parse("sinceTime=2025-12-31T00%3A00%3A00%2B01%3A00&stream=Stderr").unwrap();
        assert_eq!(since.since, Some("2025-12-30T23:00:00Z".parse().unwrap()));
        assert_eq!(since.stream, Some(Stream::Stderr));
        assert!(!parse("follow=False&timestamps=0").unwrap().follow);
    }

    #[test]
    fn the_old_name_of_tail_lines_works() {
        assert_eq!(parse("tail=3").unwrap().tail_lines, Some(3));
        assert_eq!(parse("tail=all&tailLines=3").unwrap().tail_lines, None);
        assert_eq!(parse("tail=&tailLines=3").unwrap().tail_lines, Some(3));
    }

    #[test]
    fn wrong_values_are_told_apart_from_wrong_types() {
        for query in ["tailLines=x", "limitBytes=", "sinceSeconds=1.5", "sinceTime=yesterday"] {
            assert_eq!(parse(query), Err(BadQuery::Undecodable), "{query}");
        }
        for query in [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=0",
            "sinceSeconds=1&sinceTime=2025-12-31T00:00:00Z",
            "stream=Stdout&tailLines=1",
            "stream=stdout",
        ] {
            assert_eq!(parse(query), Err(BadQuery::Invalid), "{query}");
        }
    }
}
