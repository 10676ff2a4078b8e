//! What the commands that answer know: the node's kernel and memory, the repository, the cluster's manifests or snapshot, and what nodes
//! report; or what an API server and agents say.
//!
//! Not here: what follows from it (`core::explain`, `core::overview`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::args::{AdmissionArgs, CLUSTER, GitArgs, RepoArgs, Repository, cluster_name, node_name};
use super::cluster::ApiCluster;
use super::output::{self, Failure, Manifests, Verbosity};
use super::plan;
use crate::clock::Clock;
use crate::cluster::live::PodsRead;
use crate::cluster::read_text;
use crate::core::explain::{
    DocumentChange, Explanation, OpenConnection, Question, Situation, Told, UnknownPod, connections_told, explain,
    to_ask,
};
use crate::core::facts::{Facts, PodName};
use crate::core::host_network::HostNetwork;
use crate::core::name::NodeName;
use crate::core::policy::PolicySet;
use crate::core::policy::catalogue::Catalogue;
use crate::core::report::history::NodeReport;
use crate::core::snapshot;
use crate::git::CommitId;
use crate::git::mirror::{History, Mirror};
use crate::reconcile::gitops::history_reader::{document_change, node_reports};
use crate::reconcile::gitops::repository;
use crate::reconcile::gitops::tracked_repository::TrackedRepository;
use crate::reconcile::node::dry_run::{DocumentSource, DryRunOptions};
use crate::reconcile::node::inquiry::{Inquiry, inquire, remembered};
use crate::telemetry::chain;

/// The cluster, and the node that the command runs on.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = CLUSTER)]
pub(super) struct ClusterArgs {
    /// Manifests of nodes, namespaces and pods, or a snapshot, or - for standard input [default: the snapshot on the reports branch].
    #[arg(long, value_name = "PATH", env = "EGRET_CLUSTER")]
    pub(super) cluster: Option<PathBuf>,
    /// The cluster's name: its entry in egret.yaml, and its reports branch.
    #[arg(long, value_name = "NAME", env = "EGRET_CLUSTER_NAME", default_value = "default", value_parser = cluster_name)]
    pub(super) cluster_name: String,
    /// This machine is that node of the cluster: its kernel is read [default: the host's name, if Egret has run under it here].
    #[arg(long, value_name = "NAME", env = "EGRET_NODE", conflicts_with = "offline")]
    pub(super) node: Option<String>,
    /// Where the node's state is stored.
    #[arg(long, value_name = "DIR", env = "EGRET_STATE_DIR", default_value = "/var/lib/egret")]
    pub(super) state_dir: PathBuf,
    /// Read no kernel, and ask no agent what its kernel holds.
    #[arg(long)]
    pub(super) offline: bool,
    /// Ask the API server of a cluster with a controller and agents, in the place of the repository: a kubeconfig, whose user needs the
    /// chart's ClusterRole egret-explain; `in-cluster` is the account of this pod.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["cluster", "node"])]
    pub(super) kubeconfig: Option<PathBuf>,
    /// The namespace of Egret's release, whose agents are asked; with --kubeconfig.
    #[arg(long, value_name = "NAMESPACE", env = "EGRET_NAMESPACE", default_value = RELEASE)]
    pub(super) namespace: String,
}

/// Where a command that answers takes what it knows from, apart from Git's options, which stand last.
#[derive(Debug, clap::Args)]
pub(super) struct SourceArgs {
    #[command(flatten)]
    pub(super) repo: RepoArgs,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
    #[command(flatten)]
    admission: AdmissionArgs,
}

impl SourceArgs {
    /// What to read. `rev`: the revision that counts where no node is read; `pod`: the pod whose node's active commit counts.
    pub(super) fn inputs<'a>(&'a self, git: &'a GitArgs, rev: Option<&'a str>, pod: Option<&'a PodName>) -> Inputs<'a> {
        let Self { repo, cluster, admission } = self;
        Inputs { repository: repo.with(git), rev, cluster, admission, pod }
    }
}

/// The namespace that the chart's documentation installs the release in.
pub(super) const RELEASE: &str = "egret-system";

pub(super) fn pod_name(text: &str) -> Result<PodName, String> {
    let parts = text.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
    let (namespace, name) = parts.ok_or_else(|| "a pod's namespace and name, as in batuu/tiefighter".to_owned())?;
    Ok(PodName { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Everything that is known.
pub(super) struct Known {
    pub(super) facts: Facts,
    pub(super) set: PolicySet,
    pub(super) inquiry: Option<Inquiry>,
    pub(super) host_networks: BTreeMap<NodeName, HostNetwork>,
    pub(super) reports: BTreeMap<NodeName, NodeReport>,
    pub(super) rejected: Vec<crate::core::report::history::Rejected>,
    /// The commit of the documents; none of a folder without Git.
    pub(super) commit: Option<CommitId>,
    pub(super) revision: String,
    /// The cluster, if its API server was asked.
    pub(super) api: Option<ApiCluster>,
    /// What agents answered of their kernels.
    pub(super) told: BTreeMap<NodeName, Told>,
}

/// What to ask for, apart from what is asked of it.
pub(super) struct Inputs<'a> {
    repository: Repository<'a>,
    rev: Option<&'a str>,
    pub(super) cluster: &'a ClusterArgs,
    admission: &'a AdmissionArgs,
    /// The pod whose node's active commit counts.
    pod: Option<&'a PodName>,
}

impl Failure {
    pub(super) fn unknown_pod(error: UnknownPod, facts: &Facts) -> Self {
        let hint = match &error.near {
            Some(near) => format!("did you mean {near}?"),
            None if facts.pods.is_empty() => "the cluster's manifests have no pod at all".to_owned(),
            None => "`kubectl get pods -A` lists them; manifests may be older than the pod".to_owned(),
        };
        Self::new(error, Some(hint))
    }
}

impl Known {
    /// Asks with everything that is known. `pod`: only its node's report is searched for what waits.
    pub(super) fn with_situation<T>(&self, pod: Option<&PodName>, ask: impl FnOnce(&Situation<'_>) -> T) -> T {
        let reading = self.inquiry.as_ref().and_then(|inquiry| inquiry.kernel.as_ref());
        let of_api = self.api.as_ref().map(|api| (&api.state.placement, api.state.waits()));
        let pending = self.inquiry.as_ref().and_then(|inquiry| inquiry.pending.as_ref());
        let node = pod.and_then(|pod| self.facts.pods.get(pod)?.node.as_ref());
        let mut reports = self.reports.iter().filter(|(name, _)| node.is_none_or(|node| node == *name));
        let pending = match pending {
            Some((commit, set)) => Some((commit, Some(set.as_ref()))),
            None => reports.find_map(|(_, report)| report.pending.as_deref()).map(|commit| (commit, None)),
        };
        ask(&Situation {
            set: &self.set,
            facts: &self.facts,
            host_networks: &self.host_networks,
            placement: reading.map(|reading| &reading.placement).or(of_api.as_ref().map(|(placement, _)| *placement)),
            reports: &self.reports,
            kernel: reading.map(|reading| &reading.kernel),
            told: &self.told,
            pending,
            waits: of_api.as_ref().and_then(|(_, waits)| waits.as_deref()),
            rejected: &self.rejected,
            now: Clock::system().now(),
        })
    }

    /// Asks the agents on the packets' way what their kernels hold, where an API server leads to them. The pod's node may know of a gateway
    /// that stands in for the one that was decided: that one is asked, too.
    pub(super) fn ask_kernels(
        &mut self,
        question: &Question,
        connections: bool,
        namespace: &str,
        runtime: &output::Runtime,
    ) {
        for _ in 0..2 {
            let explained = self.with_situation(Some(&question.pod), |situation| explain(question, situation));
            let (Ok(explanation), Some(api)) = (explained, &self.api) else { return };
            let mut questions = to_ask(&explanation, connections);
            questions.retain(|(node, _)| !self.told.contains_key(node));
            if questions.is_empty() {
                return;
            }
            let told = api.ask(namespace, &questions, runtime);
            self.told.extend(told);
        }
    }

    /// The pod's connections, as agents answered; none if no agent was asked, or none answered.
    pub(super) fn connections_told(&self, explanation: &Explanation) -> Option<Vec<OpenConnection>> {
        let answers =
            self.told.iter().filter_map(|(node, told)| Some((node, told.as_ref().ok()?.connections.as_ref()?)));
        let found: Vec<Vec<OpenConnection>> =
            answers.map(|(node, found)| connections_told(node, found, &explanation.verdict)).collect();
        (!found.is_empty()).then(|| found.concat())
    }

    /// Reads the cluster by its API server, if a kubeconfig says so, and these pods of it; else as [`Known::read`] does.
    pub(super) fn of(
        inputs: &Inputs<'_>,
        pods: PodsRead<'_>,
        runtime: &output::Runtime,
        scratch: &plan::Scratch,
        verbosity: &Verbosity,
    ) -> Result<(Self, Option<Mirror>), Failure> {
        match &inputs.cluster.kubeconfig {
            Some(kubeconfig) => Ok((Self::of_api(kubeconfig, &inputs.cluster.namespace, pods, runtime)?, None)),
            None => Self::read(inputs, runtime, scratch, verbosity),
        }
    }

    /// Reads a cluster by its API server.
    fn of_api(
        kubeconfig: &std::path::Path,
        namespace: &str,
        pods: PodsRead<'_>,
        runtime: &output::Runtime,
    ) -> Result<Self, Failure> {
        let api = ApiCluster::read(kubeconfig, namespace, pods, runtime)?;
        let state = &api.state;
        Ok(Self {
            facts: state.facts().clone(),
            set: state.set.clone(),
            inquiry: None,
            host_networks: state.facts().host_networks.clone(),
            reports: state.reports(),
            rejected: state.rejected(),
            commit: None,
            revision: state.revision().to_owned(),
            api: Some(api),
            told: BTreeMap::new(),
        })
    }

    /// Reads the node's kernel and memory where this is one, and the repository, manifests and reports.
    pub(super) fn read(
        inputs: &Inputs<'_>,
        runtime: &output::Runtime,
        scratch: &plan::Scratch,
        verbosity: &Verbosity,
    ) -> Result<(Self, Option<Mirror>), Failure> {
        let Opened { plain, mut mirror, fault } = Opened::new(inputs, scratch)?;
        let branch = inputs.reports_branch(mirror.as_mut());
        let reports = mirror.as_mut().map(|mirror| node_reports(mirror, &branch)).unwrap_or_default();
        let facts = inputs.facts(mirror.as_mut(), &branch, fault.as_ref())?;
        let node = inputs.cluster.own_node(&facts);
        let mut inquiry = None;
        if let Some((node, wanted)) = node {
            match inquire(inputs.options(&node, &facts, plain.as_deref(), scratch)?, runtime) {
                Ok(found) => inquiry = Some(found),
                Err(error) if wanted => {
                    let hint = error.hint();
                    return Err(Failure::new(error, hint));
                }
                Err(error) => output::note(&format!("note: this node is not read: {}", chain(&error)), verbosity),
            }
        }
        if let (None, Some(fault)) = (&inquiry, fault) {
            return Err(fault);
        }
        let mut host_networks = facts.host_networks.clone();
        let mut known = Self {
            set: PolicySet::default(),
            host_networks: BTreeMap::new(),
            reports,
            rejected: Vec::new(),
            commit: None,
            revision: String::new(),
            inquiry: None,
            api: None,
            told: BTreeMap::new(),
            facts,
        };
        match inquiry {
            Some(inquiry) => {
                known.set = inquiry.active.as_deref().cloned().unwrap_or_default();
                known.rejected.clone_from(&inquiry.rejected);
                known.revision.clone_from(&inquiry.revision);
                let own =
                    inquiry.kernel.as_ref().map(|reading| (reading.kernel.node.clone(), reading.host_network.clone()));
                host_networks.extend(own);
                known.commit = inputs.remembered(&inquiry);
                known.inquiry = Some(inquiry);
            }
            None => known.documents(inputs, plain.as_deref(), mirror.as_mut())?,
        }
        known.host_networks = host_networks;
        Ok((known, mirror))
    }

    /// The documents of the repository, where no node is read.
    fn documents(
        &mut self,
        inputs: &Inputs<'_>,
        plain: Option<&std::path::Path>,
        mirror: Option<&mut Mirror>,
    ) -> Result<(), Failure> {
        let keys = inputs.admission.labels.keys();
        let mut catalogue = Catalogue::new(&inputs.cluster.cluster_name).with_label_keys(keys.as_deref());
        match (plain, mirror) {
            (Some(folder), _) => {
                catalogue.update(plan::folder(folder)?);
                "the files as they are".clone_into(&mut self.revision);
            }
            (None, Some(mirror)) => {
                let commit = self.chosen(inputs, mirror)?;
                catalogue.update(repository::changes(mirror.files(commit, &[String::new()])?));
                (self.commit, self.revision) = (Some(commit), commit.short());
            }
            (None, None) => {}
        }
        self.rejected = repository::rejected(&catalogue, &catalogue.diagnostics());
        self.set = catalogue.policies().clone();
        Ok(())
    }

    /// The commit that counts: the one that is asked for, or that the pod's node reports as active.
    fn chosen(&self, inputs: &Inputs<'_>, mirror: &mut Mirror) -> Result<CommitId, Failure> {
        if let Some(rev) = inputs.rev {
            return Ok(mirror.resolve(rev)?);
        }
        let node = inputs.pod.and_then(|pod| self.facts.pods.get(pod)?.node.as_ref());
        let reported = node.and_then(|node| self.reports.get(node)?.active.as_ref());
        let active = reported.and_then(|active| mirror.resolve(&active.commit).ok());
        Ok(match active {
            Some(commit) => commit,
            None => mirror.resolve("HEAD")?,
        })
    }

    /// The commit that last changed the deciding policy's document.
    pub(super) fn changed(&self, explanation: &Explanation, mirror: Option<&mut Mirror>) -> Option<DocumentChange> {
        let (policy, origin) = explanation.document()?;
        if let Some(api) = &self.api {
            return api.state.changed(policy);
        }
        mirror?.last_change(&origin.file, self.commit?).ok()?.map(document_change)
    }
}

/// What `--repo` names: a folder of files, or a mirror of a repository; or why it is neither.
#[derive(Default)]
struct Opened {
    plain: Option<PathBuf>,
    mirror: Option<Mirror>,
    /// A node has its own mirror, and answers all the same.
    fault: Option<Failure>,
}

impl Opened {
    fn new(inputs: &Inputs<'_>, scratch: &plan::Scratch) -> Result<Self, Failure> {
        Ok(match plan::plain_folder(inputs.repository, inputs.rev)? {
            Some(folder) if folder.exists() => Self { plain: Some(folder), ..Self::default() },
            Some(folder) => Self { fault: plan::folder(&folder).err(), ..Self::default() },
            None => match open(inputs, scratch) {
                Ok(mirror) => Self { mirror: Some(mirror), ..Self::default() },
                Err(fault) => Self { fault: Some(fault), ..Self::default() },
            },
        })
    }
}

fn open(inputs: &Inputs<'_>, scratch: &plan::Scratch) -> Result<Mirror, Failure> {
    let (source, access) = (inputs.repository.source()?, inputs.repository.access()?);
    let mut mirror = Mirror::open_to_read(&scratch.path().join("policy.git"), source, access, History::Recent)?;
    // The first access says whether it can be reached.
    mirror.resolve(inputs.rev.unwrap_or("HEAD"))?;
    Ok(mirror)
}

impl Inputs<'_> {
    /// The reports branch that egret.yaml names.
    fn reports_branch(&self, mirror: Option<&mut Mirror>) -> String {
        let name = &self.cluster.cluster_name;
        let mut catalogue = Catalogue::new(name);
        if let Some(mirror) = mirror
            && let Ok(head) = mirror.resolve(self.rev.unwrap_or("HEAD"))
            && let Ok(files) = mirror.files(head, &[crate::core::policy::document::CONFIG_FILE.to_owned()])
        {
            catalogue.update(repository::changes(files));
        }
        catalogue.policies().config.reports_branch.clone()
    }

    /// The cluster: as `--cluster` says, or the snapshot on the reports branch.
    fn facts(&self, mirror: Option<&mut Mirror>, branch: &str, fault: Option<&Failure>) -> Result<Facts, Failure> {
        if let Some(path) = &self.cluster.cluster {
            let mut facts = Manifests::read(path)?.facts;
            let of_snapshot = mirror.and_then(|mirror| snapshot_of(mirror, branch));
            if facts.host_networks.is_empty() {
                facts.host_networks = of_snapshot.map(|snapshot| snapshot.host_networks).unwrap_or_default();
            }
            return Ok(facts);
        }
        let hint =
            "give the cluster's manifests by --cluster, as `kubectl get nodes,namespaces,pods -A -o yaml` prints them";
        let none_there = || match &mirror {
            Some(_) => format!("the branch {branch} has none"),
            None => "--repo is no Git repository, which would have it".to_owned(),
        };
        let why = fault.map_or_else(none_there, |fault| fault.parts().0);
        let none = || Failure::new(format!("read the snapshot of the cluster: {why}"), Some(hint.to_owned()));
        mirror.and_then(|mirror| snapshot_of(mirror, branch)).ok_or_else(none)
    }

    fn options(
        &self,
        node: &NodeName,
        facts: &Facts,
        plain: Option<&std::path::Path>,
        scratch: &plan::Scratch,
    ) -> Result<DryRunOptions, Failure> {
        let source = match plain {
            Some(folder) => DocumentSource::Files(plan::folder(folder)?),
            None => DocumentSource::Git { rev: self.rev.map(str::to_owned), mirror: scratch.path().join("node.git") },
        };
        let following = TrackedRepository {
            source: self.repository.source()?,
            branch: None,
            access: self.repository.access()?,
            signatures: self.admission.flags(),
            windows: self.admission.windows()?,
            label_keys: self.admission.labels.keys(),
            cluster: self.cluster.cluster_name.clone(),
            poll: Duration::ZERO,
            max_lag: Duration::ZERO,
        };
        let (facts, node) = (facts.clone(), node.clone());
        Ok(DryRunOptions { following, source, facts, node, state_folder: self.cluster.state_dir.clone() })
    }

    /// The commit that is active on the node that was read.
    fn remembered(&self, inquiry: &Inquiry) -> Option<CommitId> {
        let node = &inquiry.kernel.as_ref()?.kernel.node;
        CommitId::parse(remembered(&self.cluster.state_dir, node)?.commit.as_deref()?)
    }
}

/// The snapshot on the reports branch.
fn snapshot_of(mirror: &mut Mirror, branch: &str) -> Option<Facts> {
    let commit = mirror.resolve(branch).ok()?;
    let text = mirror.text(commit, snapshot::FILE, snapshot::LARGEST).ok()??;
    read_text(snapshot::FILE, &text).ok().map(|(facts, _)| facts)
}

impl ClusterArgs {
    /// The node that this machine is, and whether an option says so.
    pub(super) fn own_node(&self, facts: &Facts) -> Option<(NodeName, bool)> {
        if self.offline {
            return None;
        }
        let named = self.node.is_some();
        let node = node_name(self.node.as_deref()).ok()?;
        let is_one = facts.nodes.contains_key(&node) && remembered(&self.state_dir, &node).is_some();
        (named || is_one).then_some((node, named))
    }
}
