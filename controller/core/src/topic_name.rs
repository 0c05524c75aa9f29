//! Which names a topic may have (Kafka's `Topic.validate`).

use odradek_common::ErrorCode;
use odradek_metadata::Image;

use crate::error::ApiError;

/// Kafka's limit: the name is part of a directory's, with `-`, a number and `.<32 digits>-delete` after it.
pub const LENGTH_MAX: usize = 249;

/// Kafka's name for the metadata log, which is no topic here; clients that see one of this name take it for that.
pub const CLUSTER_METADATA: &str = "__cluster_metadata";

/// # Errors
/// INVALID_TOPIC_EXCEPTION with what is wrong.
pub fn check(name: &str) -> Result<(), ApiError> {
    let problem = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.len() > LENGTH_MAX {
        format!("the length of '{name}' is longer than the max allowed length {LENGTH_MAX}")
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
        format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")
    } else {
        return Ok(());
    };
    Err(ApiError::new(ErrorCode::InvalidTopicException, format!("Topic name is invalid: {problem}")))
}

/// Metrics write `.` as `_`, so two topics must not differ in that alone.
///
/// # Errors
/// INVALID_TOPIC_EXCEPTION with the other topic's name.
pub fn check_collision(image: &Image, name: &str) -> Result<(), ApiError> {
    match find_collision(image, name, 0) {
        Some(other) => {
            let message = format!("Topic '{name}' collides with existing topic: {other}");
            Err(ApiError::new(ErrorCode::InvalidTopicException, message))
        }
        None => Ok(()),
    }
}

/// Tries both characters in each place that has one of them, and follows only prefixes that some topic has: the cost is
/// by similar names, not by all.
fn find_collision(image: &Image, name: &str, from: usize) -> Option<String> {
    let ambiguous = name.bytes().skip(from).position(|byte| matches!(byte, b'.' | b'_'));
    let Some(at) = ambiguous.map(|distance| from + distance) else {
        return image.topic_id(name).map(|_| name.to_owned());
    };
    ["_", "."].into_iter().find_map(|character| {
        let mut candidate = name.to_owned();
        candidate.replace_range(at..=at, character);
        image.topic_names_with_prefix(&candidate[..=at]).next()?;
        find_collision(image, &candidate, at + 1)
    })
}
