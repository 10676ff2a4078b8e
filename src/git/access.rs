//! How a repository elsewhere is reached: who we are, whom we believe, and how long we put up with it.
//!
//! Deliberately absent: talking to it (`smart`), and counting the time (`overseer`).

use std::path::PathBuf;
use std::time::Duration;

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
    /// An HTTP proxy for HTTPS, `http://[user:password@]host:port`. None: no proxy, whatever the environment says.
    pub proxy: Option<Secret>,
    /// How much time and room a repository is given.
    pub limits: Limits,
    /// The program whose hidden subcommand `git-worker` talks to the network.
    pub program: PathBuf,
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
