//! Tests what this kernel supports by doing it: creates one of every kind of Egret's objects in a temporary network
//! namespace, on a thread of its own that ends with it. The machine's own namespace is not touched.
//!
//! Kernel configuration and module lists are not read: they list what could be there, not what works.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};
use tokio::sync::oneshot;

use super::super::{Kernel, KernelError, conntrack};
use super::survey::Attempt;
use crate::core::plan::Step;
use crate::core::state::net::{Encap, InterfaceAddress, Link, Mac, Route, RouteKey, RoutingRule};
use crate::core::state::nft::{
    AddressFamily, BaseChain, ChainKind, ChainPolicy, DataType, Field, Hook, KeyType, NftChange, NftRule,
    NftTransaction, Set, Statement, TableFamily, unspecified,
};
use crate::core::state::ownership::{DatapathConfig, TUNNEL};

/// Example addresses of a peer and of this node (RFC 5737); no packet is ever sent.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

/// Tries everything. The error is why nothing could be tried.
pub(super) async fn run(range: DatapathConfig) -> Result<Vec<Attempt>, String> {
    let (sender, receiver) = oneshot::channel();
    let work = move || {
        // A dropped receiver needs no result.
        let _ = sender.send(in_a_namespace_of_its_own(range));
    };
    std::thread::Builder::new().name("egret-doctor".into()).spawn(work).map_err(|error| error.to_string())?;
    receiver.await.unwrap_or_else(|_| Err("the thread that tries it has ended".to_owned()))
}

/// Moves the thread to a new namespace for good, so it must not be a pool's.
fn in_a_namespace_of_its_own(range: DatapathConfig) -> Result<Vec<Attempt>, String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| format!("make a network namespace: {}", errno.desc()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| error.to_string())?.block_on(attempts(range)))
}

async fn attempts(range: DatapathConfig) -> Vec<Attempt> {
    let mut kernel = match Kernel::open(range).await {
        Ok(kernel) => kernel,
        Err(error) => return vec![Attempt { refusal: Some(text_of(&error)), ..NFTABLES }],
    };
    let mut found = Vec::new();
    for (feature, steps) in tried(range, kernel.features().owned_tables) {
        let refusal = attempt(&mut kernel, &steps).await.err();
        // Without its device a route's failure shows nothing about routes.
        let over = refusal.is_some() && matches!(steps[..], [Step::AddLink(..)]);
        found.push(Attempt { refusal: refusal.map(|error| text_of(&error)), ..feature });
        if over {
            break;
        }
    }
    let features = *kernel.features();
    let unknown = |there: bool| (!there).then(|| "the kernel does not know it".to_owned());
    found.push(Attempt { refusal: unknown(features.interface_kinds), ..INTERFACE_KINDS });
    found.push(Attempt { refusal: unknown(features.owned_tables), ..OWNED_TABLES });
    let counted = conntrack::count(1, 1).await;
    found.push(Attempt { refusal: counted.err().map(|error| crate::telemetry::chain(&error)), ..CONNTRACK });
    found
}

async fn attempt(kernel: &mut Kernel, steps: &[Step]) -> Result<(), KernelError> {
    let mut generation = kernel.observe().await?.generation;
    for step in steps {
        kernel.apply(step, &mut generation).await?;
    }
    Ok(())
}

/// The kernel's error text alone: the line already names what was tried.
fn text_of(error: &KernelError) -> String {
    match error {
        KernelError::Step { source, .. } => source.to_string(),
        other => crate::telemetry::chain(other),
    }
}

const fn feature(feature: &'static str, optional: Option<&'static str>, hint: &'static str) -> Attempt {
    Attempt { feature, refusal: None, optional, hint }
}

const VXLAN: Attempt = feature("vxlan", None, "`modprobe vxlan`; CONFIG_VXLAN");
const RULES4: Attempt = feature("policy routing", None, "CONFIG_IP_MULTIPLE_TABLES");
const RULES6: Attempt = feature(
    "IPv6 policy routing",
    Some("IPv6 destinations are not steered"),
    "CONFIG_IPV6_MULTIPLE_TABLES; nothing to do where policies name no IPv6 destinations",
);
const LWTUNNEL: Attempt = feature("lwtunnel", None, "CONFIG_LWTUNNEL");
const NFTABLES: Attempt = feature(
    "nf_tables",
    None,
    "`modprobe nf_tables nft_chain_nat nft_ct nft_fib_inet`; CONFIG_NF_TABLES_INET, CONFIG_NFT_NAT, CONFIG_NFT_CT, CONFIG_NFT_FIB_INET",
);
const INTERFACE_KINDS: Attempt = feature(
    "interface kinds",
    Some("packets of a new pod outside every known pod network are not dropped until it is classified"),
    "Linux 5.6 or newer has them; podCIDRs in egret.yaml name the networks of pods",
);
const OWNED_TABLES: Attempt = feature(
    "owned tables",
    Some("`nft flush ruleset` deletes Egret's table until it is restored"),
    "Linux 6.9 or newer has them",
);
const CONNTRACK: Attempt = feature(
    "conntrack netlink",
    Some("connections of a removed exit are not flushed"),
    "`modprobe nf_conntrack_netlink`; CONFIG_NF_CT_NETLINK",
);

/// Steps of each kind that a plan has, in an order in which each finds what it depends on.
fn tried(range: DatapathConfig, owned: bool) -> [(Attempt, Vec<Step>); 5] {
    let link = Link { port: range.port, mac: Mac::of_node(PEER), mtu: range.mtu, up: true, external: true };
    let rule = |family| RoutingRule {
        family,
        priority: range.priority(1),
        mark: range.mark(1),
        mask: range.mask,
        from: None,
        table: range.table(1),
        odd: None,
    };
    let key = RouteKey {
        family: AddressFamily::V4,
        table: range.table(1),
        destination: IpNet::new_assert(unspecified(AddressFamily::V4), 0),
        metric: 0,
    };
    let encap = Some(Encap::between(1, OWN, PEER));
    let route = Route::Via { link: TUNNEL.to_owned(), gateway: Some(PEER), onlink: true, encap };
    // As on a real node: without any address in the namespace the kernel accepts no next hop.
    let address = InterfaceAddress { link: TUNNEL.to_owned(), address: IpNet::from(OWN) };
    [
        (NFTABLES, vec![Step::Nft(transaction(range, owned))]),
        (RULES4, vec![Step::AddRule(rule(AddressFamily::V4))]),
        (RULES6, vec![Step::AddRule(rule(AddressFamily::V6))]),
        (VXLAN, vec![Step::AddLink(TUNNEL.to_owned(), link)]),
        (LWTUNNEL, vec![Step::AddAddress(address), Step::SetRoute(key, route, None)]),
    ]
}

/// A table that keeps a mark in the connection, translates by it, and uses the same expressions and hooks as Egret's.
fn transaction(range: DatapathConfig, owned: bool) -> NftTransaction {
    let map =
        Set { key: vec![KeyType::Mark], data: Some(DataType::Ipv4Addr), interval: false, elements: BTreeMap::new() };
    let base = |kind, hook, priority| Some(BaseChain { kind, hook, priority, policy: ChainPolicy::Accept });
    let keep = Statement::SetMark { field: Field::CtMark, keep: range.others(), value: range.mark(1) };
    let snat = Statement::SnatMap { family: AddressFamily::V4, mask: range.mask, map: "addresses".into() };
    let began = Statement::InSet { fields: vec![Field::CtReply4], mask: None, negated: false, set: "peers".into() };
    let peers = Set { key: vec![KeyType::Ipv4Addr], data: None, interval: false, elements: BTreeMap::new() };
    let macs = Set { key: vec![KeyType::EtherAddr], data: Some(DataType::Verdict), ..peers.clone() };
    let exit = Statement::VerdictMap { field: Field::EtherDaddr, mask: None, map: "macs".into() };
    let ways = Set { key: vec![KeyType::Mark, KeyType::Ipv4Addr], ..peers.clone() };
    let fields = vec![Field::CtMark, Field::RtNexthop4];
    let way = Statement::InSet { fields, mask: Some(range.mask), negated: false, set: "ways".into() };
    let changes = [
        NftChange::AddTable { owned },
        NftChange::AddSet("peers".into(), peers),
        NftChange::AddSet("ways".into(), ways),
        NftChange::AddSet("macs".into(), macs),
        NftChange::AddChain("raw".into(), base(ChainKind::Filter, Hook::Prerouting, -310), None),
        NftChange::AddRule("raw".into(), NftRule(vec![Statement::NoRouteBack, Statement::NoTrack])),
        NftChange::AddChain("rerouted".into(), base(ChainKind::Route, Hook::Output, 1000), None),
        NftChange::AddRule(
            "rerouted".into(),
            NftRule(vec![Statement::FromThisHost, Statement::ToThisHost, Statement::Counter]),
        ),
        NftChange::AddSet("addresses".into(), map),
        NftChange::AddChain("mark".into(), base(ChainKind::Filter, Hook::Prerouting, 1000), None),
        NftChange::AddRule("mark".into(), NftRule(vec![began, keep, Statement::Counter])),
        NftChange::AddRule("mark".into(), NftRule(vec![exit])),
        NftChange::AddChain("translate".into(), base(ChainKind::Nat, Hook::Postrouting, 99), None),
        NftChange::AddRule("translate".into(), NftRule(vec![snat])),
        NftChange::AddChain("guard".into(), base(ChainKind::Filter, Hook::Postrouting, 1000), None),
        NftChange::AddRule("guard".into(), NftRule(vec![way])),
    ];
    NftTransaction { changes: changes.into_iter().map(|change| (TableFamily::Inet, change)).collect() }
}
