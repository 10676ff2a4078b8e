//! How a repository elsewhere is reached: who we are, whom we believe, and how long we put up with it.
//!
//! Deliberately absent: talking to it (`smart`), and counting the time (`overseer`).

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::credentials::{Credentials, Secret};
use super::tokens::Giver;

/// Everything about the way to a repository that its address does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Where the secrets are.
    pub credentials: Credentials,
    /// Who gives a password for https in place of them.
    pub giver: Option<Giver>,
    /// The authorities that an HTTPS server's certificate may be by, in PEM. None: the system's.
    pub ca_file: Option<PathBuf>,
    /// What we prove with who we are before any request, to an HTTPS server that asks for it. None: nothing.
    pub client_certificate: Option<ClientCertificate>,
    /// An HTTP proxy for HTTPS, `http://[user:password@]host:port`. None: no proxy, whatever the environment says: there is
    /// one repository, so that nothing has to be told apart as `NO_PROXY` does.
    pub proxy: Option<Secret>,
    /// How much time and room a repository is given.
    pub limits: Limits,
    /// The program whose hidden subcommand `git-worker` talks to the network.
    pub program: PathBuf,
}

/// A certificate of our own. Both files are read anew for each conversation: one that was renewed is used at the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificate {
    /// The certificate in PEM, and behind it those that lead to an authority the server knows.
    pub certificate: PathBuf,
    /// Its private key in PEM, without a passphrase.
    pub key: PathBuf,
}

/// How much time and room a repository is given. A local one is not held to it: nothing there waits for anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Until it has listed its branches, name lookup and greeting included.
    pub connect: Duration,
    /// Between two signs of life while something is fetched.
    pub idle: Duration,
    /// For the whole conversation. Bytes that arrive add to it, see `slowest`.
    pub total: Duration,
    /// So many bytes buy a second more. A server that trickles buys next to nothing.
    pub slowest: u64,
    /// The most bytes that one fetch may bring. Memory is held to twice that and a little.
    pub most: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            total: Duration::from_mins(1),
            slowest: 64 << 10,
            most: 512 << 20,
        }
    }
}

impl From<Credentials> for Access {
    fn from(credentials: Credentials) -> Self {
        Self {
            credentials,
            giver: None,
            ca_file: None,
            client_certificate: None,
            proxy: None,
            limits: Limits::default(),
            // The very program that runs, also when its file was replaced since.
            program: PathBuf::from("/proc/self/exe"),
        }
    }
}

impl Default for Access {
    fn default() -> Self {
        Credentials::default().into()
    }
}
