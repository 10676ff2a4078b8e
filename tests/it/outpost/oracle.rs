//! The programs as oracle: what `nft` and `ip` list after Egret's work is what Egret thinks is there, object by object, and it is all that
//! was asked for.
//!
//! Deliberately absent: drift, which is the difference (`drift`).

use std::collections::BTreeSet;

use egret::core::state::NodeState;
use egret::core::state::net::route_text;
use egret::core::state::ownership::DatapathConfig;
use egret::kernel::Kernel;

use super::listing::without_counts;
use super::stand::{Document, Outcome, Stand, with_pods};
use crate::kernel_nft::oracle::blocks;
use crate::lab::{LabError, Namespace, Options, Pod};

/// What Egret sees of a node.
fn seen(node: &Namespace) -> Result<NodeState, LabError> {
    node.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut kernel = Kernel::open(DatapathConfig::default()).await.expect("the kernel");
            kernel.read_only();
            kernel.observe().await.expect("a look").state
        })
    })
}

/// A line as the set of its words, without those that `ip` says of every route and we of none.
fn words(family: &str, line: &str) -> BTreeSet<String> {
    let line = format!(" {} ", line.replace("proto egret", "proto 180").replace("proto 180", ""));
    let of_every = [
        " unicast ",
        " src 0.0.0.0 ",
        " ttl 0 ",
        " tos 0 ",
        " scope global ",
        " scope link ",
        " scope host ",
        " metric 1024 ",
        " pref medium ",
        " dev lo ",
        " nud permanent ",
        " PERMANENT ",
    ];
    let plain = of_every.iter().fold(line, |line, words| line.replace(words, " "));
    plain.split_whitespace().chain((!family.is_empty()).then_some(family)).map(str::to_owned).collect()
}

/// What a program lists, by family, of what bears our protocol or our device.
fn listed(node: &Namespace, command: &str, ours: &str) -> Result<BTreeSet<BTreeSet<String>>, LabError> {
    let mut lines = BTreeSet::new();
    for family in ["", "-6"] {
        let command = command.split(' ').map(str::to_owned);
        let words_of = ["ip".to_owned(), if family.is_empty() { "-4" } else { family }.to_owned()];
        let text = node.exec(words_of.into_iter().chain(command))?;
        lines.extend(text.lines().filter(|line| line.contains(ours)).map(|line| words(family, line)));
    }
    Ok(lines)
}

fn ours(lines: impl Iterator<Item = String>) -> BTreeSet<BTreeSet<String>> {
    lines.map(|line| words("", &line)).collect()
}

/// Holds every node's listings against what Egret sees there, and that against what is asked for.
fn agree(stand: &Stand) -> Outcome {
    stand.await_settled()?;
    for name in stand.nodes() {
        let node = stand.lab.node(&name)?;
        let state = seen(&node)?;
        let rules = state.rules.iter().map(ToString::to_string);
        assert_eq!(listed(&node, "rule show", "proto 180")?, ours(rules), "rules of {name}");
        let routes = state.routes.iter().map(|(key, route)| route_text(key, route));
        assert_eq!(listed(&node, "-d route show table all", "proto 180")?, ours(routes), "routes of {name}");
        let six = |text: String| if text.contains("::") { format!("-6 {text}") } else { text };
        let neighbours = state.neighbours.iter().map(|neighbour| six(neighbour.to_string()));
        assert_eq!(listed(&node, "neigh show nud permanent", "egret0")?, ours(neighbours), "neighbours of {name}");
        for (family, table) in &state.nft {
            let listing = node.exec(["nft", "list", "table", &family.to_string(), "egret"])?;
            // nft 1.0.6 has no words for owners that persist.
            let without_owner = |text: &str| text.replace("flags owner,persist", "").replace("flags owner", "");
            assert_eq!(
                blocks(&without_owner(&without_counts(&listing.replace(" # progname egret", "")))),
                blocks(&without_owner(&table.listing(*family))),
                "{family} of {name}"
            );
        }
    }
    Ok(())
}

#[test]
fn what_the_programs_list_is_what_egret_thinks_is_there() -> Outcome {
    let more = [
        Pod::new("deathstar", "kind-worker2", 60, &[("org", "empire")]),
        Pod::new("falcon", "kind-worker", 61, &[("org", "alliance")]),
    ];
    let stand = Stand::applied(Options { gateways: 2, rp_filter: 1, ..with_pods(&more) })?;
    agree(&stand)?;
    let alliance = Document { name: "alliance", org: "alliance", ..Document::through("kind-worker3") };
    stand.push("policies/alliance.yaml", &alliance.text())?;
    stand.await_granted("tiefighter")?;
    agree(&stand)?;
    let reset = Document { annotations: "egret.dev/existing-connections: Reset", excluded: "", ..Document::default() };
    stand.push("policies/outpost.yaml", &reset.text())?;
    agree(&stand)
}
