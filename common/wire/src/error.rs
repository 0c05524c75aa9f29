//! What can go wrong on either way, with enough context to find the field.

use thiserror::Error;

/// The bytes are not this message at this version.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{message} v{version}, byte {position}: {kind}")]
pub struct DecodeError {
    pub message: &'static str,
    pub version: i16,
    /// Bytes of the frame that had been read.
    pub position: usize,
    pub kind: DecodeErrorKind,
}

#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DecodeErrorKind {
    #[error("this version does not exist")]
    UnsupportedVersion,
    #[error("{wanted} bytes are needed, {left} are left")]
    Truncated { wanted: usize, left: usize },
    #[error("{field}: null is not allowed")]
    UnexpectedNull { field: &'static str },
    #[error("{field}: length {length} is not allowed")]
    InvalidLength { field: &'static str, length: i64 },
    #[error("{field}: {claimed} elements do not fit into the {left} bytes that are left")]
    TooManyElements { field: &'static str, claimed: usize, left: usize },
    #[error("{field}: not UTF-8")]
    InvalidUtf8 { field: &'static str },
    #[error("a variable-length number is longer than five bytes")]
    InvalidVarint,
    #[error("tag {tag} does not exist in this version")]
    UnexpectedTag { tag: u32 },
    #[error("a tagged field is {left} bytes longer than its value")]
    TagTooLong { left: usize },
    #[error("{left} bytes follow the message")]
    TrailingBytes { left: usize },
}

/// The value cannot be said at this version.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{message} v{version}: {kind}")]
pub struct EncodeError {
    pub message: &'static str,
    pub version: i16,
    pub kind: EncodeErrorKind,
}

#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum EncodeErrorKind {
    #[error("this version does not exist")]
    UnsupportedVersion,
    #[error("{field} is set, which this version lacks")]
    FieldNotInVersion { field: &'static str },
    #[error("{field}: null is not allowed")]
    UnexpectedNull { field: &'static str },
    #[error("{field}: {length} is longer than the protocol can say")]
    TooLong { field: &'static str, length: usize },
    #[error("tag {tag} is written twice or out of order")]
    TagOrder { tag: u32 },
}
