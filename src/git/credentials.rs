//! How Egret proves who it is, and how a server proves who it is.
//!
//! Files are read when they are needed, not once: a rotated secret is used at the next connection.
//! Deliberately absent: secrets on the command line, Git's credential helpers (they run programs), key passphrases.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
pub use crate::secret::Secret;

/// Where the secrets are. Every part is optional; the default is what a person's own `ssh` would use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// A private SSH key without a passphrase. None: the SSH agent, if there is one.
    pub ssh_key: Option<PathBuf>,
    /// None: `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`.
    pub known_hosts: Option<PathBuf>,
    /// For https: a file with a token, or with the password that goes with `user`.
    pub password: Option<PathBuf>,
    /// For https: who the password is of. None: a name that the hosts accept with a token.
    pub user: Option<String>,
}

impl Credentials {
    /// What the password file holds, without the line's end that editors put there.
    pub(super) fn read_password(&self) -> Result<Option<Secret>> {
        self.password
            .as_deref()
            .map(|path| Ok(Secret::new(read(path)?.trim_end_matches(['\r', '\n']).to_owned())))
            .transpose()
    }

    /// The text of the `known_hosts` files that apply, for somebody with that home. A default file that is not there knows nobody; one that was named must be
    /// there.
    pub(super) fn read_known_hosts(&self, home: Option<&Path>) -> Result<String> {
        if let Some(path) = &self.known_hosts {
            return read(path);
        }
        let home = home.map(|home| home.join(".ssh/known_hosts"));
        let files = home.into_iter().chain([PathBuf::from("/etc/ssh/ssh_known_hosts")]);
        Ok(files.filter_map(|path| fs::read_to_string(path).ok()).collect::<Vec<_>>().join("\n"))
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::Credential { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_must_be_there_and_its_path_is_named() {
        let missing = PathBuf::from("/nonexistent/token");
        let credentials =
            Credentials { password: Some(missing.clone()), known_hosts: Some(missing), ..Credentials::default() };
        for error in [credentials.read_password().err(), credentials.read_known_hosts(None).err()] {
            let error = error.expect("there is no such file");
            assert_eq!(error.to_string(), "cannot read the credential file /nonexistent/token");
        }
    }
}
