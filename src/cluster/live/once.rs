//! Reads a cluster once, for `egret explain` and `egret status`: each kind is listed, nothing is watched, and nothing is written.
//!
//! Not here: the loops' view, which follows (see `watch`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::core::params::ListParams;

use super::error::{ApiError, ApiErrorCause};
use super::view::View;
use super::wire::{Configs, EgressNodes, MetaWire, Nodes, Policies, Slim, Watched, Whole};
use super::{ApiClient, Encoding};
use crate::core::facts::{Facts, PodName};
use crate::core::gateway_interfaces::host_network;
use crate::core::heartbeat::Heartbeat;
use crate::core::labels::Labels;
use crate::core::name::NodeName;
use crate::core::status::held;

/// Which pods are read: a cluster may have a hundred thousand.
#[derive(Debug, Clone, Copy)]
pub enum PodsRead<'a> {
    /// None, and no namespace.
    None,
    /// One with its namespace, and those that have its addresses or this one, without their namespaces. All of them if there is no such pod.
    Of {
        /// That pod.
        pod: &'a PodName,
        /// Where it sends.
        destination: IpAddr,
    },
    /// All, with all namespaces.
    All,
}

/// Objects of one kind.
type Listed<W> = Vec<(<W as Watched>::Key, <W as Watched>::Value)>;

impl ApiClient {
    /// Connects to the API server of a kubeconfig's current context. Nothing is sent yet.
    pub async fn connect_by(kubeconfig: &Path) -> Result<Self, ApiError> {
        let doing = || format!("reading the kubeconfig {}", kubeconfig.display());
        let failed = |why: String| ApiError::new(doing(), ApiErrorCause::Configuration(why));
        let read = Kubeconfig::read_from(kubeconfig).map_err(|error| failed(error.to_string()))?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await;
        Self::open(config.map_err(|error| failed(error.to_string()))?, Encoding::Gzip)
    }

    /// The cluster as it is now, and whether heartbeats are in it. `namespace`: that of the release, where agents' Leases are; they are left
    /// out where this user may not list them, and for one pod, whose packets do not depend on them.
    pub async fn read_once(&self, namespace: &str, pods: PodsRead<'_>) -> Result<(View, bool), ApiError> {
        let mut view = View::default();
        let leases = (!matches!(pods, PodsRead::Of { .. })).then_some(namespace);
        let (nodes, policies, configs, egress_nodes, beats, pods) = tokio::join!(
            self.kind::<Nodes<Slim>>(),
            self.kind::<Policies<Whole>>(),
            self.kind::<Configs<Whole>>(),
            self.kind::<EgressNodes>(),
            self.heartbeats(leases),
            self.pods_and_namespaces(pods),
        );
        for (name, (node, meta)) in nodes? {
            view.facts.nodes.insert(name.clone(), node);
            view.nodes.insert(name, meta);
        }
        view.policies = policies?.into_iter().collect();
        view.config = configs?.into_iter().next().map(|((), config)| config);
        view.egress_nodes = egress_nodes?.into_iter().collect();
        let beats = beats?;
        let may_read_leases = beats.is_some();
        view.heartbeats = beats.unwrap_or_default();
        let pods = pods?;
        (view.facts.namespaces, view.facts.pods) = (pods.namespaces, pods.pods);
        let statuses = || view.egress_nodes.iter().map(|(name, node)| (name, &node.status));
        view.facts.held = held(statuses());
        let networks = statuses().filter_map(|(name, status)| Some((name.clone(), host_network(&status.interfaces)?)));
        view.facts.host_networks = networks.collect();
        let published = view.config.as_ref().and_then(|config| config.spec.as_ref().ok());
        view.facts.pod_networks = published.map(|spec| spec.pod_networks.clone()).unwrap_or_default();
        Ok((view, may_read_leases))
    }

    /// The heartbeats in a namespace: who may write in another one is not believed. None, if they are not wanted or may not be read.
    async fn heartbeats(&self, namespace: Option<&str>) -> Result<Option<BTreeMap<NodeName, Heartbeat>>, ApiError> {
        let Some(namespace) = namespace else { return Ok(None) };
        match self.read_heartbeats(namespace).await {
            Ok(beats) => Ok(Some(beats)),
            Err(error) if error.code() == Some(403) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn pods_and_namespaces(&self, pods: PodsRead<'_>) -> Result<Facts, ApiError> {
        let mut facts = Facts::default();
        match pods {
            PodsRead::None => {}
            PodsRead::All => return self.list_facts().await,
            PodsRead::Of { pod: name, destination } => {
                let Some((pod, labels)) = self.pod(name).await? else {
                    // Which one is meant can be found only among all pods.
                    return self.list_facts().await;
                };
                for address in pod.addresses.iter().copied().chain([destination]) {
                    facts.pods.extend(self.pods_with(address).await?);
                }
                facts.namespaces.insert(name.namespace.clone(), labels);
                facts.pods.insert(name.clone(), pod);
            }
        }
        Ok(facts)
    }

    /// The nodes that run Linux, which all have an agent.
    pub async fn linux_nodes(&self) -> Result<Vec<NodeName>, ApiError> {
        // A Node with its images has ten times the size of its metadata.
        let list = |page: &ListParams| Request::new(Nodes::<Slim>::PATH).list_metadata(page);
        let all: Vec<MetaWire> = self.pages_by("listing nodes", list).await?;
        let is_linux = |labels: &Labels| labels.get("kubernetes.io/os").is_none_or(|os| os.as_str() == "linux");
        let linux = all.into_iter().map(MetaWire::named).filter(|(_, labels)| is_linux(labels));
        Ok(linux.filter_map(|(name, _)| NodeName::parse(&name).ok()).collect())
    }

    async fn kind<W: Watched>(&self) -> Result<Listed<W>, ApiError> {
        let items: Vec<W::Wire> = self.pages(&format!("listing {}", W::NAME), W::PATH).await?;
        Ok(items.into_iter().filter_map(W::read).collect())
    }
}
