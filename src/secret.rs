//! A text that is never shown: tokens, passwords, proxies with a password in them.
//!
//! Deliberately absent: where secrets come from, and wiping them from memory. Whoever reads this process's memory reads the files too.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that is never shown. It is serialised for the pipe to Git's worker, and for nothing else.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for whoever it is meant for.
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
