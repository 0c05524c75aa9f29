//! Records as text: by a template, or as JSON, which can be read back.

pub mod json;
pub mod template;
