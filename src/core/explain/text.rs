//! Explanations as text: the verdict in the first line, then a line for each question that comes after it.
//!
//! Names, messages of commits and the like are untrusted: every line is one that a terminal can show. Not here: JSON and colours (`cli`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::reverse::leave;
use super::{AddressUse, Explanation, KernelView, OpenConnection, Source, Verdict};
use crate::core::escape::EscapedText;
use crate::core::facts::PodName;
use crate::core::policy::PolicyId;
use crate::core::report::drift::how;
use crate::core::report::history::Rejected;
use crate::core::snapshot;
use crate::core::text::{counted, short_commit};

/// At most this many pods or connections are listed.
const LISTED: usize = 8;

/// The first line, and a label and a text for each other.
pub type ExplainedLines = (String, Vec<(&'static str, String)>);

/// A time of day, with the date if that is not today's, and how long ago it is.
pub fn since(time: Timestamp, now: Timestamp) -> String {
    let (then, today) = (time.to_zoned(TimeZone::UTC), now.to_zoned(TimeZone::UTC));
    let form = if then.date() == today.date() { "%H:%M:%S" } else { "%Y-%m-%d %H:%M" };
    format!("{} ({})", then.strftime(form), age(time, now))
}

/// How long ago a time is.
pub fn age(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(time).as_secs().max(0);
    snapshot::age(time, now).unwrap_or_else(|| format!("{seconds} s"))
}

/// The verdict in one line.
pub fn verdict_line(verdict: &Verdict, now: Timestamp) -> String {
    match verdict {
        Verdict::Leaves { address, gateway, instead_of } => {
            let instead = instead_of.as_ref().map(|exit| format!(", in the place of {exit}, which does not answer"));
            format!("leaves as {address} through {gateway}{}", instead.unwrap_or_default())
        }
        Verdict::AddressUnknown { exit } => {
            format!("leaves through {} ({}), whose address is not known here", exit.gateway, exit.egress)
        }
        Verdict::Dropped { node, cause, since: began, .. } => {
            let node = node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
            let began = began.map(|began| format!(" since {}", since(began, now))).unwrap_or_default();
            format!("DROPPED{node}{began}: {cause}")
        }
        Verdict::NotSteered { cause, .. } => format!("NOT STEERED: {cause}"),
        Verdict::Differs { node, cause, decided } => {
            format!("DIFFERS on {node}: {cause}; what is decided: {}", verdict_line(decided, now))
        }
    }
}

/// An explanation, not yet broken into the lines of a terminal. `seen`: the address that a server has seen, and whose it is.
pub fn lines(explanation: &Explanation, seen: Option<&(IpAddr, Source)>, now: Timestamp) -> ExplainedLines {
    let mut lines: Vec<(&'static str, String)> = Vec::new();
    if let (Verdict::NotSteered { .. }, Some(node)) = (&explanation.verdict, &explanation.node) {
        let so = format!(
            "the packets leave by {node}'s own routing, with the pod's address or, if the CNI translates it, the node's"
        );
        lines.push(("so", so));
    }
    policy(explanation, now, &mut lines);
    for view in &explanation.kernels {
        lines.push(("kernel", kernel(view)));
    }
    lines.extend(explanation.live.iter().map(|live| ("live", live.line())));
    if let Some((address, source)) = seen {
        lines.push(("seen", format!("{address} is {source}")));
    }
    lines.extend(explanation.elsewhere.iter().map(|text| ("else", text.clone())));
    if let Some(connections) = &explanation.connections {
        open(connections, &mut lines);
    }
    for rejected in &explanation.rejected {
        lines.push(("stale", format!("{}: {}. {}", rejected.place, rejected.message, rejected.instead)));
    }
    lines.push(("waits", waits(explanation)));
    lines.extend(explanation.advice(now).map(|advice| ("do", advice)));
    (plain(&head(explanation, now)), lines.into_iter().map(|(label, text)| (label, plain(&text))).collect())
}

/// The answer to who leaves with an address, in the same form.
pub fn address_lines(address: IpAddr, found: &AddressUse) -> ExplainedLines {
    let pods: BTreeSet<&PodName> = found.carried.iter().flat_map(|one| &one.pods).collect();
    let pods = pods.len();
    let policies: BTreeSet<&PolicyId> = found.carried.iter().map(|one| &one.policy).collect();
    let policies = counted(policies.len(), "policy");
    let head = match (found.carried.len(), found.nodes.first(), &found.pod) {
        (0, Some(node), _) => format!("{address} is the address of the node {node}; no policy leads anything to it"),
        (0, None, Some(pod)) => format!("{address} is the address of the pod {pod}; no policy leads anything to it"),
        (0, None, None) if found.unknown.is_empty() => format!("nobody leaves as {address}"),
        (0, None, None) => format!("nobody is known to leave as {address}"),
        _ if pods == 0 => format!("{address} is the address of {policies}, and no pod of it is known"),
        _ => format!("{} {} as {address}, by {policies}", counted(pods, "pod"), leave(pods)),
    };
    let mut lines = Vec::new();
    for one in &found.carried {
        let except: Vec<String> = one.except.iter().flat_map(|range| range.prefixes(LISTED)).collect();
        let (nets, except) = (listed(&one.destinations), listed(&except));
        let except = if except.is_empty() { except } else { format!(" but not to {except}") };
        lines.push(("policy", format!("{}, {}, through {} to {nets}{except}", one.policy, one.origin, one.gateway)));
        if one.pods.is_empty() {
            continue;
        }
        lines.push(("pods", listed(&one.pods)));
    }
    for exit in &found.unknown {
        lines.push(("unknown", format!("the address of {exit} is not known here")));
    }
    (plain(&head), lines.into_iter().map(|(label, text)| (label, plain(&text))).collect())
}

/// The first of some names, and how many more there are.
fn listed(all: &[impl ToString]) -> String {
    let names: Vec<String> = all.iter().take(LISTED).map(ToString::to_string).collect();
    let more = all.len().saturating_sub(LISTED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", names.join(", "))
}

fn plain(text: &str) -> String {
    // A sentence may be longer than a quote, but not without end.
    const LONGEST: usize = 2_000;
    let mut plain = String::new();
    let mut rest = text;
    while !rest.is_empty() && plain.len() < LONGEST {
        let (part, after) = rest.split_at(rest.floor_char_boundary(200).max(1));
        plain.push_str(&EscapedText::new().quote(part).to_string());
        rest = after;
    }
    plain
}

fn head(explanation: &Explanation, now: Timestamp) -> String {
    let Explanation { question, address, node, verdict, pending, .. } = explanation;
    let mut whose: Vec<String> = address.iter().map(ToString::to_string).collect();
    whose.extend(node.iter().map(ToString::to_string));
    let whose = if whose.is_empty() { String::new() } else { format!(" ({})", whose.join(", ")) };
    let mut head = format!("{}{whose} → {}   {}", question.pod, question.destination, verdict_line(verdict, now));
    if let Some(pending) = pending
        && let Some(then) = &pending.verdict
    {
        let (commit, why) = (short_commit(&pending.commit.commit), &pending.commit.why);
        let _ = write!(head, "; with {commit}, which waits ({why}): {}", verdict_line(then, now));
    }
    head
}

fn policy(explanation: &Explanation, now: Timestamp, lines: &mut Vec<(&'static str, String)>) {
    if let Some(claim) = &explanation.claim {
        let of_document = |one: &Rejected| one.place.split(':').next() == Some(claim.origin.file.as_str());
        let is_stale = explanation.rejected.iter().any(of_document);
        let changed = explanation.changed.as_ref().map(|changed| {
            let author = changed.author.split(" <").next().unwrap_or_default();
            let commit = short_commit(&changed.commit);
            let age = age(changed.time, now);
            match changed.summary.as_str() {
                "" => format!(", published with {commit} ({age})"),
                summary if is_stale => {
                    format!(
                        ", its last good version; its newest, {commit} \"{summary}\" ({author}, {age}), has a mistake"
                    )
                }
                summary => format!(", {commit} \"{summary}\" ({author}, {age})"),
            }
        });
        lines.push(("policy", format!("{}, {}{}", claim.policy, claim.origin, changed.unwrap_or_default())));
        let (number, selector) = &claim.selector;
        let of = match explanation.lost.len() + 1 {
            1 => "1 prefix".to_owned(),
            several => format!("{several} prefixes"),
        };
        let excluded = if claim.excluded { ", which it excludes" } else { "" };
        lines.push(("match", format!("selector {number}: {selector} · {}{excluded}, longest of {of}", claim.net)));
    }
    for lost in &explanation.lost {
        let what = if lost.excluded { " (excluded)" } else { "" };
        lines.push(("not", format!("{} ({}): {}{what} {}", lost.policy, lost.origin, lost.net, lost.because)));
    }
    for near in explanation.near.iter().filter(|_| explanation.claim.is_none()) {
        let missing: Vec<String> = near.missing.iter().map(ToString::to_string).collect();
        let (policy, origin, net) = (&near.policy, &near.origin, near.net);
        lines.push(("near", format!("{policy} ({origin}), {net}, selector {}: {}", near.selector, missing.join("; "))));
    }
}

fn kernel(view: &KernelView) -> String {
    match view {
        KernelView::Read { node, at, way, counted: counters, differs, running } => {
            let time = at.to_zoned(TimeZone::UTC).strftime("%H:%M:%S");
            let mut text = format!("{node} at {time}: {way}");
            for (what, packets) in [("packets", counters.packets), ("dropped", counters.dropped)] {
                if let Some(packets) = packets {
                    let _ = write!(text, "; {packets} {what}");
                }
            }
            if !running {
                text.push_str("; no egret runs there");
            }
            for drift in differs.iter().take(LISTED) {
                let _ = write!(text, "; {} {}", drift.object, how(drift.desired.is_some(), drift.observed.is_some()));
            }
            if let Some(more) = differs.len().checked_sub(LISTED).filter(|more| *more > 0) {
                let _ = write!(text, "; {}", counted(more, "other difference"));
            }
            text
        }
        KernelView::Unanswered { node, why, commit } => {
            let commit = commit.as_ref().map(|commit| format!("; it reports {} as active", short_commit(commit)));
            format!("{node} did not answer: {why}{}", commit.unwrap_or_default())
        }
        KernelView::Reported { node, commit, drift } => {
            let commit = commit.as_ref().map_or("nothing".to_owned(), |commit| short_commit(commit).to_owned());
            let drift =
                if *drift == 0 { String::new() } else { format!(", {} not corrected", counted(*drift, "drift")) };
            format!("{node}: not read here; it reports {commit} as active{drift}")
        }
    }
}

fn open(connections: &[OpenConnection], lines: &mut Vec<(&'static str, String)>) {
    if connections.is_empty() {
        lines.push(("open", "no connection of the pod to this address".to_owned()));
        return;
    }
    let older = connections.iter().filter(|one| one.older).count();
    let older = if older == 0 { String::new() } else { format!(", {older} on an older way") };
    lines.push(("open", format!("{}{older}", counted(connections.len(), "connection"))));
    // A client that tries again and again has hundreds of the same kind.
    let mut alike: BTreeMap<(bool, String), usize> = BTreeMap::new();
    for one in connections {
        let exit = one.exit.as_ref().map_or("not steered".to_owned(), |exit| format!("by {exit}"));
        let answered = if one.answered { "" } else { ", no answer yet" };
        let older = if one.older { "; a new one takes another way" } else { "" };
        let told = format!("replies go to {}, {exit}{answered}{older}", one.replies_to);
        *alike.entry((!one.older, told)).or_default() += 1;
    }
    let count = |of: usize| if alike.len() == 1 { String::new() } else { format!("{of}: ") };
    lines.extend(alike.iter().take(LISTED).map(|((_, told), of)| ("", format!("{}{told}", count(*of)))));
    if let Some(more) = alike.len().checked_sub(LISTED).filter(|more| *more > 0) {
        lines.push(("", format!("and {}", counted(more, "other kind"))));
    }
}

fn waits(explanation: &Explanation) -> String {
    match &explanation.pending {
        None if explanation.waits.is_some() => explanation.waits.clone().unwrap_or_default(),
        None if !explanation.kernels.is_empty() => "nothing (window, signature, suspension)".to_owned(),
        None => "nothing is known of it: no node was read, and none reports".to_owned(),
        Some(pending) => {
            let then = if pending.verdict.is_some() { "" } else { "; it changes nothing here" };
            format!("{}{then}", pending.commit.message())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::name::NodeName;

    #[test]
    fn connections_that_are_alike_are_one_line_and_those_on_an_older_way_come_first() {
        let of = |exit: Option<&str>| OpenConnection {
            node: NodeName::parse("alpha").expect("a name"),
            replies_to: IpAddr::from([10, 1, 1, 77]),
            answered: true,
            exit: exit.map(str::to_owned),
            older: exit.is_none(),
        };
        let told = |connections: &[OpenConnection]| {
            let mut lines = Vec::new();
            open(connections, &mut lines);
            lines.into_iter().map(|(label, text)| format!("{label}|{text}")).collect::<Vec<_>>()
        };
        let mut all = vec![of(Some("beta dev net1"))];
        assert_eq!(told(&all), ["open|1 connection", "|replies go to 10.1.1.77, by beta dev net1"]);
        all.extend(std::iter::repeat_n(of(None), 26));
        let expected = [
            "open|27 connections, 26 on an older way",
            "|26: replies go to 10.1.1.77, not steered; a new one takes another way",
            "|1: replies go to 10.1.1.77, by beta dev net1",
        ];
        assert_eq!(told(&all), expected);
    }
}
