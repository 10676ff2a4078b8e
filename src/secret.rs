//! A text that is never printed or logged: tokens, passwords, proxy URLs with a password in them.
//!
//! It is not wiped from memory: a process that can read this one's memory can read the files as well.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A secret text. It is serialised only for the pipe to the Git worker process.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one place that has to send it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2".to_owned()))), "Some(***)");
    }
}
