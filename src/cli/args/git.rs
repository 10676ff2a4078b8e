//! How Git reaches the policy repository: credentials, authorities, proxy, limits, and a GitHub App.
//!
//! The exchange with GitHub is in `forge::app`, the transport in `git`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::output::Failure;
use super::duration;
use super::github_app::AppIdentity;
use crate::forge::app::GitHubApp;
use crate::git::access::{Access, ClientCertificate, TransferLimits};
use crate::git::credentials::{Credentials, Secret};
use crate::git::source::{Insecure, Source};
use crate::https;

/// Options by their present name, with the name and the environment variable that they had before. Both keep working.
pub(in crate::cli) const FORMER_NAMES: &[(&str, &str, &str)] = &[
    ("git-ssh-key", "ssh-key", "EGRET_SSH_KEY"),
    ("git-known-hosts", "known-hosts", "EGRET_KNOWN_HOSTS"),
    ("git-password-file", "password-file", "EGRET_PASSWORD_FILE"),
    ("git-ca-file", "ca-file", "EGRET_CA_FILE"),
    ("git-client-certificate", "client-certificate", "EGRET_CLIENT_CERTIFICATE"),
    ("git-client-key", "client-key", "EGRET_CLIENT_KEY"),
];

/// Options of Git and of a GitHub App.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "GitHub App")]
pub(in crate::cli) struct GitArgs {
    /// Read and write the repository as this GitHub App: its id or client id. Its tokens are sent to its own host only.
    #[arg(long, value_name = "ID", env = "EGRET_GITHUB_APP_ID", requires = "github_app_key_file")]
    github_app_id: Option<String>,
    /// A file with the App's private key in PEM, as GitHub issues it.
    #[arg(long, value_name = "FILE", env = "EGRET_GITHUB_APP_KEY_FILE", requires = "github_app_id")]
    github_app_key_file: Option<PathBuf>,
    /// The number of the App's installation [default: looked up by the repository].
    #[arg(long, value_name = "NUMBER", env = "EGRET_GITHUB_APP_INSTALLATION", requires = "github_app_id")]
    github_app_installation: Option<u64>,
    /// GitHub's API [default: https://api.github.com for github.com, https://HOST/api/v3 for another host].
    #[arg(long, value_name = "URL", env = "EGRET_GITHUB_API", requires = "github_app_id")]
    github_api: Option<String>,
    #[command(flatten)]
    transport: TransportArgs,
}

/// Options of Git alone.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Git")]
#[expect(clippy::struct_field_names, reason = "the options bear the prefix")]
struct TransportArgs {
    /// The user for HTTPS.
    #[arg(long, value_name = "NAME", env = "EGRET_GIT_USER")]
    git_user: Option<String>,
    /// A file with a token or password for HTTPS.
    #[arg(long, value_name = "FILE", env = "EGRET_GIT_PASSWORD_FILE")]
    git_password_file: Option<PathBuf>,
    /// The certificate authorities of the HTTPS server, in PEM [default: the system's].
    #[arg(long, value_name = "FILE", env = "EGRET_GIT_CA_FILE")]
    git_ca_file: Option<PathBuf>,
    /// A client certificate for an HTTPS server that requests one, in PEM; read anew for each connection.
    #[arg(long, value_name = "FILE", env = "EGRET_GIT_CLIENT_CERTIFICATE", requires = "git_client_key")]
    git_client_certificate: Option<PathBuf>,
    /// The client certificate's private key, in PEM without a passphrase.
    #[arg(long, value_name = "FILE", env = "EGRET_GIT_CLIENT_KEY", requires = "git_client_certificate")]
    git_client_key: Option<PathBuf>,
    /// An HTTP proxy for HTTPS, http://[user:password@]host:port [default: none; HTTPS_PROXY and NO_PROXY are not read].
    #[arg(long, value_name = "URL", env = "EGRET_GIT_PROXY", hide_env_values = true)]
    git_proxy: Option<String>,
    /// A private SSH key without a passphrase.
    #[arg(long, value_name = "FILE", env = "EGRET_GIT_SSH_KEY")]
    git_ssh_key: Option<PathBuf>,
    /// Host keys of SSH servers [default: ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts].
    #[arg(long, value_name = "FILE", env = "EGRET_GIT_KNOWN_HOSTS")]
    git_known_hosts: Option<PathBuf>,
    /// How long a server may take to list its branches.
    #[arg(long, value_name = "DURATION", env = "EGRET_GIT_CONNECT_TIMEOUT", default_value = "30s", value_parser = duration)]
    git_connect_timeout: Duration,
    /// How long a server may be silent in the middle of a fetch.
    #[arg(long, value_name = "DURATION", env = "EGRET_GIT_IDLE_TIMEOUT", default_value = "30s", value_parser = duration)]
    git_idle_timeout: Duration,
    /// How long a fetch or a push may take; each 64 KiB received extend it by a second.
    #[arg(long, value_name = "DURATION", env = "EGRET_GIT_TIMEOUT", default_value = "1m", value_parser = duration)]
    git_timeout: Duration,
    /// How far replicas of the repository may be behind each other: a branch that goes back to an older commit is taken as it is after this
    /// time. A repository on this machine has none.
    #[arg(long, value_name = "DURATION", env = "EGRET_GIT_MAX_LAG", default_value = "2m", value_parser = duration)]
    git_max_lag: Duration,
    /// The largest fetch that is accepted, in MiB.
    #[arg(long, value_name = "MIB", env = "EGRET_GIT_MAX_SIZE", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    git_max_size: u32,
}

/// A policy repository: its address, and the credentials for it.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct Repository<'a> {
    pub(in crate::cli) address: &'a str,
    pub(in crate::cli) git: &'a GitArgs,
}

impl Repository<'_> {
    /// The address, read.
    pub(in crate::cli) fn source(&self) -> Result<Source, Failure> {
        Source::parse(self.address, Insecure::Refuse).map_err(|error| {
            let hint = error.hint();
            Failure::new(error, hint)
        })
    }

    /// The certificate authorities, where they are named.
    pub(in crate::cli) fn ca_file(&self) -> Option<PathBuf> {
        self.git.transport.git_ca_file.clone()
    }

    /// The proxy.
    pub(in crate::cli) fn proxy(&self) -> Option<Secret> {
        self.git.transport.git_proxy.clone().map(Secret::new)
    }

    fn identity(&self) -> AppIdentity {
        AppIdentity {
            id: self.git.github_app_id.clone(),
            key_file: self.git.github_app_key_file.clone(),
            installation: self.git.github_app_installation,
            api: self.git.github_api.clone(),
        }
    }

    /// The GitHub App for a project, if there is one.
    pub(in crate::cli) fn app(
        &self,
        https: https::ClientOptions,
        project: &str,
    ) -> Result<Option<Arc<GitHubApp>>, Failure> {
        self.identity().app(&self.source()?, https, Some(project))
    }

    /// How far replicas may be behind each other.
    pub(in crate::cli) fn max_lag(&self) -> Result<Duration, Failure> {
        let local = self.source()?.is_local().is_some();
        Ok(if local { Duration::ZERO } else { self.git.transport.git_max_lag })
    }

    /// Credentials, authorities, proxy and limits.
    pub(in crate::cli) fn access(&self) -> Result<Access, Failure> {
        let git = &self.git.transport;
        let access = Access {
            ca_file: self.ca_file(),
            client_certificate: git
                .git_client_certificate
                .clone()
                .zip(git.git_client_key.clone())
                .map(|(certificate, key)| ClientCertificate { certificate, key }),
            proxy: self.proxy(),
            limits: TransferLimits {
                connect: git.git_connect_timeout,
                idle: git.git_idle_timeout,
                total: git.git_timeout,
                max_bytes: u64::from(git.git_max_size) << 20,
                ..TransferLimits::default()
            },
            ..Access::from(Credentials {
                ssh_key: git.git_ssh_key.clone(),
                known_hosts: git.git_known_hosts.clone(),
                password: git.git_password_file.clone(),
                user: git.git_user.clone(),
            })
        };
        self.identity().sign_in(&self.source()?, access)
    }
}
