//! Text in quotation marks as Go writes it: part of the kubelet's messages and of downward API files.

/// As Go's `strconv.Quote` (and `%q`).
pub fn go_quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            ' '..='~' => out.push(c),
            '\0'..='\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            _ if printable(c) => out.push(c),
            '\u{10000}'.. => out.push_str(&format!("\\U{:08x}", u32::from(c))),
            _ => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// Rust's own table of printable characters is reachable only through `escape_debug`; a letter before the character keeps
/// combining marks, which Go prints, from being escaped.
fn printable(c: char) -> bool {
    let text: String = ['a', c].into_iter().collect();
    text.escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_is_go_s() {
        for (text, quoted) in [
            ("sh -c true", r#""sh -c true""#),
            ("a\"b\\c'd", r#""a\"b\\c'd""#),
            ("a\nb\t\u{1b}", r#""a\nb\t\x1b""#),
            ("é\u{200b}", r#""é\u200b""#),
        ] {
            assert_eq!(go_quoted(text), quoted);
        }
    }
}
