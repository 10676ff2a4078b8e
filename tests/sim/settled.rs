//! What holds in a world in which nothing happens and nothing is wrong: everything that is asked for is active, everybody says so, and
//! nobody does anything.

use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::model::node_name;
use super::network::tally;
use super::world::World;

/// Until when everything has to be as it should be, after the last thing that happened. The repository is polled every half a minute, failures
/// back off to a minute, and the removal of a label waits half a minute for agents.
const BOUND: Duration = Duration::from_mins(4);
/// The same after something was found that only a comparison from time to time finds.
const AFTER_COMPARISON: Duration = Duration::from_mins(2);
/// How long what is new in a policy may leave by its former gateway: nobody's packet shows that while no member is there.
const HANDOVER: Duration = Duration::from_secs(6);

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}

impl World {
    /// Waits until the world is settled.
    pub(crate) async fn settle(&self) -> Result<(), String> {
        let began = Instant::now();
        let until = (began + BOUND).max(self.compared + AFTER_COMPARISON);
        let mut since: Option<Instant> = None;
        loop {
            self.check()?;
            let Some(why) = self.unsettled() else {
                if since.get_or_insert_with(Instant::now).elapsed() >= HANDOVER {
                    break;
                }
                sleep(Duration::from_millis(500)).await;
                continue;
            };
            since = None;
            if Instant::now() > until {
                return Err(format!("not settled {} s after the last fault: {why}", began.elapsed().as_secs()));
            }
            sleep(Duration::from_millis(500)).await;
        }
        self.log.note(&format!("settled after {:?}", began.elapsed()));
        // A view that lost an event may still be of the past, and no packet shows it yet.
        if Instant::now() > self.compared {
            self.checker.settled();
        }
        Ok(())
    }

    /// Why the world is not settled.
    fn unsettled(&self) -> Option<String> {
        let config = self.api.stored("egressconfigs.egret.dev", "", "default").unwrap_or_default();
        let revision = config["spec"]["revision"].as_str().unwrap_or_default();
        let newest = self.pushed.last()?;
        let published = self.git.position(revision).map(|position| &self.pushed[position]);
        if !published.is_some_and(|one| one.asks_the_same(newest)) {
            return Some(format!("published is {:?}", self.git.position(revision)));
        }
        let policies = self.api.all_stored("publishedegresspolicies.egret.dev");
        if policies.len() != newest.policies.len() {
            return Some(format!("{} policies are published, not {}", policies.len(), newest.policies.len()));
        }
        if let Some(why) = unready(&config).filter(|_| newest.broken.is_empty()) {
            return Some(format!("the EgressConfig: {why}"));
        }
        for number in 0..self.nodes() {
            let name = node_name(number);
            let node = self.api.stored("egressnodes.egret.dev", "", &name).unwrap_or_default();
            if node["status"]["revision"] != revision {
                return Some(format!("{name} has {}", node["status"]["revision"]));
            }
            if let Some(why) = unready(&node) {
                return Some(format!("{name}: {why}"));
            }
            let wanted = newest.groups.iter().find(|(_, nodes)| nodes.contains(&number));
            let wanted = wanted.map(|(group, _)| format!("g{group}"));
            let labelled = self.api.stored("nodes", "", &name).unwrap_or_default();
            let labels = &labelled["metadata"]["labels"];
            if labels["egress"].as_str() != wanted.as_deref() {
                return Some(format!("{name} is labelled {}, not {wanted:?}", labels["egress"]));
            }
        }
        for policy in &policies {
            let name = policy["metadata"]["name"].as_str().unwrap_or_default();
            let Some(known) = newest.policies.get(name) else { return Some(format!("{name} is published")) };
            let served = newest.groups[&known.group].iter().any(|node| self.ready.contains(node));
            match unready(policy) {
                Some(why) if served => return Some(format!("policy {name}: {why}")),
                None if !served => return Some(format!("policy {name} is said to be Ready, and has no gateway")),
                _ => {}
            }
        }
        self.checker.unsettled(&self.ready)
    }

    /// Nothing happens for a while, and nobody does anything but what has to be done.
    pub(crate) async fn idle(&self) -> Result<(), String> {
        // Exits that were left are kept for ten minutes, and pod counts may wait for five.
        let kept = Instant::now() + Duration::from_mins(12);
        self.wait(kept.max(self.compared + AFTER_COMPARISON) - Instant::now()).await?;
        let since = Instant::now();
        self.wait(Duration::from_mins(2)).await?;
        for process in self.processes() {
            let sent = process.line.sent_since(since);
            let of_lease = |path: &str| path.contains("/leases");
            let writes: Vec<_> = sent.iter().filter(|one| one.is_write() && !of_lease(&one.path)).cloned().collect();
            let leases = sent.iter().filter(|one| of_lease(&one.path)).count();
            let (rest, git) = (sent.len() - leases, self.git.asked_since(since, &process.name));
            let commits = self.reports.commits_since(since, &process.name);
            if !writes.is_empty() || commits > 0 || leases > 70 || rest > 24 || git > 9 {
                let name = &process.name;
                return Err(format!("{name} is busy in an idle world: {git} to Git, {:?}", tally(&sent)));
            }
        }
        let warnings = self.log.warnings_since(since);
        if warnings > 2 { Err(format!("{warnings} warnings in two idle minutes")) } else { Ok(()) }
    }

    /// What every process did in the last minute, whatever happened to it.
    pub(crate) fn budget(&self, since: Instant, pushes: usize) -> Result<(), String> {
        for process in self.processes() {
            let sent = process.line.sent_since(since);
            let git = self.git.asked_since(since, &process.name);
            let commits = self.reports.commits_since(since, &process.name);
            let writes = sent.iter().filter(|one| one.is_write()).count();
            let statuses = sent.iter().filter(|one| one.is_write() && one.path.ends_with("/status")).count();
            let of_agent = process.name.starts_with('n');
            if git > 40 || commits > 60 || sent.len() > 900 || writes > 400 || of_agent && statuses > 20 + 4 * pushes {
                let name = &process.name;
                return Err(format!(
                    "{name} asked Git {git} times and the API server for {:?} in a minute",
                    tally(&sent)
                ));
            }
        }
        let warnings = self.log.warnings_since(since);
        if warnings > 250 { Err(format!("{warnings} warnings in a minute")) } else { Ok(()) }
    }
}

/// Why an object is not Ready, by its own words.
fn unready(object: &Value) -> Option<String> {
    let ready = condition(object, "Ready");
    if object["status"]["observedGeneration"] != object["metadata"]["generation"] {
        return Some(format!("its status is of generation {}", object["status"]["observedGeneration"]));
    }
    (ready["status"] != "True").then(|| format!("{}: {}", ready["reason"], ready["message"]))
}
