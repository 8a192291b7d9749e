/// Why a file of variables cannot be parsed. Lines are counted from 1; contents are not repeated, they may be secret.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvFileError {
    /// The file is not text.
    #[error("invalid environment variable file: not valid UTF-8")]
    NotText,
    /// A line has no `=`.
    #[error("invalid environment variable format at line {line}: missing '='")]
    NoEquals {
        /// The line.
        line: usize,
    },
    /// A line starts with `=`.
    #[error("invalid environment variable format at line {line}: empty variable name")]
    NoName {
        /// The line.
        line: usize,
    },
    /// There is a space before `=`.
    #[error("invalid environment variable format at line {line}: whitespace before '=' is not allowed")]
    Space {
        /// The line.
        line: usize,
    },
    /// The value does not start with a quote.
    #[error("invalid environment variable format at line {line}: value must be enclosed in single quotes")]
    NoQuote {
        /// The line.
        line: usize,
    },
    /// Something other than a comment follows the value.
    #[error("invalid environment variable format at line {line}: unexpected content after closing quote")]
    Trailing {
        /// The line.
        line: usize,
    },
    /// The quote is not closed.
    #[error("invalid environment variable format starting at line {line}: unclosed single quote")]
    Unclosed {
        /// The line with the opening quote.
        line: usize,
    },
}

/// The value of `key` in a file of `KEY='value'` lines; empty if there is none. Values are in single quotes, taken literally, and
/// may span lines. What comes after the key is not looked at.
///
/// # Errors
/// The first line, before the key's, that has another shape.
pub fn env_file_value(content: &[u8], key: &str) -> Result<String, EnvFileError> {
    let text = std::str::from_utf8(content).map_err(|_| EnvFileError::NotText)?;
    let blank = [' ', '\t'];
    let mut lines = (1..).zip(text.lines());
    while let Some((line, text)) = lines.next() {
        let text = text.trim_start_matches(blank);
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let (name, value) = text.split_once('=').ok_or(EnvFileError::NoEquals { line })?;
        let trimmed = name.trim_end_matches(blank);
        if trimmed.is_empty() {
            return Err(EnvFileError::NoName { line });
        }
        if trimmed != name {
            return Err(EnvFileError::Space { line });
        }
        if value.starts_with(blank) {
            // As in a shell, `KEY= 'x'` sets KEY to nothing.
            if name == key {
                return Ok(String::new());
            }
            continue;
        }
        let mut rest = value.strip_prefix('\'').ok_or(EnvFileError::NoQuote { line })?;
        let (mut result, mut at) = (String::new(), line);
        let after = loop {
            if let Some((last, after)) = rest.split_once('\'') {
                result.push_str(last);
                break after.trim_start_matches(blank);
            }
            result.push_str(rest);
            result.push('\n');
            (at, rest) = lines.next().ok_or(EnvFileError::Unclosed { line })?;
        };
        if !after.is_empty() && !after.starts_with('#') {
            return Err(EnvFileError::Trailing { line: at });
        }
        if name == key {
            return Ok(result);
        }
    }
    Ok(String::new())
}
