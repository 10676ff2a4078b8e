//! Options that several commands share: the repository, the cluster, the node.
//!
//! Deliberately absent: options of one command alone.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::github_app::AppOptions;
use super::output::Failure;
use crate::core::admission::ChangeWindows;
use crate::core::diagnostic::Severity;
use crate::core::labels::keys::KeyPattern;
use crate::core::name::NodeName;
use crate::core::policy::check::windows_file;
use crate::core::signature::Require;
use crate::forge::app::GitHubApp;
use crate::git::access::{Access, ClientCertificate, TransferLimits};
use crate::git::credentials::{Credentials, Secret};
use crate::git::signature::SignatureFlags;
use crate::git::source::{Insecure, Source};
use crate::https;
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::reconcile::gitops::webhook;
use crate::telemetry;

/// Which repository, and how to get in.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct RepositoryOptions {
    /// The policy repository: a path, file://, https://, ssh:// or user@host:path.
    #[arg(long, value_name = "REPO", env = "EGRET_REPO", default_value = ".")]
    pub(super) repo: String,
    /// A private SSH key without a passphrase.
    #[arg(long, value_name = "FILE", env = "EGRET_SSH_KEY")]
    ssh_key: Option<PathBuf>,
    /// Host keys of SSH servers; ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts otherwise.
    #[arg(long, value_name = "FILE", env = "EGRET_KNOWN_HOSTS")]
    known_hosts: Option<PathBuf>,
    /// A file with a token or password for HTTPS.
    #[arg(long, value_name = "FILE", env = "EGRET_PASSWORD_FILE")]
    password_file: Option<PathBuf>,
    /// The user for HTTPS.
    #[arg(long, value_name = "NAME", env = "EGRET_GIT_USER")]
    git_user: Option<String>,
    /// The authorities that an HTTPS server's certificate may be by, in PEM; the system's otherwise.
    #[arg(long, value_name = "FILE", env = "EGRET_CA_FILE")]
    ca_file: Option<PathBuf>,
    /// A certificate for an HTTPS server that asks for one, in PEM; read anew for each connection.
    #[arg(long, value_name = "FILE", env = "EGRET_CLIENT_CERTIFICATE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// Its private key, in PEM without a passphrase.
    #[arg(long, value_name = "FILE", env = "EGRET_CLIENT_KEY", requires = "client_certificate")]
    client_key: Option<PathBuf>,
    /// An HTTP proxy for HTTPS, http://[user:password@]host:port; none otherwise: HTTPS_PROXY and NO_PROXY are not read.
    #[arg(long, value_name = "URL", env = "EGRET_GIT_PROXY", hide_env_values = true)]
    git_proxy: Option<String>,
    /// How long a Git server may take to list its branches, in seconds.
    #[arg(long, value_name = "SECONDS", env = "EGRET_GIT_CONNECT_TIMEOUT", default_value_t = 30.0, value_parser = seconds)]
    git_connect_timeout: f64,
    /// How long a Git server may be silent in the middle of a fetch, in seconds.
    #[arg(long, value_name = "SECONDS", env = "EGRET_GIT_IDLE_TIMEOUT", default_value_t = 30.0, value_parser = seconds)]
    git_idle_timeout: f64,
    /// How long a fetch or a push may take, in seconds; each 64 KiB that arrive give a second more.
    #[arg(long, value_name = "SECONDS", env = "EGRET_GIT_TIMEOUT", default_value_t = 60.0, value_parser = seconds)]
    git_timeout: f64,
    /// The most that one fetch may bring, in MiB.
    #[arg(long, value_name = "MIB", env = "EGRET_GIT_MAX_SIZE", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65536))]
    git_max_size: u32,
    /// A GitHub App that the repository is read and written as: its id or client id. Its tokens go to its own host alone.
    #[arg(long, value_name = "ID", env = "EGRET_GITHUB_APP_ID", requires = "github_app_key_file")]
    github_app_id: Option<String>,
    /// A file with the App's private key in PEM, as GitHub gives it.
    #[arg(long, value_name = "FILE", env = "EGRET_GITHUB_APP_KEY_FILE", requires = "github_app_id")]
    github_app_key_file: Option<PathBuf>,
    /// The number of the App's installation; asked for unless it is given.
    #[arg(long, value_name = "NUMBER", env = "EGRET_GITHUB_APP_INSTALLATION", requires = "github_app_id")]
    github_app_installation: Option<u64>,
    /// GitHub's API: https://api.github.com for github.com, https://HOST/api/v3 for another host, unless it is given.
    #[arg(long, value_name = "URL", env = "EGRET_GITHUB_API", requires = "github_app_id")]
    github_api: Option<String>,
}

impl RepositoryOptions {
    fn app_options(&self) -> AppOptions {
        AppOptions {
            id: self.github_app_id.clone(),
            key_file: self.github_app_key_file.clone(),
            installation: self.github_app_installation,
            api: self.github_api.clone(),
        }
    }

    /// The repository.
    pub(super) fn source(&self) -> Result<Source, Failure> {
        Source::parse(&self.repo, Insecure::Refuse).map_err(|error| {
            let hint = error.hint();
            Failure::new(error, hint)
        })
    }

    /// The authorities that a certificate may be by, where they are named.
    pub(super) fn ca_file(&self) -> Option<PathBuf> {
        self.ca_file.clone()
    }

    /// The proxy.
    pub(super) fn proxy(&self) -> Option<Secret> {
        self.git_proxy.clone().map(Secret::new)
    }

    /// The GitHub App for a project, if there is one.
    pub(super) fn app(
        &self,
        source: &Source,
        https: https::ClientOptions,
        project: &str,
    ) -> Result<Option<Arc<GitHubApp>>, Failure> {
        self.app_options().app(source, https, Some(project))
    }

    /// How to get in.
    pub(super) fn access(&self) -> Result<Access, Failure> {
        let access = Access {
            ca_file: self.ca_file.clone(),
            client_certificate: self
                .client_certificate
                .clone()
                .zip(self.client_key.clone())
                .map(|(certificate, key)| ClientCertificate { certificate, key }),
            proxy: self.git_proxy.clone().map(Secret::new),
            limits: TransferLimits {
                connect: Duration::from_secs_f64(self.git_connect_timeout),
                idle: Duration::from_secs_f64(self.git_idle_timeout),
                total: Duration::from_secs_f64(self.git_timeout),
                max_bytes: u64::from(self.git_max_size) << 20,
                ..TransferLimits::default()
            },
            ..Access::from(Credentials {
                ssh_key: self.ssh_key.clone(),
                known_hosts: self.known_hosts.clone(),
                password: self.password_file.clone(),
                user: self.git_user.clone(),
            })
        };
        self.app_options().sign_in(&self.source()?, access)
    }
}

/// What is followed, by whatever runs on.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct FollowingOptions {
    #[command(flatten)]
    pub(super) repository: RepositoryOptions,
    #[command(flatten)]
    signatures: SignatureOptions,
    /// A private SSH key without a passphrase that report commits are signed with.
    #[arg(long, value_name = "FILE", env = "EGRET_SIGNING_KEY")]
    pub(super) signing_key: Option<PathBuf>,
    /// The branch that policies are read from; the repository's default branch unless it is given.
    #[arg(long, value_name = "NAME", env = "EGRET_BRANCH")]
    branch: Option<String>,
    #[command(flatten)]
    admission: AdmissionOptions,
    #[command(flatten)]
    labels: LabelOptions,
}

impl FollowingOptions {
    /// For a cluster, asked every `poll` seconds.
    pub(super) fn following(&self, cluster: &str, poll: f64) -> Result<TrackedRepository, Failure> {
        Ok(TrackedRepository {
            source: self.repository.source()?,
            branch: self.branch.clone(),
            access: self.repository.access()?,
            signatures: self.signatures.flags(),
            windows: self.admission.windows()?,
            label_keys: self.labels.keys(),
            cluster: cluster.to_owned(),
            poll: Duration::from_secs_f64(poll),
        })
    }
}

/// Whose signature a commit must have to come into force.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct SignatureOptions {
    /// Demand that commits are signed: the one that comes into force, or every one that comes in with it. egret.yaml can demand more,
    /// and never less.
    #[arg(long, value_name = "WHICH", env = "EGRET_REQUIRE_SIGNED", ignore_case = true)]
    require_signed: Option<RequireSigned>,
    /// The SSH keys that count, in OpenSSH's format of allowed_signers. Those of egret.yaml do not count then.
    #[arg(long, value_name = "FILE", env = "EGRET_ALLOWED_SIGNERS")]
    allowed_signers: Option<PathBuf>,
    /// The OpenPGP keys that count, armored. Those of egret.yaml do not count then.
    #[arg(long = "openpgp-keys", value_name = "FILE", env = "EGRET_OPENPGP_KEYS")]
    openpgp_keys: Option<PathBuf>,
}

/// Of which commits a signature is demanded.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum RequireSigned {
    /// Of the one that comes into force.
    Head,
    /// Of every one that comes in with it.
    Every,
}

impl SignatureOptions {
    /// What the flags demand.
    pub(super) fn flags(&self) -> SignatureFlags {
        SignatureFlags {
            require: self.require_signed.map(|which| match which {
                RequireSigned::Head => Require::Head,
                RequireSigned::Every => Require::Every,
            }),
            allowed_signers: self.allowed_signers.clone(),
            openpgp_keys: self.openpgp_keys.clone(),
        }
    }
}

/// Whom to listen to who says that somebody pushed.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct WebhookOptions {
    /// Listen to a forge's webhook at http://ADDR:PORT/webhook; polling goes on beside it.
    #[arg(long, value_name = "ADDR:PORT", env = "EGRET_WEBHOOK", requires = "webhook_secret_file")]
    webhook: Option<SocketAddr>,
    /// A file with the webhook's secret; several lines are several secrets.
    #[arg(long, value_name = "FILE", env = "EGRET_WEBHOOK_SECRET_FILE")]
    webhook_secret_file: Option<PathBuf>,
}

impl WebhookOptions {
    /// Where, and who is believed; none where nobody is listened to.
    pub(super) fn options(&self) -> Option<webhook::WebhookOptions> {
        let (listen, secret_file) = (self.webhook?, self.webhook_secret_file.clone()?);
        Some(webhook::WebhookOptions { listen, secret_file })
    }
}

/// How to look at what runs on.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ServingOptions {
    /// Serve /metrics, /healthz and /readyz over HTTP at this address; nothing is served unless it is given.
    #[arg(long, value_name = "ADDR:PORT", env = "EGRET_LISTEN")]
    pub(super) listen: Option<SocketAddr>,
    /// Log JSON, an object a line.
    #[arg(long, env = "EGRET_LOG_JSON")]
    log_json: bool,
}

impl ServingOptions {
    /// Begins to log.
    pub(super) fn log(&self) {
        telemetry::start(if self.log_json { telemetry::Form::Json } else { telemetry::Form::Text });
    }
}

/// When commits may come into force.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct AdmissionOptions {
    /// A file with what `changeWindows` of egret.yaml may have. It counts in its place, whatever is pushed.
    #[arg(long, value_name = "FILE", env = "EGRET_CHANGE_WINDOWS")]
    change_windows: Option<PathBuf>,
}

impl AdmissionOptions {
    /// The windows, if they are given.
    pub(super) fn windows(&self) -> Result<Option<ChangeWindows>, Failure> {
        let Some(path) = &self.change_windows else { return Ok(None) };
        let name = path.to_string_lossy();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::new(format!("read the change windows {name}: {error}"), None))?;
        windows_file(&name, &text).map(Some).map_err(|found| {
            let first = found.into_iter().find(|one| one.severity == Severity::Error);
            let hint = first.as_ref().and_then(|one| one.hint.clone());
            let what = first.map_or_else(
                || name.clone().into_owned(),
                |one| format!("{name}:{}:{}: {}", one.start.line, one.start.column, one.message),
            );
            Failure::new(format!("read the change windows {what}"), hint)
        })
    }
}

/// Which labels of nodes Egret may write.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct LabelOptions {
    /// Labels of nodes that NodeLabels may have, as `egress-gw,example.com/*`: a `*` at the end stands for the rest of the name. egret.yaml
    /// can allow fewer, and never more. All but Kubernetes' own unless it is given.
    #[arg(long, value_name = "KEYS", env = "EGRET_ALLOWED_LABEL_KEYS", value_delimiter = ',', value_parser = KeyPattern::parse)]
    allowed_label_keys: Option<Vec<KeyPattern>>,
}

impl LabelOptions {
    /// The keys, if they are given.
    pub(super) fn keys(&self) -> Option<Vec<KeyPattern>> {
        self.allowed_label_keys.clone()
    }
}

/// Which cluster and node.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct NodeOptions {
    /// Manifests of nodes, namespaces and pods: a file or folder, as `kubectl get nodes,namespaces,pods -A -o yaml` prints them.
    #[arg(long, value_name = "PATH", env = "EGRET_CLUSTER")]
    pub(super) cluster: PathBuf,
    /// The cluster's name: its entry in egret.yaml and its reports branch.
    #[arg(long, value_name = "NAME", env = "EGRET_CLUSTER_NAME", default_value = "default", value_parser = cluster_name)]
    pub(super) cluster_name: String,
    /// This node's name in the cluster; the host's name unless it is given.
    #[arg(long, value_name = "NAME", env = "EGRET_NODE")]
    node: Option<String>,
    /// Where the mirror of the repository and the node's memory are kept.
    #[arg(long, value_name = "DIR", env = "EGRET_STATE_DIR", default_value = "/var/lib/egret")]
    pub(super) state_dir: PathBuf,
}

/// A cluster's name stands in a branch's name.
pub(super) fn cluster_name(text: &str) -> Result<String, String> {
    crate::core::name::ObjectName::parse(text).map(|name| name.to_string()).map_err(|error| error.to_string())
}

impl NodeOptions {
    /// The node.
    pub(super) fn node(&self) -> Result<NodeName, Failure> {
        node_name(self.node.as_deref())
    }
}

/// A node's name as it was given, or the host's.
pub(super) fn node_name(given: Option<&str>) -> Result<NodeName, Failure> {
    let name = match given {
        Some(name) => name.to_owned(),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_owned())
            .map_err(|error| Failure::new(error, Some("give the node's name by --node".to_owned())))?,
    };
    NodeName::parse(&name).map_err(|error| Failure::new(format!("`{name}` is no node: {error}"), None))
}

/// A number of seconds.
pub(super) fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.1 to 86400".to_owned()),
    }
}
