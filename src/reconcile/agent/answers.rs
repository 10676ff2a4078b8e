//! What an agent answers to people (`serve::answers`): what its kernel holds for a question, its doctor's checks, its part of a support bundle.
//!
//! The loop reads what only it knows, between two rounds, and changes nothing. What takes long, or needs sockets of its own (connection
//! tracking, the doctor), is read beside the loop, by a thread. Not here: who may ask (`serve`), and what it means (`core::explain`).

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;

use serde_json::json;

use super::Agent;
use crate::cluster::live::{ApiClient, Reviewed};
use crate::core::explain::{KernelAnswer, KernelQuestion};
use crate::core::name::NodeName;
use crate::core::state::ownership::DatapathConfig;
use crate::core::support;
use crate::kernel::conntrack;
use crate::kernel::doctor::{self, DoctorInput};
use crate::reconcile::node::kernel::NodeKernel;
use crate::serve::answers::{Asked, Question, Review, TokenVerdict};
use crate::telemetry::chain;

/// So many answers are made beside the loop at once.
pub(super) const BESIDE: usize = 2;

/// Asks the API server about the tokens of those who ask.
pub(super) fn review(live: &ApiClient, namespace: String, node: &NodeName) -> Review {
    let (live, node) = (live.clone(), node.clone());
    Box::new(move |token| {
        let (live, namespace, node) = (live.clone(), namespace.clone(), node.clone());
        Box::pin(async move {
            match live.review_token(&token, &namespace, &node).await {
                Ok(Reviewed::Viewer) => Ok(TokenVerdict::MayAsk),
                Ok(Reviewed::Other) => Ok(TokenVerdict::Other),
                Ok(Reviewed::Invalid) => Ok(TokenVerdict::Invalid),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "a token of somebody who asks cannot be reviewed");
                    Err(chain(&error))
                }
            }
        })
    })
}

/// Work beside the loop; it is done by a thread of its own.
type Work = Pin<Box<dyn Future<Output = Result<String, String>>>>;

impl<K: NodeKernel> Agent<K> {
    /// Answers a question.
    pub(super) async fn answer(&mut self, question: Question) {
        if question.is_over() {
            return;
        }
        match question.asked.clone() {
            Asked::Kernel(asked) => match self.kernel_answer(&asked).await {
                Ok(answer) => match asked.source.zip(asked.destination).filter(|_| asked.connections) {
                    Some(way) => self.with_connections(question, way, answer),
                    None => question.answer(text(&answer)),
                },
                Err(why) => question.answer(Err(why)),
            },
            Asked::Doctor => {
                let input = self.doctor_input();
                self.beside(question, move || Box::pin(async move { checks(&doctor::examine(&input).await) }));
            }
            Asked::Node => {
                let answer = self.node_answer().await;
                question.answer(answer);
            }
        }
    }

    /// The ranges of marks and tables of this node.
    fn range(&self) -> DatapathConfig {
        let of_config = self.driver.intent.as_ref().map(|intent| intent.set.config.range);
        self.driver.reconciler.memory.kept().range().or(of_config).unwrap_or_default()
    }

    fn revision(&self) -> String {
        self.driver.intent.as_ref().map(|intent| intent.commit.id.to_string()).unwrap_or_default()
    }

    /// Why there is no answer about the kernel.
    fn nothing(&self) -> String {
        match &self.failed {
            Some(why) => format!("its last round failed: {why}"),
            None => "nothing is applied there yet".to_owned(),
        }
    }

    async fn kernel_answer(&mut self, asked: &KernelQuestion) -> Result<KernelAnswer, String> {
        let read = self.driver.reconciler.reading().await;
        let reading = read.map_err(|error| format!("its kernel cannot be read: {}", chain(&error)))?;
        let Some(reading) = reading else { return Err(self.nothing()) };
        let answer = reading.kernel.answer(asked, &self.revision());
        answer.map(KernelAnswer::bounded).ok_or_else(|| "the question has no destination".to_owned())
    }

    /// Adds the pod's connections to an answer. A busy gateway tracks a million: the loop does not wait for them.
    fn with_connections(&self, question: Question, (source, destination): (IpAddr, IpAddr), answer: KernelAnswer) {
        let Some(compiled) = self.driver.reconciler.applied() else { return };
        let numbers = compiled.exit_numbers(self.range());
        self.beside(question, move || {
            Box::pin(async move {
                let tracked = conntrack::of_source(source).await;
                let tracked = tracked.map_err(|error| format!("connections cannot be listed: {}", chain(&error)))?;
                let connections = Some(numbers.connections(&tracked, destination));
                text(&KernelAnswer { connections, ..answer }.bounded())
            })
        });
    }

    /// Answers by a thread of its own, as far as one is free.
    fn beside(&self, question: Question, work: impl FnOnce() -> Work + Send + 'static) {
        let Ok(place) = self.beside.clone().try_acquire_owned() else {
            question.answer(Err("the agent is busy with other questions".to_owned()));
            return;
        };
        let done = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            question.answer(match runtime {
                Ok(runtime) => runtime.block_on(work()),
                Err(error) => Err(format!("no thread for it: {error}")),
            });
            drop(place);
        };
        // Without a thread the question is dropped, and the client is answered that the agent is busy.
        if let Err(error) = std::thread::Builder::new().name("egret-answer".to_owned()).spawn(done) {
            tracing::warn!(%error, "a question is not answered");
        }
    }

    /// What the doctor is to know: what this agent knows of the cluster.
    fn doctor_input(&self) -> DoctorInput {
        let reconciler = &self.driver.reconciler;
        let facts = reconciler.cluster.facts();
        let node = &reconciler.node;
        let peers = facts.nodes.iter().filter(|(name, _)| *name != node);
        let peers =
            peers.filter_map(|(name, peer)| Some((name.clone(), peer.tunnel_address()?, peer.pod_cidrs.clone())));
        let set = self.driver.intent.as_ref().map(|intent| &intent.set);
        DoctorInput {
            range: self.range(),
            // Egret has taken these bits already, where it chooses them itself.
            mask_is_given: true,
            peers: peers.collect(),
            node: facts.nodes.get(node).map(|found| (node.clone(), found.clone())),
            own_policies: set
                .map(|set| set.policies.keys().map(|id| id.name.to_string()).collect())
                .unwrap_or_default(),
            ..DoctorInput::default()
        }
    }

    /// What a support bundle has of this node.
    async fn node_answer(&mut self) -> Result<String, String> {
        let (range, revision) = (self.range(), self.revision());
        let reconciler = &mut self.driver.reconciler;
        let at = reconciler.clock.now().to_string();
        let state = reconciler.kernel.observe().await.map(|observed| support::listing(&observed.state));
        let counters = reconciler.kernel.counters().await.map(|counters| support::counters(&counters));
        let lines = |read: Result<String, crate::kernel::KernelError>| {
            read.unwrap_or_else(|error| format!("not read: {}\n", chain(&error)))
        };
        let findings: Vec<String> = reconciler
            .applied()
            .map(|compiled| compiled.findings.iter().map(ToString::to_string).collect())
            .unwrap_or_default();
        let answer = json!({
            "formatVersion": 1,
            "node": reconciler.node.as_str(),
            "version": env!("CARGO_PKG_VERSION"),
            "kernelRelease": self.kernel,
            "at": at,
            "revision": revision,
            "failed": self.failed,
            "notTaken": self.not_taken.as_ref().map(|(why, _)| why.to_string()),
            "range": {"mask": format!("{:#x}", range.mask), "firstTable": range.first, "port": range.port, "mtu": range.mtu},
            "findings": findings,
            "status": self.last_status,
            "state": lines(state),
            "counters": lines(counters),
        });
        Ok(answer.to_string())
    }
}

fn text(answer: &KernelAnswer) -> Result<String, String> {
    serde_json::to_string(answer).map_err(|error| error.to_string())
}

fn checks(found: &[doctor::Check]) -> Result<String, String> {
    let checks = serde_json::to_value(found).map_err(|error| error.to_string())?;
    Ok(json!(BTreeMap::from([("formatVersion", json!(1)), ("checks", checks)])).to_string())
}
