//! What a node's kernel holds for one pod and one destination, as it was read, and where that differs from what it has to hold.
//!
//! The same walk through the maps, rules and routes is done for what is desired and for what was observed. Not here: reading a kernel
//! (`kernel`), and correcting it.

use std::net::IpAddr;

use jiff::Timestamp;

use super::answer::{
    ANSWER_FORMAT, Counted, Difference, ExitAnswer, ExitNumbers, HeldBack, KernelAnswer, KernelQuestion, KernelWay,
};
use super::exits::ExitReading;
use super::verdict::Decided;
use super::{Explanation, KernelReading, Question, Situation, Verdict};
use crate::core::compile::{CLASSIFY, CLOSES_ALL, Compiled, DROP, GROUP};
use crate::core::facts::Pod;
use crate::core::name::NodeName;
use crate::core::placement::ExitKey;
use crate::core::report::drift::{Drift, DriftPlace, between, how};
use crate::core::state::NodeState;
use crate::core::state::net::{Route, route_text};
use crate::core::state::nft::{
    AddressFamily, ElementData, ElementKey, Field, RuleCounter, Set, Statement, Table, TableFamily,
    Verdict as NftVerdict,
};
use crate::core::state::ownership::{DatapathConfig, TUNNEL};
use crate::core::text::{counted, short_commit};

/// How the route of a table ends that leads nowhere.
const UNREACHABLE: &str = " unreachable";

/// What is known of a kernel on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelView {
    /// It was read.
    Read {
        /// The node.
        node: NodeName,
        /// When.
        at: Timestamp,
        /// What it does with the packets.
        way: KernelWay,
        /// What it counted.
        counted: Counted,
        /// What differs on the way.
        differs: Vec<Difference>,
        /// Whether a process of Egret's runs there.
        running: bool,
    },
    /// Its agent was asked, and did not answer.
    Unanswered {
        /// The node.
        node: NodeName,
        /// Why.
        why: String,
        /// The commit that it reports as active, if it reports.
        commit: Option<String>,
    },
    /// It was not read; only its report is known.
    Reported {
        /// The node.
        node: NodeName,
        /// The commit that it reports as active, if it reports.
        commit: Option<String>,
        /// Objects that it could not correct.
        drift: usize,
    },
}

/// What is known of the kernels on the way.
pub(super) fn views(decided: &Decided, question: &Question, pod: &Pod, situation: &Situation<'_>) -> Vec<KernelView> {
    let mut on_the_way: Vec<(&NodeName, Option<&ExitKey>)> = Vec::new();
    let source = pod.node.iter().map(|node| (node, decided.exit.as_ref()));
    let gateways = decided.exit.iter().chain(&decided.carrier).map(|exit| (&exit.gateway, Some(exit)));
    for (node, exit) in source.chain(gateways) {
        if !on_the_way.iter().any(|(known, _)| *known == node) {
            on_the_way.push((node, exit));
        }
    }
    let view = |(node, exit): (&NodeName, Option<&ExitKey>)| {
        let read = situation.kernel.filter(|kernel| kernel.node == *node);
        let report = situation.reports.get(node);
        let commit = report.and_then(|report| report.active.as_ref()).map(|active| active.commit.clone());
        let node = node.clone();
        Some(match (read, situation.told.get(&node), report) {
            (Some(kernel), ..) => kernel.view(exit, question, pod),
            (None, Some(Ok(answer)), _) => KernelView::Read {
                node,
                at: answer.at,
                way: answer.way.clone(),
                counted: answer.counted,
                differs: answer.differs.clone(),
                running: true,
            },
            (None, Some(Err(why)), _) => KernelView::Unanswered { node, why: why.clone(), commit },
            (None, None, Some(report)) => KernelView::Reported { node, commit, drift: report.drift.len() },
            (None, None, None) => return None,
        })
    };
    on_the_way.into_iter().filter_map(view).collect()
}

/// The kernels on the way that an agent can be asked about, with the question. `connections`: its node lists those of the pod, too.
pub fn to_ask(explanation: &Explanation, connections: bool) -> Vec<(NodeName, KernelQuestion)> {
    let question = |here: bool, exit: Option<&ExitKey>| KernelQuestion {
        source: explanation.address,
        here,
        destination: Some(explanation.question.destination),
        exit: exit.map(ExitKey::identity),
        // The gateway sees the node's tunnel address in the place of the pod's.
        connections: here && connections,
    };
    let source = explanation.node.iter().map(|node| (node, question(true, explanation.exit.as_ref())));
    let gateways = explanation.exit.iter().chain(&explanation.carrier);
    let gateways = gateways.map(|exit| (&exit.gateway, question(false, Some(exit))));
    let mut all: Vec<(NodeName, KernelQuestion)> = Vec::new();
    for (node, question) in source.chain(gateways) {
        if !all.iter().any(|(known, _)| known == node) {
            all.push((node.clone(), question));
        }
    }
    all
}

/// The answer and the advice, if the kernel of the pod's node leads the packets another way than the one decided: its agent is behind, does
/// not know the pod, or never was there; or a handover is in progress.
pub(super) fn elsewhere(
    verdict: Verdict,
    advice: Option<String>,
    decided: &Decided,
    pod: &Pod,
    situation: &Situation<'_>,
) -> (Verdict, Option<String>) {
    let Some(node) = &pod.node else { return (verdict, advice) };
    if matches!(verdict, Verdict::Dropped { .. } | Verdict::Differs { .. }) {
        return (verdict, advice);
    }
    let differs =
        |cause: String, verdict: Verdict| Verdict::Differs { node: node.clone(), cause, decided: Box::new(verdict) };
    let answer = match situation.told.get(node) {
        Some(Ok(answer)) => answer,
        Some(Err(_)) if decided.exit.is_some() && !has_applied(node, situation) => {
            let cause = "no agent has ever reported from it, so its kernel steers nothing; see where the agents' DaemonSet runs";
            return (differs(cause.to_owned(), verdict), advice);
        }
        _ => return (verdict, advice),
    };
    let revision = short_commit(&answer.revision);
    if let Some(held_back) = answer.way.held_back.filter(|_| !pod.host_network && !pod.finished) {
        let only_if = match held_back {
            HeldBack::ByAddress => "",
            HeldBack::ByInterface => ", if its interface is a veth",
        };
        let cause = format!(
            "its agent does not know the pod, so its kernel drops what the pod sends to destinations of policies{only_if}; applied there is {revision}"
        );
        let advice = "ask again in some seconds: this is normal while a pod starts; if it stays, see the agent's log and the runbook StartGuardDrops";
        return (differs(cause, verdict), Some(advice.to_owned()));
    }
    let expected = decided.exit.as_ref().map(ExitKey::identity);
    let carried = decided.carrier.as_ref().map(ExitKey::identity);
    // Behind one number may be the exit or the one that carries it: the route decides.
    if answer.leads_to == expected || (answer.leads_to.is_some() && answer.leads_to == carried) {
        return (verdict, advice);
    }
    let to = match (&answer.leads_to, &answer.way.verdict) {
        (Some(exit), _) => format!("to {exit}"),
        (None, Some(verdict)) => format!("nowhere ({verdict})"),
        (None, None) => "nowhere".to_owned(),
    };
    (differs(format!("its kernel leads the packets {to}; applied there is {revision}"), verdict), advice)
}

/// Whether a node's agent has reported an active commit. A kernel goes on without its agent.
fn has_applied(node: &NodeName, situation: &Situation<'_>) -> bool {
    situation.reports.get(node).is_some_and(|report| report.active.is_some())
}

/// The answer, if a kernel that was read has no way for the packets of the exit that they are led to: as it has to, for a cause of the whole
/// node or of a family.
pub(super) fn closed(
    verdict: Verdict,
    advice: Option<String>,
    views: &[KernelView],
    destination: IpAddr,
    situation: &Situation<'_>,
) -> (Verdict, Option<String>) {
    let carried = match &verdict {
        Verdict::Leaves { instead_of, .. } => instead_of.as_ref().map(|exit| exit.gateway.clone()),
        Verdict::AddressUnknown { .. } => None,
        _ => return (verdict, advice),
    };
    let unreachable = views.iter().find_map(|view| match view {
        KernelView::Read { node, way, .. }
            if carried.as_ref() != Some(node)
                && way.route.as_deref().is_some_and(|route| route.ends_with(UNREACHABLE)) =>
        {
            Some((node, way))
        }
        _ => None,
    });
    let Some((node, way)) = unreachable else { return (verdict, advice) };
    let family = AddressFamily::of(destination);
    let read = situation.kernel.filter(|kernel| kernel.node == *node);
    let mut findings = read.into_iter().flat_map(|kernel| &kernel.compiled.findings).chain(situation.findings_of(node));
    let of_node = findings.find(|one| CLOSES_ALL.contains(&one.code.as_str()) && one.is_about(family));
    let cause = match of_node {
        Some(finding) => finding.message.clone(),
        None => format!("the exit has no way there: {}", way.route.clone().unwrap_or_default()),
    };
    let since = of_node.and_then(|finding| situation.since(node, finding));
    let advice = of_node.and_then(|finding| finding.hint.as_ref()).map(|hint| format!("on {node}: {hint}")).or(advice);
    (Verdict::Dropped { node: Some(node.clone()), reason: "NoRoute", cause, since }, advice)
}

/// The answer, if a kernel that was read does not hold what was decided.
pub(super) fn astray(verdict: Verdict, advice: Option<String>, views: &[KernelView]) -> (Verdict, Option<String>) {
    // What is dropped for another cause has that one to be put right first. That a gateway does not answer may follow from what differs.
    if matches!(&verdict, Verdict::Dropped { reason, .. } if *reason != "GatewaySilent") {
        return (verdict, advice);
    }
    let found = views.iter().find_map(|view| match view {
        KernelView::Read { node, differs, running, .. } if !differs.is_empty() => Some((node, differs, *running)),
        _ => None,
    });
    let Some((node, differs, running)) = found else { return (verdict, advice) };
    let first = &differs[0];
    let what = format!("{} {}", first.object, how(first.desired.is_some(), first.observed.is_some()));
    let more = match differs.len() - 1 {
        0 => String::new(),
        more => format!(" and {}", counted(more, "other difference")),
    };
    let process = if running { "egret runs there and corrects it" } else { "no egret runs there" };
    let advice = if running {
        format!("on {node}: `egret plan` shows each step; the log of `egret run` says why one failed")
    } else {
        format!("on {node}: start `egret run`, which corrects it at once; `egret run --once` does it now")
    };
    let lost = first.object == "nft table inet egret" && first.observed.is_none();
    let effect = if lost { "; without it nothing is steered or held back" } else { "" };
    let cause = format!("{what}{more}{effect}; {process}");
    (Verdict::Differs { node: node.clone(), cause, decided: Box::new(verdict) }, Some(advice))
}

impl KernelReading {
    fn view(&self, exit: Option<&ExitKey>, question: &Question, pod: &Pod) -> KernelView {
        let source = pod.addresses.iter().copied().find(|one| one.is_ipv4() == question.destination.is_ipv4());
        let here = pod.node.as_ref() == Some(&self.node);
        let (way, counted, differs) = self.on_the_way(exit, source.filter(|_| here), question.destination);
        KernelView::Read { node: self.node.clone(), at: self.at, way, counted, differs, running: self.running }
    }

    /// The way of packets through this kernel, what was counted there, and what differs. `from`: the pod's address, on its node.
    fn on_the_way(
        &self,
        exit: Option<&ExitKey>,
        from: Option<IpAddr>,
        destination: IpAddr,
    ) -> (KernelWay, Counted, Vec<Difference>) {
        let id = exit.and_then(|exit| self.compiled.exits.get(exit)).map(|exit| exit.id);
        let walk = |state: &NodeState| way(state, self.range, from, destination, id);
        let (observed, desired) = (walk(&self.state), walk(&self.compiled.desired));
        let same = observed == desired;
        let concerned = Concerned { range: self.range, id, group: desired.group.clone(), same };
        let mut differs = between(&self.compiled.desired, &self.state);
        differs.retain(|drift| concerned.by(drift));
        // What is decisive comes first.
        differs.sort_by_key(|drift| match drift.place {
            DriftPlace::Nft(_) => 0,
            DriftPlace::Rule(_) => 1,
            DriftPlace::Route(_) => 2,
            _ => 3,
        });
        let counted = self.counted(observed.group.as_deref().filter(|_| from.is_some()), id);
        let difference = |Drift { object, desired, observed, .. }| Difference { object, desired, observed };
        (observed, counted, differs.into_iter().map(difference).collect())
    }

    /// What the rules on the way have counted: the exit's packets, and packets of the group that no map had.
    fn counted(&self, group: Option<&str>, id: Option<u32>) -> Counted {
        let of_chain = |name: String| {
            let mut sum = RuleCounter::default();
            let mut found = false;
            let counters =
                self.counters.iter().filter(|((family, chain, _), _)| *family == TableFamily::Inet && *chain == name);
            for (_, counter) in counters {
                sum += *counter;
                found = true;
            }
            found.then_some(sum.packets)
        };
        let lost = group.and_then(|group| of_chain(format!("{GROUP}{group}")));
        Counted {
            packets: id.and_then(|id| of_chain(format!("exit_{id}"))),
            dropped: lost.filter(|packets| *packets > 0),
        }
    }

    /// What this kernel answers whoever explains elsewhere, without connections. `revision`: the commit that is applied.
    pub fn answer(&self, asked: &KernelQuestion, revision: &str) -> Option<KernelAnswer> {
        let destination = asked.destination?;
        let exit = asked.exit.as_ref().and_then(|exit| self.compiled.exits.keys().find(|key| key.identity() == *exit));
        let from = asked.source.filter(|source| asked.here && source.is_ipv4() == destination.is_ipv4());
        let (way, counted, differs) = self.on_the_way(exit, from, destination);
        let of_exit = exit.map(|exit| {
            let ExitReading { fault, carrier, way_out } = self.exit_reading(exit, destination);
            let identity = exit.identity();
            ExitAnswer { identity, fault, carrier: carrier.as_ref().map(ExitKey::identity), way_out }
        });
        let identity_of =
            |id: u32| self.compiled.exits.iter().find(|(_, exit)| exit.id == id).map(|(key, _)| key.identity());
        let led = way.exit.filter(|_| from.is_some());
        Some(KernelAnswer {
            format_version: ANSWER_FORMAT,
            at: self.at,
            revision: revision.to_owned(),
            leads_to: led.and_then(identity_of),
            way,
            counted,
            differs,
            exit: of_exit,
            connections: None,
        })
    }
}

impl Compiled {
    /// Which exit each mark means on this node.
    pub fn exit_numbers(&self, range: DatapathConfig) -> ExitNumbers {
        let exits = self.exits.iter().filter(|(_, exit)| exit.id > 0);
        let exits = exits.map(|(key, exit)| (exit.id, (key.identity(), key.gateway.to_string())));
        ExitNumbers { mask: range.mask, exits: exits.collect() }
    }
}

fn inet(state: &NodeState) -> Option<&Table> {
    state.nft.get(&TableFamily::Inet)
}

/// Walks through a state as a packet does. `from`: the pod's address, on its node.
fn way(
    state: &NodeState,
    range: DatapathConfig,
    from: Option<IpAddr>,
    destination: IpAddr,
    id: Option<u32>,
) -> KernelWay {
    let family = AddressFamily::of(destination);
    let mut way = KernelWay { exit: id, ..KernelWay::default() };
    if let (Some(table), Some(from)) = (inet(state), from) {
        let member = table.sets.get(&format!("group_of{}", family.suffix())).and_then(|set| look_up(set, from));
        if let Some(NftVerdict::Goto(chain)) = member {
            way.group = chain.strip_prefix(GROUP).map(str::to_owned);
            let map = way.group.as_ref().and_then(|name| table.sets.get(&format!("to{}_{name}", family.suffix())));
            let verdict = map.and_then(|map| look_up(map, destination));
            way.exit = verdict.and_then(|verdict| exit_of(table, verdict));
            way.verdict = Some(match (way.exit, verdict) {
                (Some(id), _) => format!("exit {id}"),
                (None, Some(NftVerdict::Drop)) => "dropped".to_owned(),
                (None, Some(NftVerdict::Goto(chain))) if chain.starts_with(DROP) => "dropped".to_owned(),
                (None, Some(NftVerdict::Accept)) => "not steered".to_owned(),
                (None, Some(_)) => "led to no exit".to_owned(),
                (None, None) => "in no map, and dropped".to_owned(),
            });
        } else {
            way.exit = None;
            way.held_back = held_back(table, from, destination);
            let verdict = match (in_set(table, "others", family, from), way.held_back) {
                (true, _) => "in no group",
                (false, Some(HeldBack::ByAddress)) => "not known there yet, and dropped",
                (false, Some(HeldBack::ByInterface)) => "not known there yet, and dropped if its interface is a veth",
                (false, None) => "not classified",
            };
            way.verdict = Some(verdict.to_owned());
        }
    }
    let Some(id) = way.exit else { return way };
    let mark = range.mark(id);
    let rule = state.rules.iter().find(|rule| rule.family == family && rule.mark == mark && rule.from.is_none());
    way.rule = rule.map(|rule| format!("rule {}", rule.priority));
    let table = range.table(id);
    let routes = state
        .routes
        .iter()
        .filter(|(key, _)| key.family == family && key.table == table && key.destination.contains(&destination));
    let best = routes.min_by_key(|(key, _)| (std::cmp::Reverse(key.destination.prefix_len()), key.metric));
    way.route = best.map(|(key, route)| match route {
        Route::Unreachable => format!("table {table}{UNREACHABLE}"),
        _ => route_text(key, route).trim_end_matches(" proto egret").to_owned(),
    });
    way
}

/// The verdict of a map for an address.
fn look_up(set: &Set, address: IpAddr) -> Option<&NftVerdict> {
    match set.elements.iter().find(|(key, _)| has(key, address)) {
        Some((_, Some(ElementData::Verdict(verdict)))) => Some(verdict),
        _ => None,
    }
}

/// Whether an element of a set is or has an address.
fn has(key: &ElementKey, address: IpAddr) -> bool {
    match key {
        ElementKey::Address(one) => *one == address,
        ElementKey::Range(first, last) => (*first..=*last).contains(&address) && first.is_ipv4() == address.is_ipv4(),
        _ => false,
    }
}

/// Whether one of the table's sets, which there is for each family, has an address.
fn in_set(table: &Table, name: &str, family: AddressFamily, address: IpAddr) -> bool {
    let set = table.sets.get(&format!("{name}{}", family.suffix()));
    set.is_some_and(|set| set.elements.keys().any(|key| has(key, address)))
}

/// By what the node drops what a pod sends to a destination, because it does not know the pod; none: it does not.
fn held_back(table: &Table, from: IpAddr, destination: IpAddr) -> Option<HeldBack> {
    let family = AddressFamily::of(destination);
    let of_the_source = |name| in_set(table, name, family, from);
    let of_the_destination = |name| in_set(table, name, family, destination);
    if of_the_source("others") || of_the_destination("cluster") || !of_the_destination("guarded") {
        return None;
    }
    if of_the_source("podnets") {
        return Some(HeldBack::ByAddress);
    }
    let classify = table.chains.get(&format!("{CLASSIFY}{}", family.suffix()))?;
    let by_interface = |statement: &Statement| matches!(statement, Statement::Compare { field: Field::Iifkind, .. });
    let mut statements = classify.rules.iter().flat_map(|rule| &rule.0);
    statements.any(by_interface).then_some(HeldBack::ByInterface)
}

/// The exit that a verdict leads to, by the chains in between.
fn exit_of(table: &Table, verdict: &NftVerdict) -> Option<u32> {
    let mut verdict = verdict;
    for _ in 0..3 {
        let (NftVerdict::Goto(chain) | NftVerdict::Jump(chain)) = verdict else { return None };
        if let Some(id) = chain.strip_prefix("exit_") {
            // The chain that sets the mark must be there.
            return table.chains.contains_key(chain).then(|| id.parse().ok()).flatten();
        }
        let rules = &table.chains.get(chain)?.rules;
        verdict = rules.iter().flat_map(|rule| &rule.0).find_map(|statement| match statement {
            Statement::Verdict(verdict @ NftVerdict::Goto(_)) => Some(verdict),
            _ => None,
        })?;
    }
    None
}

/// Which differences are on the way of a packet.
struct Concerned {
    range: DatapathConfig,
    id: Option<u32>,
    group: Option<String>,
    /// Whether the maps lead both ways alike.
    same: bool,
}

impl Concerned {
    fn by(&self, drift: &Drift) -> bool {
        let numbers = |number: u32, of: fn(DatapathConfig, u32) -> u32| {
            number == of(self.range, 0) || self.id.is_some_and(|id| number == of(self.range, id))
        };
        match &drift.place {
            DriftPlace::Label => false,
            DriftPlace::Link(name) => name == TUNNEL || self.id.is_some(),
            DriftPlace::Neighbour => self.id.is_some(),
            DriftPlace::Rule(priority) => self.id.is_some() && numbers(*priority, DatapathConfig::priority),
            DriftPlace::Route(table) => self.id.is_some() && numbers(*table, DatapathConfig::table),
            DriftPlace::Nft(name) => self.by_nft(name),
        }
    }

    fn by_nft(&self, name: &str) -> bool {
        let id = self.id.map(|id| id.to_string());
        if let Some(number) = name.strip_prefix("exit_").or_else(|| name.strip_prefix("arrived_")) {
            return id.as_deref() == Some(number);
        }
        if name.starts_with("policy_") || name.starts_with(DROP) {
            return !self.same;
        }
        let of_a_group = ["group_", "reset_", "to4_", "to6_", "reset4_", "reset6_"];
        if let Some(group) = of_a_group.iter().find_map(|prefix| name.strip_prefix(prefix))
            && !name.starts_with("group_of")
            && !name.starts_with("reset_of")
        {
            return self.group.as_deref() == Some(group);
        }
        // Other pods' elements do not matter; the walk has looked up this one's.
        if name.starts_with("group_of") || name.starts_with("others") {
            return !self.same;
        }
        true
    }
}
