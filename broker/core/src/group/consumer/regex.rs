//! Regular expressions that stand for topics, in RE2's syntax: resolved by the coordinator, kept with the group.
//!
//! Matching is linear in the topic's name, and an expression that would need much memory is refused.

use odradek_common::ErrorCode;
use regex::{Regex, RegexBuilder};

use super::Refusal;

/// A compiled expression takes no more.
const COMPILED_BYTES_MAX: usize = 1 << 20;

/// Matches whole names.
pub(super) fn compile(pattern: &str) -> Result<Regex, Refusal> {
    let build = |pattern: &str| RegexBuilder::new(pattern).size_limit(COMPILED_BYTES_MAX).build();
    let literal = unquoted(pattern);
    // By itself first: `a)|(b` must not become valid by what is put around it.
    build(&literal).and_then(|_| build(&format!("^(?:{literal})$"))).map_err(|error| {
        let why = match error {
            regex::Error::Syntax(_) => "its syntax is not that of RE2".to_owned(),
            regex::Error::CompiledTooBig(limit) => format!("compiled it would take more than {limit} bytes"),
            other => other.to_string(),
        };
        let message = format!("SubscribedTopicRegex `{pattern}` is not a valid regular expression: {why}.");
        Refusal::new(ErrorCode::InvalidRegularExpression, message)
    })
}

/// RE2 has `\Q...\E` for literal text, which the library here does not know.
fn unquoted(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some((before, quoted)) = split_quote(rest) {
        let (text, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
        out.push_str(before);
        out.push_str(&regex::escape(text));
        rest = after;
    }
    out.push_str(rest);
    out
}

/// What is before and behind the first `\Q` whose backslash is not itself escaped.
fn split_quote(pattern: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    while let Some(at) = pattern.get(from..)?.find('\\') {
        let at = from + at;
        let escaped = pattern.get(at + 1..)?.chars().next()?;
        if escaped == 'Q' {
            return Some((pattern.get(..at)?, pattern.get(at + 2..)?));
        }
        from = at + 1 + escaped.len_utf8();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::compile;

    #[test]
    fn names_are_matched_as_a_whole() {
        for (pattern, name, matches) in [
            ("foo", "foo", true),
            ("foo", "foo-1", false),
            ("foo.*", "foo-1", true),
            ("a|b", "b", true),
            ("a|b", "ab", false),
            ("(?i)FOO", "foo", true),
            (r"\Qa.b\E.*", "a.b-c", true),
            (r"\Qa.b\E.*", "axb-c", false),
            (r"\Qa.b", "a.b", true),
            (r"a\\Q", r"a\Q", true),
            ("", "", true),
            ("[[:alpha:]]+", "abc", true),
            ("^x.$", "xy", true),
        ] {
            let regex = compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error:?}"));
            assert_eq!(regex.is_match(name), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn what_is_wrong_or_too_large_is_refused() {
        for pattern in ["(", "a)|(b", "[", "*", "(?=x)", r"(a)\1", r"\", "((((x{1000}){1000}){1000}){1000})"] {
            let refusal = compile(pattern).expect_err(pattern);
            assert_eq!(refusal.code, odradek_common::ErrorCode::InvalidRegularExpression);
            assert!(refusal.message.contains(pattern), "{}", refusal.message);
        }
    }
}
