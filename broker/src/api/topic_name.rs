//! Kafka's rules for the name of a topic.

/// The longest that a directory `<topic>-<partition>` leaves room for.
const LENGTH_MAX: usize = 249;

/// Whether a topic may be called so (Kafka's `Topic.validate`).
pub fn is_valid(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && name != "." && name != ".." && name.len() <= LENGTH_MAX && name.bytes().all(allowed)
}

/// What is wrong with a name, in Kafka's words; `None` if a topic may be called so.
pub fn problem(name: &str) -> Option<String> {
    let problem = match name {
        _ if is_valid(name) => return None,
        "" => "the empty string is not allowed".to_owned(),
        "." | ".." => format!("'{name}' is not allowed"),
        _ if name.len() > LENGTH_MAX => {
            format!("the length of '{name}' is longer than the max allowed length {LENGTH_MAX}")
        }
        _ => format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"),
    };
    Some(format!("Topic name is invalid: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::{is_valid, problem};

    #[test]
    fn names_are_judged_as_kafka_does() {
        let long = "a".repeat(250);
        for (name, valid) in [
            ("a", true),
            ("a.b_c-D9", true),
            ("", false),
            (".", false),
            ("..", false),
            ("a b", false),
            ("ä", false),
            (&long, false),
        ] {
            assert_eq!(is_valid(name), valid, "{name}");
            assert_eq!(problem(name).is_none(), valid, "{name}");
        }
    }
}
