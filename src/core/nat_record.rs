//! The NAT record: which pod had which translated address and port, towards which destination, from when to when.
//!
//! Each node records what its own connection tracking says: a source the pod and the port at its tunnel address, a gateway the source's
//! node and the port at the egress address. [`Finder`] reads records, [`join`] puts the two together. Not here: the form of a record
//! (`segment`), its files (`reconcile::persistence`), and events (`kernel::conntrack`).

pub mod segment;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;

use super::facts::PodName;
use super::name::NodeName;
use super::policy::PolicyId;
use super::transfer::FlowProtocol;

/// A connection, by what identifies it on the node that translates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Translation {
    /// The protocol.
    pub protocol: FlowProtocol,
    /// Who opened it: a pod, or on a gateway the tunnel address of the pod's node.
    pub opened_by: SocketAddr,
    /// Where it leads, behind Services.
    pub destination: SocketAddr,
    /// The address and port that the destination sees, or on a source the gateway.
    pub translated: SocketAddr,
}

/// Whose a connection is, as far as the node knows.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// `namespace/name`; empty: not a pod of this node.
    pub pod: String,
    /// The node that it came from; empty: this one.
    pub node: String,
    /// The policies that lead the pod to the exit.
    pub policies: Vec<String>,
    /// The exit.
    pub exit: String,
}

/// What a node knows of the connections that it sees begin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordNames {
    /// The bits of connection marks that are Egret's.
    pub mask: u32,
    /// The pod of each address of this node.
    pub pods: BTreeMap<IpAddr, PodName>,
    /// The node of each tunnel address.
    pub nodes: BTreeMap<IpAddr, NodeName>,
    /// The exits by their marks, each with the policies by which pods leave.
    pub exits: BTreeMap<u32, (String, BTreeMap<PolicyId, std::collections::BTreeSet<PodName>>)>,
}

impl RecordNames {
    /// Whose a connection is. None: it has no exit's mark.
    pub fn owner(&self, mark: u32, opened_by: IpAddr) -> Option<Owner> {
        let (exit, members) = self.exits.get(&(mark & self.mask))?;
        let pod = self.pods.get(&opened_by);
        let policies = members.iter().filter(|(_, pods)| pod.is_some_and(|pod| pods.contains(pod)));
        Some(Owner {
            pod: pod.map(ToString::to_string).unwrap_or_default(),
            node: self.nodes.get(&opened_by).map(ToString::to_string).unwrap_or_default(),
            policies: policies.map(|(policy, _)| policy.to_string()).collect(),
            exit: exit.clone(),
        })
    }
}

/// One thing that a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordEntry {
    /// A connection began, or was there already when recording began.
    Began {
        /// When.
        at: Timestamp,
        /// It was there already.
        before: bool,
        /// The connection.
        translation: Translation,
        /// Whose it is.
        owner: Owner,
    },
    /// A connection ended.
    Ended {
        /// When.
        at: Timestamp,
        /// The connection.
        translation: Translation,
    },
    /// The kernel's events were lost.
    Lost {
        /// When that was noticed.
        at: Timestamp,
    },
    /// Recording began; the connections of this moment follow.
    Started {
        /// When.
        at: Timestamp,
    },
}

/// How a connection that was found ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Not yet, as far as the record goes.
    Open,
    /// Then.
    At(Timestamp),
    /// Unseen, after this time: recording was interrupted then.
    Unseen(Timestamp),
}

/// A connection that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The connection.
    pub translation: Translation,
    /// Whose it is.
    pub owner: Owner,
    /// When it began; when recording began, if `before`.
    pub start: Timestamp,
    /// It had begun before that.
    pub before: bool,
    /// When it ended.
    pub end: End,
}

impl Found {
    /// Whether it may have been there at a time.
    fn at(&self, time: Timestamp) -> bool {
        let ended = match self.end {
            End::At(end) => end < time,
            End::Open | End::Unseen(_) => false,
        };
        !ended && (self.before || self.start <= time)
    }
}

/// Looks for a translated address and port in a record, entry by entry from the oldest.
#[derive(Debug, Clone)]
pub struct Finder {
    translated: SocketAddr,
    found: Vec<Found>,
    /// When the record begins.
    since: Option<Timestamp>,
    /// When events were lost, and when recording was interrupted.
    gaps: Vec<Timestamp>,
}

impl Finder {
    /// Looks for this address and port.
    pub fn new(translated: SocketAddr) -> Self {
        Self { translated, found: Vec::new(), since: None, gaps: Vec::new() }
    }

    /// Takes the next entry in.
    pub fn take(&mut self, entry: RecordEntry) {
        let at = match &entry {
            RecordEntry::Began { at, .. }
            | RecordEntry::Ended { at, .. }
            | RecordEntry::Lost { at }
            | RecordEntry::Started { at } => *at,
        };
        let first = self.since.is_none();
        self.since.get_or_insert(at);
        match entry {
            RecordEntry::Began { before, translation, owner, .. } if translation.translated == self.translated => {
                self.began(Found { translation, owner, start: at, before, end: End::Open });
            }
            RecordEntry::Ended { translation, .. } if translation.translated == self.translated => {
                let open =
                    self.found.iter_mut().rev().find(|one| one.is(&translation) && !matches!(one.end, End::At(_)));
                if let Some(open) = open {
                    open.end = End::At(at);
                }
            }
            RecordEntry::Began { .. } | RecordEntry::Ended { .. } => {}
            RecordEntry::Lost { .. } | RecordEntry::Started { .. } => {
                if !first {
                    self.gaps.push(at);
                }
                for open in self.found.iter_mut().filter(|one| one.end == End::Open) {
                    open.end = End::Unseen(at);
                }
            }
        }
    }

    /// One that was there before an interruption and is there after it is the same.
    fn began(&mut self, new: Found) {
        let same = self.found.iter_mut().rev().find(|one| one.is(&new.translation));
        match same {
            Some(same) if new.before && matches!(same.end, End::Unseen(_)) => same.end = End::Open,
            _ => self.found.push(new),
        }
    }

    /// What was found, of one time or all, the newest first.
    pub fn found(&self, at: Option<Timestamp>, protocol: Option<FlowProtocol>) -> Vec<Found> {
        let of_time = |one: &&Found| at.is_none_or(|time| one.at(time));
        let of_protocol = |one: &&Found| protocol.is_none_or(|protocol| one.translation.protocol == protocol);
        self.found.iter().rev().filter(of_time).filter(of_protocol).cloned().collect()
    }

    /// When the record begins; none: it is empty.
    pub fn since(&self) -> Option<Timestamp> {
        self.since
    }

    /// When connections may have begun or ended unseen.
    pub fn gaps(&self) -> &[Timestamp] {
        &self.gaps
    }
}

impl Found {
    fn is(&self, translation: &Translation) -> bool {
        let (own, other) = (&self.translation, translation);
        own.protocol == other.protocol && own.destination == other.destination && own.translated == other.translated
    }
}

/// Completes what a gateway knows of a connection by what the source's node recorded: the pod.
pub fn join(at_gateway: &mut Found, at_source: &[Found]) {
    let of_it = |one: &&Found| {
        let same = one.translation.protocol == at_gateway.translation.protocol
            && one.translation.translated == at_gateway.translation.opened_by
            && one.translation.destination == at_gateway.translation.destination;
        // It began at the source first, and the clocks of two nodes differ a little.
        same && (one.before || one.start.as_second() <= at_gateway.start.as_second() + CLOCKS)
    };
    if let Some(one) = at_source.iter().filter(of_it).max_by_key(|one| one.start) {
        at_gateway.owner.pod.clone_from(&one.owner.pod);
        at_gateway.owner.policies.clone_from(&one.owner.policies);
    }
}

/// How far, in seconds, the clocks of two nodes may differ.
const CLOCKS: i64 = 5;

#[cfg(test)]
mod tests;
