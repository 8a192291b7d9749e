//! Tolerant readers for what Go's encoder writes: `null` for empty lists and maps, the year 1 for "never", and fields whose
//! type changed between versions.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

/// `null` and a missing field are the type's default.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A time; Go's zero time (year 1) is `None`. Takes RFC 3339 or seconds since 1970.
pub(crate) fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Text(String),
        Seconds(i64),
    }
    let time = match Option::<Raw>::deserialize(deserializer)? {
        None => None,
        Some(Raw::Text(text)) if text.is_empty() => None,
        Some(Raw::Text(text)) => Some(text.parse::<Timestamp>().map_err(serde::de::Error::custom)?),
        Some(Raw::Seconds(seconds)) => Some(Timestamp::from_second(seconds).map_err(serde::de::Error::custom)?),
    };
    // A container cannot have been started before 1970: what is smaller is "never".
    Ok(time.filter(|t| t.as_second() > 0))
}

/// A list of words, also given as one string (`Entrypoint` before Podman 5.0) or `null`.
pub(crate) fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        List(Vec<String>),
        One(String),
    }
    Ok(match Option::<Raw>::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Raw::List(list)) => list,
        Some(Raw::One(one)) if one.is_empty() => Vec::new(),
        Some(Raw::One(one)) => vec![one],
    })
}

/// A name, also given as a number (`StopSignal` before Podman 5.0).
pub(crate) fn name_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Raw {
        Name(String),
        Number(i64),
    }
    Ok(match Option::<Raw>::deserialize(deserializer)? {
        None => None,
        Some(Raw::Name(name)) if name.is_empty() => None,
        Some(Raw::Name(name)) => Some(name),
        Some(Raw::Number(number)) => Some(number.to_string()),
    })
}

/// Percent-encodes `text` for a path segment or a query value.
pub(crate) fn encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// The `filters` query value: `{"label":["k=v", …]}`.
pub(crate) fn label_filters(labels: &[(&str, &str)]) -> Option<String> {
    if labels.is_empty() {
        return None;
    }
    let labels: Vec<String> =
        labels.iter().map(|(label, value)| if value.is_empty() { (*label).to_owned() } else { format!("{label}={value}") }).collect();
    Some(encode(&serde_json::json!({ "label": labels }).to_string()))
}
