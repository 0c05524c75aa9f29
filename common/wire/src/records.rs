//! Record batches as a message carries them: opaque here, parsed by the crate of the batch format.

use bytes::Bytes;

/// The value of a field of type `records`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Records {
    /// The batches themselves, one after another. Decoding always yields this: a slice of the frame.
    Bytes(Bytes),
    /// This many bytes lie elsewhere, as in a log file. The encoder writes the length and leaves a hole, which whoever
    /// sends the frame fills.
    Outside(usize),
}

impl Records {
    /// The size in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Outside(len) => *len,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes, if they are here.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Outside(_) => None,
        }
    }

    /// The bytes, if they are here.
    pub fn into_bytes(self) -> Option<Bytes> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Outside(_) => None,
        }
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}
