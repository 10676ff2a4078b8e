//! A scenario's folder on the disk.
//!
//! Deliberately absent: what is made of it (`scenarios`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use egret::cluster::Cluster;
use egret::core::facts::Facts;
use egret::core::host_network::HostNetwork;
use egret::core::name::NodeName;
use egret::core::policy::PolicySet;
use egret::core::policy::catalogue::{Catalogue, FileUpdate};

use crate::golden::texts;

/// The scenario that lends the others what they do not have themselves.
const USUAL: &str = "the_outpost";

/// A repository, a cluster and the kernels of its nodes.
pub(super) struct World {
    pub(super) catalogue: Catalogue,
    pub(super) facts: Facts,
    pub(super) host_networks: BTreeMap<NodeName, HostNetwork>,
}

impl World {
    /// Reads the layers of a scenario: each part is the last layer's that has it, else the usual one. `policies` is one part,
    /// `cluster.yaml` another. `ground` names the nodes that are looked at; a later layer may give some of them another one.
    pub(super) fn read(root: &Path, layers: &[PathBuf]) -> Self {
        let usual = root.join(USUAL);
        let part = |name: &str| {
            let own = layers.iter().rev().map(|layer| layer.join(name)).find(|path| path.exists());
            own.unwrap_or_else(|| usual.join(name))
        };
        let mut catalogue = Catalogue::new("prod");
        let documents = texts(&part("policies")).into_iter().map(|(path, text)| (path, FileUpdate::Text(text)));
        catalogue.update(documents.collect());
        let cluster = Cluster::open(&part("cluster.yaml")).expect("the cluster");
        assert_eq!(cluster.faults(), [], "{}", part("cluster.yaml").display());
        let first = layers.first().map(|layer| layer.join("ground")).filter(|path| path.is_dir());
        let mut host_networks = host_networks(&first.unwrap_or_else(|| usual.join("ground")));
        for layer in layers.iter().skip(1) {
            host_networks.extend(self::host_networks(&layer.join("ground")));
        }
        Self { catalogue, facts: cluster.facts().clone(), host_networks }
    }

    pub(super) fn set(&self) -> &PolicySet {
        self.catalogue.policies()
    }
}

fn host_networks(folder: &Path) -> BTreeMap<NodeName, HostNetwork> {
    let files = texts(folder).into_iter();
    files
        .map(|(path, text)| {
            let name = path.strip_suffix(".yaml").expect("a node's name and .yaml");
            (
                NodeName::parse(name).expect(name),
                super::host_network::read(&format!("{}/{path}", folder.display()), &text),
            )
        })
        .collect()
}
