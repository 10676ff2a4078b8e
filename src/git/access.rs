//! How a repository on the network is accessed: credentials, trusted authorities, proxy, and limits of time and size.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::credential_provider::CredentialProvider;
use super::credentials::{Credentials, Secret};

/// Everything about the access to a repository that its address does not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Where the secrets are.
    pub credentials: Credentials,
    /// Provides the password for https, in the place of a file.
    pub credential_provider: Option<CredentialProvider>,
    /// The authorities that an HTTPS server's certificate may be signed by, in PEM. None: the system's.
    pub ca_file: Option<PathBuf>,
    /// The client certificate for an HTTPS server that asks for one.
    pub client_certificate: Option<ClientCertificate>,
    /// An HTTP proxy for HTTPS, `http://[user:password@]host:port`. None: no proxy. The environment (`HTTPS_PROXY`, `NO_PROXY`) is not
    /// read, see decision 0014.
    pub proxy: Option<Secret>,
    /// Limits of time and size.
    pub limits: TransferLimits,
    /// The program whose hidden subcommand `git-worker` is the worker process.
    pub program: PathBuf,
}

/// A client certificate. Both files are read for each exchange, so that a renewed one is used at the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificate {
    /// The certificate in PEM, followed by those that lead to an authority that the server trusts.
    pub certificate: PathBuf,
    /// Its private key in PEM, without a passphrase.
    pub key: PathBuf,
}

/// Limits of time and size of an exchange. They do not apply to a repository on this machine, which no network can stall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferLimits {
    /// Until the server has listed its references, name lookup and handshakes included.
    pub connect: Duration,
    /// Between two heartbeats of a fetch.
    pub idle: Duration,
    /// For the whole exchange. Bytes that arrive extend it, see `min_rate`.
    pub total: Duration,
    /// Bytes a second: `total` grows by a second for every so many bytes received.
    pub min_rate: u64,
    /// The most bytes that one fetch may bring. The worker's memory is limited to twice that plus 512 MiB.
    pub max_bytes: u64,
    /// How many commits of a branch's history are fetched; 0: all.
    pub depth: u32,
}

impl Default for TransferLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            total: Duration::from_mins(1),
            min_rate: 64 << 10,
            max_bytes: 512 << 20,
            depth: 0,
        }
    }
}

impl From<Credentials> for Access {
    fn from(credentials: Credentials) -> Self {
        Self {
            credentials,
            credential_provider: None,
            ca_file: None,
            client_certificate: None,
            proxy: None,
            limits: TransferLimits::default(),
            // The running program, also when its file was replaced since.
            program: PathBuf::from("/proc/self/exe"),
        }
    }
}

impl Default for Access {
    fn default() -> Self {
        Credentials::default().into()
    }
}
