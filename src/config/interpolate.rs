//! `%(key)s` inside values, as ConfigParser's basic interpolation does it, and what a value means when
//! it is read: quotes are taken off, `None` and nothing mean unset.

use thiserror::Error;

/// How deep keys may refer to keys that refer to keys (ConfigParser's limit).
const MAX_DEPTH: u32 = 10;

/// How long a value may grow: keys that repeat keys could otherwise fill the memory.
const MAX_LENGTH: usize = 64 * 1024;

/// A `%` that cannot be resolved.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum InterpolationError {
    /// A lone `%`.
    #[error("'%' must be written '%%', or begin a reference '%(option)s'")]
    Syntax,
    /// A reference to an option that has no value.
    #[error("'%({0})s' refers to an option that is not set")]
    Unknown(String),
    /// References that lead in a circle, or too far.
    #[error("'%({0})s' refers to itself, or through more than {MAX_DEPTH} options")]
    TooDeep(String),
    /// A value that grew beyond all use.
    #[error("the value grows beyond {MAX_LENGTH} bytes")]
    TooLong,
}

/// Replaces every `%(key)s` by what `lookup` says of `key` (itself not yet interpolated), and `%%` by
/// `%`.
pub fn interpolate(
    value: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, InterpolationError> {
    let mut result = String::with_capacity(value.len());
    expand(value, lookup, 1, &mut result)?;
    Ok(result)
}

/// The meaning of a value: without surrounding double quotes; `None` or nothing is unset.
pub fn meaning(value: &str) -> Option<&str> {
    let value = value.trim();
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    (!inner.is_empty() && inner != "None").then_some(inner)
}

fn expand(
    value: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    depth: u32,
    result: &mut String,
) -> Result<(), InterpolationError> {
    let mut rest = value;
    while let Some(at) = rest.find('%') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            result.push('%');
            rest = after;
        } else {
            let reference = rest.strip_prefix('(').and_then(|r| r.split_once(")s"));
            let (key, after) = reference.ok_or(InterpolationError::Syntax)?;
            let key = key.to_lowercase();
            if depth == MAX_DEPTH {
                return Err(InterpolationError::TooDeep(key));
            }
            let inner = lookup(&key).ok_or(InterpolationError::Unknown(key))?;
            expand(meaning(&inner).unwrap_or_default(), lookup, depth + 1, result)?;
            rest = after;
        }
        if result.len() > MAX_LENGTH {
            return Err(InterpolationError::TooLong);
        }
    }
    result.push_str(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(key: &str) -> Option<String> {
        match key {
            "name" => Some("pg".into()),
            "barman_home" => Some("\"/srv/barman\"".into()),
            "backup_directory" => Some("%(barman_home)s/%(name)s".into()),
            "circle" => Some("%(circle)s".into()),
            "bomb" => Some("%(name)s".repeat(60_000)),
            _ => None,
        }
    }

    fn run(value: &str) -> Result<String, InterpolationError> {
        interpolate(value, &lookup)
    }

    #[test]
    fn references_are_followed_and_their_quotes_taken_off() {
        assert_eq!(run("%(backup_directory)s/wals").unwrap(), "/srv/barman/pg/wals");
        assert_eq!(run("100%% of %(NAME)s").unwrap(), "100% of pg");
        assert_eq!(run("plain").unwrap(), "plain");
    }

    #[test]
    fn bad_references_are_errors() {
        assert_eq!(run("50%").unwrap_err(), InterpolationError::Syntax);
        assert_eq!(run("%(name)").unwrap_err(), InterpolationError::Syntax);
        assert_eq!(run("%(nme)s").unwrap_err(), InterpolationError::Unknown("nme".into()));
        assert_eq!(run("%(circle)s").unwrap_err(), InterpolationError::TooDeep("circle".into()));
        assert_eq!(run("%(bomb)s").unwrap_err(), InterpolationError::TooLong);
    }

    #[test]
    fn none_and_nothing_are_unset() {
        for unset in ["", "  ", "None", "\"\"", "\"None\""] {
            assert_eq!(meaning(unset), None, "{unset:?}");
        }
        assert_eq!(meaning(" \"a b\" "), Some("a b"));
        assert_eq!(meaning("\"a"), Some("\"a"));
        assert_eq!(meaning("none"), Some("none"));
    }
}
