use std::fmt::Write as _;

use super::{Field, SECTIONS, State};

const HEAD: &str = "# Which fields of a pod this node supports

Generated from the table that the node judges pods by; `UPDATE_DOCS=1 cargo test -p kube-pet-core supported` writes it again.

| state | means |
| --- | --- |
| yes | has its effect |
| elsewhere | has no effect on a node: another component acts on it, or there is nothing to do |
| not yet | should have an effect and has none: the pod runs, with a Warning event that names the field |
| refused | the pod is not run: it fails with the reason `PodFeatureUnsupported` and a message that names the field |

Every field of the API is here; where an object is not `yes`, that is said of all its fields at once. Where a state holds for some values only, they stand
behind the field, and all others are supported.
";

/// The content of `docs/supported.md`.
pub fn markdown() -> String {
    let mut out = HEAD.to_owned();
    for section in &SECTIONS {
        let roots: Vec<String> = section.roots.iter().map(|root| format!("`{root}`")).collect();
        let _ = write!(out, "\n## {}\nBelow {}.\n\n| field | state | |\n| --- | --- | --- |\n", section.title, roots.join(" and "));
        for field in section.fields {
            out.push_str(&line(field));
        }
    }
    out
}

fn line(field: &Field) -> String {
    let Field { path, state, note, only } = field;
    let state = match state {
        State::Supported => "yes",
        State::ControlPlane => "elsewhere",
        State::NotYet => "not yet",
        State::Refused => "refused",
    };
    let condition = only.as_ref().map(|only| format!(" ({})", only.text)).unwrap_or_default();
    format!("| `{path}`{condition} | {state} | {note} |\n")
}
