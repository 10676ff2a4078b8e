//! Options that several commands share, each group under its heading in `--help`. Options of one command stand with it.

pub(super) mod git;
mod github_app;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;

pub(super) use self::git::{GitArgs, Repository};
use super::output::{Failure, Verbosity};
use crate::core::admission::ChangeWindows;
use crate::core::diagnostic::Severity;
use crate::core::labels::keys::KeyPattern;
use crate::core::name::NodeName;
use crate::core::policy::check::windows_file;
use crate::core::signature::Require;
use crate::git::signature::SignatureFlags;
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::reconcile::gitops::webhook;
use crate::serve::ui::UiOptions;
use crate::telemetry;

/// The heading of options for the form of results and logs.
pub(super) const OUTPUT: &str = "Output";

/// The heading of options that name the cluster and the node.
pub(super) const CLUSTER: &str = "Cluster";

/// The heading of options about commits: which are admitted, and how Egret's own are signed.
const COMMITS: &str = "Commits";

/// Which repository.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct RepoArgs {
    /// The policy repository: a path, file://, https://, ssh:// or user@host:path.
    #[arg(long, value_name = "REPO", env = "EGRET_REPO", default_value = ".")]
    pub(super) repo: String,
}

impl RepoArgs {
    /// With the credentials for it.
    pub(super) fn with<'a>(&'a self, git: &'a GitArgs) -> Repository<'a> {
        Repository { address: &self.repo, git }
    }
}

/// Which branch is followed, by processes that keep running.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct BranchArgs {
    /// The branch that policies are read from [default: the repository's default branch].
    #[arg(long, value_name = "NAME", env = "EGRET_BRANCH")]
    pub(super) branch: Option<String>,
}

/// Which commits are admitted, which labels they may set, and with which key reports are signed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = COMMITS)]
pub(super) struct FollowArgs {
    #[command(flatten)]
    admission: AdmissionArgs,
    /// A private SSH key without a passphrase that report commits are signed with.
    #[arg(long, value_name = "FILE", env = "EGRET_SIGNING_KEY")]
    pub(super) signing_key: Option<PathBuf>,
}

impl FollowArgs {
    /// A branch of a repository, for a cluster, polled at an interval.
    pub(super) fn following(
        &self,
        repository: Repository<'_>,
        branch: &BranchArgs,
        cluster: &str,
        poll: Duration,
    ) -> Result<TrackedRepository, Failure> {
        Ok(TrackedRepository {
            source: repository.source()?,
            branch: branch.branch.clone(),
            access: repository.access()?,
            signatures: self.admission.flags(),
            windows: self.admission.windows()?,
            label_keys: self.admission.labels.keys(),
            cluster: cluster.to_owned(),
            poll,
            max_lag: repository.max_lag()?,
        })
    }
}

/// Which commits take effect: signatures, change windows, labels of nodes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = COMMITS)]
pub(super) struct AdmissionArgs {
    /// Require that commits are signed: the one that takes effect (head), or every new one (every). egret.yaml can require more, never
    /// less.
    #[arg(long, value_name = "WHICH", env = "EGRET_REQUIRE_SIGNED", ignore_case = true)]
    require_signed: Option<RequireSigned>,
    /// The SSH keys that are accepted, in OpenSSH's format of allowed_signers. They replace those of egret.yaml.
    #[arg(long, value_name = "FILE", env = "EGRET_ALLOWED_SIGNERS")]
    allowed_signers: Option<PathBuf>,
    /// The OpenPGP keys that are accepted, armored. They replace those of egret.yaml.
    #[arg(long = "openpgp-keys", value_name = "FILE", env = "EGRET_OPENPGP_KEYS")]
    openpgp_keys: Option<PathBuf>,
    /// A file with the contents of egret.yaml's `changeWindows`. It replaces them, whatever is pushed.
    #[arg(long, value_name = "FILE", env = "EGRET_CHANGE_WINDOWS")]
    change_windows: Option<PathBuf>,
    #[command(flatten)]
    pub(super) labels: LabelArgs,
}

/// Which commits must be signed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum RequireSigned {
    /// The one that takes effect.
    Head,
    /// Every new one.
    Every,
}

impl AdmissionArgs {
    /// What the options require of signatures.
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

/// Webhooks of a forge that announce pushes.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Metrics, health and webhooks")]
pub(super) struct WebhookArgs {
    /// Accept a forge's webhook at http://ADDR:PORT/webhook; polling continues beside it.
    #[arg(long, value_name = "ADDR:PORT", env = "EGRET_WEBHOOK", requires = "webhook_secret_file")]
    webhook: Option<SocketAddr>,
    /// A file with the webhook's secret; several lines are several secrets.
    #[arg(long, value_name = "FILE", env = "EGRET_WEBHOOK_SECRET_FILE")]
    webhook_secret_file: Option<PathBuf>,
}

impl WebhookArgs {
    /// Address and secret; none where no webhook is accepted.
    pub(super) fn options(&self) -> Option<webhook::WebhookOptions> {
        let (listen, secret_file) = (self.webhook?, self.webhook_secret_file.clone()?);
        Some(webhook::WebhookOptions { listen, secret_file })
    }
}

/// The HTTP server for metrics and health.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Metrics, health and webhooks")]
pub(super) struct ServeArgs {
    /// Serve /metrics, /healthz and /readyz over HTTP at this address [default: nothing is served].
    #[arg(long, value_name = "ADDR:PORT", env = "EGRET_LISTEN")]
    pub(super) listen: Option<SocketAddr>,
}

/// The page for people.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Metrics, health and webhooks")]
pub(super) struct UiArgs {
    /// Serve a page for people over HTTP at this address: what egret status and egret explain say, drift and changes. It is read-only and has
    /// no password [default: nothing is served].
    #[arg(long, value_name = "ADDR:PORT", env = "EGRET_UI")]
    ui: Option<SocketAddr>,
    /// A name under which the page is reached, beside addresses and localhost; several are separated by commas.
    #[arg(long, value_name = "NAME", env = "EGRET_UI_HOST", value_delimiter = ',', requires = "ui")]
    ui_host: Vec<String>,
}

impl UiArgs {
    /// The page's address and names; none where it is not served.
    pub(super) fn options(&self) -> Option<UiOptions> {
        self.ui.map(|listen| UiOptions { listen, hosts: self.ui_host.clone() })
    }
}

/// Logs of a process that keeps running.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = OUTPUT)]
pub(super) struct LogArgs {
    /// Log JSON, one object per line.
    #[arg(long, env = "EGRET_LOG_JSON")]
    log_json: bool,
}

impl LogArgs {
    /// Starts the log at the level that was asked for.
    pub(super) fn start(&self, verbosity: &Verbosity) {
        let form = if self.log_json { telemetry::Form::Json } else { telemetry::Form::Text };
        telemetry::start(form, verbosity.level());
    }
}

/// Colours and the amount of messages, for every command.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = OUTPUT)]
pub(super) struct GlobalArgs {
    #[command(flatten)]
    pub(super) color: colorchoice_clap::Color,
    #[command(flatten)]
    pub(super) verbosity: Verbosity,
}

/// Which labels of nodes Egret may write.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct LabelArgs {
    /// The node labels that NodeLabels documents may set, as `egress-gw,example.com/*`; a `*` at the end matches the rest of the name.
    /// egret.yaml can allow fewer, never more [default: all but Kubernetes' own].
    #[arg(long, value_name = "KEYS", env = "EGRET_ALLOWED_LABEL_KEYS", value_delimiter = ',', value_parser = KeyPattern::parse)]
    allowed_label_keys: Option<Vec<KeyPattern>>,
}

impl LabelArgs {
    /// The keys, if they are given.
    pub(super) fn keys(&self) -> Option<Vec<KeyPattern>> {
        self.allowed_label_keys.clone()
    }
}

/// Which cluster and node.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = CLUSTER)]
pub(super) struct NodeArgs {
    /// Manifests of nodes, namespaces and pods: a file or folder, as `kubectl get nodes,namespaces,pods -A -o yaml` prints them. `plan`
    /// reads standard input for `-`.
    #[arg(long, value_name = "PATH", env = "EGRET_CLUSTER")]
    pub(super) cluster: PathBuf,
    /// The cluster's name: its entry in egret.yaml, and its reports branch.
    #[arg(long, value_name = "NAME", env = "EGRET_CLUSTER_NAME", default_value = "default", value_parser = cluster_name)]
    pub(super) cluster_name: String,
    /// This node's name in the cluster [default: the host's name].
    #[arg(long, value_name = "NAME", env = "EGRET_NODE")]
    node: Option<String>,
    /// Where the mirror of the repository and the node's state are stored.
    #[arg(long, value_name = "DIR", env = "EGRET_STATE_DIR", default_value = "/var/lib/egret")]
    pub(super) state_dir: PathBuf,
}

/// A cluster's name stands in a branch's name.
pub(super) fn cluster_name(text: &str) -> Result<String, String> {
    crate::core::name::ObjectName::parse(text).map(|name| name.to_string()).map_err(|error| error.to_string())
}

impl NodeArgs {
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

/// A double in a test, or a tunnel: a token that is sent there stays on this machine.
pub(super) fn is_loopback(url: &str) -> bool {
    let host = url.strip_prefix("http://").and_then(|rest| rest.split(['/', ':']).next());
    matches!(host, Some("127.0.0.1" | "localhost"))
}

/// Whether translations are recorded.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct RecordArgs {
    /// Record which pod has which translated address and port, in the node's state folder, in at most so many bytes, as 256Mi
    /// [default: no record].
    #[arg(long, value_name = "SIZE", env = "EGRET_NAT_RECORD", value_parser = record_size, help_heading = CLUSTER)]
    pub(super) nat_record: Option<u64>,
}

/// A size in bytes from 1Mi on, as Kubernetes writes it.
fn record_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "Mi" => Some(1_u64 << 20),
        "Gi" => Some(1 << 30),
        "" => Some(1),
        _ => None,
    };
    let size = unit.and_then(|unit| digits.parse::<u64>().ok()?.checked_mul(unit)).filter(|size| *size >= 1 << 20);
    size.ok_or_else(|| "a size of 1Mi or more, as 256Mi or 2Gi".to_owned())
}

/// A duration from 100 ms to a day. A number alone is seconds, as every option took it once.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let limits = SignedDuration::from_millis(100)..=SignedDuration::from_hours(24);
    let read = match text.parse::<f64>() {
        Ok(seconds) => SignedDuration::try_from_secs_f64(seconds).ok(),
        Err(_) => crate::core::duration::parse(text),
    };
    let read = read.filter(|read| limits.contains(read)).and_then(|read| Duration::try_from(read).ok());
    read.ok_or_else(|| "a duration from 100ms to 1d, as in 30s or 1m 30s; a number alone is seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_the_grammar_of_egret_yaml_and_a_number_alone_is_seconds() {
        for (text, milliseconds) in [
            ("2", 2_000),
            ("0.1", 100),
            ("30s", 30_000),
            ("1m 30s", 90_000),
            ("100ms", 100),
            ("1d", 86_400_000),
            ("86400", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "0", "-1", "-1s", "90000", "2d", "1 month", "inf", "nan", "soon"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_loopback_is_spoken_to_in_the_clear() {
        assert!(is_loopback("http://127.0.0.1:80/api/v3") && is_loopback("http://localhost"));
        assert!(
            !is_loopback("http://127.0.0.1.example/")
                && !is_loopback("http://forge.example")
                && !is_loopback("https://localhost")
        );
    }
}
