//! Findings for people.

use std::fmt::Write as _;

use super::{Finding, Severity};

/// One paragraph per finding, and a summary.
pub fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    let width = findings.iter().map(|finding| finding.id.len()).max().unwrap_or(0);
    for finding in findings {
        let Finding { id, severity, what, cause, fix, fixable, repair: _ } = finding;
        let mark = match severity {
            Severity::Ok => "ok   ",
            Severity::Warn => "warn ",
            Severity::Error => "ERROR",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{mark}  {id:width$}  {what}");
        let indent = " ".repeat(width + 9);
        if let Some(cause) = cause {
            let _ = writeln!(text, "{indent}because: {cause}");
        }
        if let Some(fix) = fix {
            let _ = writeln!(text, "{indent}fix: {fix}{}", if *fixable { "   [--fix does it]" } else { "" });
        }
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let _ = match (count(Severity::Error), count(Severity::Warn)) {
        (0, 0) => writeln!(text, "\nThis machine can be a node."),
        (0, warnings) => writeln!(text, "\nThis machine can be a node; warnings: {warnings}."),
        (errors, warnings) => writeln!(text, "\nThis machine cannot be a node yet; errors: {errors}, warnings: {warnings}."),
    };
    text
}
