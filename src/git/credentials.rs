//! The files of Egret's credentials for a Git server, and of the SSH host keys that it trusts.
//!
//! Files are read for each connection, so that a rotated secret is used at the next. Git's credential helpers are not supported, because
//! they run programs, and keys with a passphrase are not, because no user is there to type it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};
pub use crate::secret::Secret;

/// Where the secrets are. Every part is optional; the default is that of `ssh`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// A private SSH key without a passphrase. None: the SSH agent, if there is one.
    pub ssh_key: Option<PathBuf>,
    /// None: `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`.
    pub known_hosts: Option<PathBuf>,
    /// For https: a file with a token, or with the password of `user`.
    pub password: Option<PathBuf>,
    /// For https: the user of the password. None: `git`, since forges accept any name with a token.
    pub user: Option<String>,
}

impl Credentials {
    /// The content of the password file, without the newline that editors add.
    pub(super) fn read_password(&self) -> Result<Option<Secret>> {
        self.password
            .as_deref()
            .map(|path| Ok(Secret::new(read(path)?.trim_end_matches(['\r', '\n']).to_owned())))
            .transpose()
    }

    /// The text of the `known_hosts` files, for a user with this home. A default file may be missing; one that was named must exist.
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
