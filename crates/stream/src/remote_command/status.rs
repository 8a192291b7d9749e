//! How a remote command ended, in the words of the protocol.

use serde::Serialize;

/// The result of a remote command: the one message on its error stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Exit code 0; also the end of an attach, which has no code.
    Success,
    /// The process ended with this code, not 0. One killed by a signal has 128 + its number, as runtimes report it.
    ExitCode(i32),
    /// The command could not be run, or not to its end. The text is shown to the user after "Internal error occurred: ".
    Error(String),
}

/// `metav1.Status` as far as it is sent, its fields in Go's order.
#[derive(Serialize)]
struct Message<'a> {
    metadata: Empty,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Details<'a> {
    causes: [Cause<'a>; 1],
}

#[derive(Serialize)]
struct Cause<'a> {
    /// Named `Type` in Go.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    message: String,
}

impl Status {
    /// For versions 4 and 5: a `metav1.Status`. Clients take a missing one for success.
    #[must_use]
    pub fn to_json(&self) -> String {
        let text = self.to_text();
        let (status, reason, details, code) = match self {
            Self::Success => ("Success", None, None, None),
            Self::ExitCode(code) => {
                let cause = Cause { reason: Some("ExitCode"), message: code.to_string() };
                ("Failure", Some("NonZeroExitCode"), Some(Details { causes: [cause] }), None)
            }
            Self::Error(message) => {
                let cause = Cause { reason: None, message: message.clone() };
                ("Failure", Some("InternalError"), Some(Details { causes: [cause] }), Some(500))
            }
        };
        let message = Message { metadata: Empty {}, status, message: text, reason, details, code };
        // Strings and numbers always serialise; should they not, the client must not be told of success.
        serde_json::to_string(&message).unwrap_or_else(|_| r#"{"metadata":{},"status":"Failure","code":500}"#.to_owned())
    }

    /// For versions 1 to 3: plain text, and nothing at all for success.
    #[must_use]
    pub fn to_text(&self) -> Option<String> {
        match self {
            Self::Success => None,
            Self::ExitCode(code) => Some(format!("command terminated with non-zero exit code: exit status {code}")),
            Self::Error(message) => Some(format!("Internal error occurred: {message}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_that_of_go() {
        let table = [
            (Status::Success, r#"{"metadata":{},"status":"Success"}"#),
            (
                Status::ExitCode(42),
                r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: exit status 42","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#,
            ),
            (
                Status::Error("no such \"file\"".into()),
                r#"{"metadata":{},"status":"Failure","message":"Internal error occurred: no such \"file\"","reason":"InternalError","details":{"causes":[{"message":"no such \"file\""}]},"code":500}"#,
            ),
        ];
        for (status, json) in table {
            assert_eq!(status.to_json(), json);
        }
    }
}
