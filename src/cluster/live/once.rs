//! Reads a cluster once, for `egret explain` and `egret status`: each kind is listed, nothing is watched, and nothing is written.
//!
//! Not here: the loops' view, which follows (see `watch`).

use std::net::IpAddr;
use std::path::Path;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::core::params::ListParams;

use super::ApiClient;
use super::error::{ApiError, ApiErrorCause};
use super::heartbeats::{Heartbeats, OF_AGENTS};
use super::reflector::Query;
use super::resources::GATEWAYS;
use super::view::View;
use super::wire::{Configs, EgressNodes, MetaWire, Nodes, Policies, Slim, Watched, Whole};
use crate::core::facts::{Facts, PodName};
use crate::core::gateway_interfaces::host_network;
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
        Self::open(config.map_err(|error| failed(error.to_string()))?)
    }

    /// The cluster as it is now, and whether heartbeats are in it: they are left out where this user may not list Leases. For one pod, of
    /// EgressNodes those of gateways and of its node are read, as its node's agent does, and no heartbeat.
    pub async fn read_once(&self, pods: PodsRead<'_>) -> Result<(View, bool), ApiError> {
        let mut view = View::default();
        let one = matches!(pods, PodsRead::Of { .. });
        let (nodes, policies, configs, egress_nodes, beats, pods) = tokio::join!(
            self.kind::<Nodes<Slim>>(Query::default()),
            self.kind::<Policies<Whole>>(Query::default()),
            self.kind::<Configs<Whole>>(Query::default()),
            self.kind::<EgressNodes>(if one { Query::labelled(GATEWAYS) } else { Query::default() }),
            self.heartbeats(!one),
            self.pods_and_namespaces(pods),
        );
        for (name, (node, meta)) in nodes? {
            view.facts.nodes.insert(name.clone(), node);
            view.nodes.insert(name, meta);
        }
        view.policies = policies?.into_iter().collect();
        view.config = configs?.into_iter().next().map(|((), config)| config);
        let (pods, own) = pods?;
        view.egress_nodes = egress_nodes?.into_iter().chain(own).collect();
        let beats = beats?;
        let may_read_leases = beats.is_some();
        view.heartbeats = beats.into_iter().flatten().collect();
        (view.facts.namespaces, view.facts.pods) = (pods.namespaces, pods.pods);
        let statuses = || view.egress_nodes.iter().map(|(name, node)| (name, &node.status));
        view.facts.held = held(statuses());
        let networks = statuses().filter_map(|(name, status)| Some((name.clone(), host_network(&status.interfaces)?)));
        view.facts.host_networks = networks.collect();
        let published = view.config.as_ref().and_then(|config| config.spec.as_ref().ok());
        view.facts.pod_networks = published.map(|spec| spec.pod_networks.clone()).unwrap_or_default();
        Ok((view, may_read_leases))
    }

    /// None, if they are not wanted or may not be read.
    async fn heartbeats(&self, wanted: bool) -> Result<Option<Listed<Heartbeats>>, ApiError> {
        if !wanted {
            return Ok(None);
        }
        // Kubelets have as many Leases, in all namespaces together.
        match self.kind::<Heartbeats>(Query::labelled(OF_AGENTS)).await {
            Ok(beats) => Ok(Some(beats)),
            Err(error) if error.code() == Some(403) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Pods and namespaces; of one pod, what its node's agent reports, too.
    async fn pods_and_namespaces(&self, pods: PodsRead<'_>) -> Result<(Facts, Listed<EgressNodes>), ApiError> {
        let mut facts = Facts::default();
        let mut own = Vec::new();
        match pods {
            PodsRead::None => {}
            PodsRead::All => facts = self.list_facts().await?,
            PodsRead::Of { pod: name, destination } => {
                let Some((pod, labels)) = self.pod(name).await? else {
                    // Which one is meant can be found only among all pods.
                    return Ok((self.list_facts().await?, own));
                };
                for address in pod.addresses.iter().copied().chain([destination]) {
                    facts.pods.extend(self.pods_with(address).await?);
                }
                if let Some(node) = &pod.node {
                    let of_node = Query { fields: Some(format!("metadata.name={node}")), ..Query::default() };
                    own = self.kind::<EgressNodes>(of_node).await?;
                }
                facts.namespaces.insert(name.namespace.clone(), labels);
                facts.pods.insert(name.clone(), pod);
            }
        }
        Ok((facts, own))
    }

    /// The nodes that run Linux, which all have an agent.
    pub async fn linux_nodes(&self) -> Result<Vec<NodeName>, ApiError> {
        // A Node with its images has ten times the size of its metadata.
        let list = |page: &ListParams| Request::new(Nodes::<Slim>::PATH).list_metadata(page);
        let all: Vec<MetaWire> = self.pages_of("listing nodes", &Query::default(), list).await?;
        let is_linux = |labels: &Labels| labels.get("kubernetes.io/os").is_none_or(|os| os.as_str() == "linux");
        let linux = all.into_iter().map(MetaWire::named).filter(|(_, labels)| is_linux(labels));
        Ok(linux.filter_map(|(name, _)| NodeName::parse(&name).ok()).collect())
    }

    async fn kind<W: Watched>(&self, query: Query) -> Result<Listed<W>, ApiError> {
        let list = |page: &ListParams| Request::new(query.path::<W>()).list(page);
        let items: Vec<W::Wire> = self.pages_of(&format!("listing {}", W::NAME), &query, list).await?;
        Ok(items.into_iter().filter_map(W::read).collect())
    }
}
