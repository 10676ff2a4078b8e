//! The form of `egret explain`, and its answer: the same lines, by the same function.

use std::net::IpAddr;

use maud::{Markup, html};

use super::hint_of;
use super::layout::badge;
use super::query::Query;
use super::site::PolicyLog;
use crate::core::address_class::asked_address;
use crate::core::escape::shown;
use crate::core::explain::{ExplainedLines, Question, UnknownPod, Verdict, address_lines, leaving_as, lines, seen_as};
use crate::core::facts::PodName;
use crate::core::overview::Urgency;
use crate::core::page::Knowledge;
use crate::core::text::url_part;

/// At most so many pods are offered while a name is typed.
const OFFERED: usize = 200;

/// What a request asks.
#[derive(Debug)]
pub(super) enum Asked {
    /// The form alone.
    Nothing,
    /// What becomes of a pod's packets.
    Pod(Question),
    /// Who leaves with an address.
    Address(IpAddr),
    /// Something that cannot be asked.
    Mistake(String),
}

impl Asked {
    pub(super) fn of(query: &Query) -> Self {
        let (pod, to, address) = (query.get("pod"), query.get("to"), query.get("address"));
        match (pod, to, address) {
            ("", "", "") => Self::Nothing,
            ("", "", address) => match asked_address(address) {
                Ok(address) => Self::Address(address),
                Err(why) => Self::Mistake(format!("“{address}”: {why}")),
            },
            (pod, to, _) => {
                let named = pod.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty());
                match (named, asked_address(to)) {
                    (None, _) => Self::Mistake(format!("“{pod}” is no pod: write NAMESPACE/NAME")),
                    (_, Err(why)) => Self::Mistake(format!("“{to}”: {why}")),
                    (Some((namespace, name)), Ok(destination)) => {
                        let pod = PodName { namespace: namespace.to_owned(), name: name.to_owned() };
                        Self::Pod(Question { pod, destination })
                    }
                }
            }
        }
    }
}

/// The fields, for any page.
pub(super) fn fields(query: &Query, known: &Knowledge) -> Markup {
    form(query, Some(known))
}

/// The forms. `known`: offers the pods that are known.
pub(super) fn form(query: &Query, known: Option<&Knowledge>) -> Markup {
    let pods = known.map(|known| &known.facts.pods).filter(|pods| !pods.is_empty());
    html! {
        form.ask method="get" action="/explain" {
            label for="pod" { "Pod" }
            input #pod name="pod" required placeholder="NAMESPACE/NAME" value=(query.get("pod")) list=[pods.map(|_| "pods")] autocomplete="off" spellcheck="false";
            label for="to" { "to address" }
            input #to name="to" required placeholder="10.0.4.2" value=(query.get("to")) autocomplete="off" spellcheck="false";
            label for="seen" { "seen there as (if known)" }
            input #seen name="seen" value=(query.get("seen")) autocomplete="off" spellcheck="false";
            button { "Explain" }
            @if let Some(pods) = pods {
                datalist #pods { @for pod in pods.keys().take(OFFERED) { option value=(pod) {} } }
            }
        }
        form.ask method="get" action="/explain" {
            label for="address" { "Or: who leaves as" }
            input #address name="address" required placeholder="10.0.3.42" value=(query.get("address")) autocomplete="off" spellcheck="false";
            button { "Show" }
        }
    }
}

/// The answer about a pod, or that there is none.
pub(super) fn answer(
    known: &Knowledge,
    question: &Question,
    log: &dyn PolicyLog,
    query: &Query,
) -> Result<Markup, UnknownPod> {
    let mut explanation = known.explain(question)?;
    let file = explanation.document().map(|(_, origin)| origin.file.clone());
    explanation.changed = file.and_then(|file| log.last_change(&file, &known.revision));
    let seen = asked_address(query.get("seen")).ok();
    let seen = seen.map(|address| (address, known.with_situation(|all| seen_as(address, question, all))));
    let lines = lines(&explanation, seen.as_ref(), known.now);
    let urgency = match &explanation.verdict {
        Verdict::Leaves { instead_of: None, .. } => Urgency::Fine,
        Verdict::Dropped { .. } | Verdict::Differs { .. } => Urgency::Bad,
        _ => Urgency::Doubtful,
    };
    let state = explanation.verdict.reason();
    let command = format!("egret explain {} --to {}", question.pod, question.destination);
    Ok(html! { (form(query, None)) (shown_lines((urgency, state), &lines, &command)) })
}

/// Who leaves with an address.
pub(super) fn leaving(known: &Knowledge, address: IpAddr, query: &Query) -> Markup {
    let found = known.with_situation(|situation| leaving_as(address, situation));
    let lines = address_lines(address, &found);
    let command = format!("egret explain --address {address}");
    let note = known.overview.is_some().then(|| html! {
        p.hint { "The controller watches no pods, so that none is counted here. " code { (command) } " with a kubeconfig lists them." }
    });
    html! { (form(query, None)) (shown_lines((Urgency::Fine, "address"), &lines, &command)) @if let Some(note) = note { (note) } }
}

/// There is no such pod.
pub(super) fn unknown(query: &Query, unknown: &UnknownPod) -> Markup {
    html! {
        (form(query, None))
        section.note.bad aria-label="Answer" {
            h1 { span.mark aria-hidden="true" { "✕ " } (shown(&unknown.to_string())) "; " (shown(&hint_of(unknown))) }
            @if let Some(near) = &unknown.near {
                p { a href=(format!("/explain?pod={}&to={}", url_part(near), url_part(query.get("to")))) { "Explain " (shown(near)) } }
            }
        }
    }
}

fn shown_lines((urgency, state): (Urgency, &str), (head, lines): &ExplainedLines, command: &str) -> Markup {
    html! {
        section.answer.(super::layout::class(urgency)) aria-label="Answer" {
            h1.answer { (badge(urgency, state)) " " span { (head) } }
            dl { @for (label, text) in lines { dt { (label) } dd { (text) } } }
        }
        p.hint { "On a node, or with a kubeconfig: " code { (command) } }
    }
}
