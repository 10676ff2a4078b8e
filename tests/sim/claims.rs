//! What a push, a pod and an idle hour cost, and how soon everybody knows: the numbers that docs/scale.md states, on simulated time, where
//! a write takes as long as a real one.
//!
//! Not here: random worlds (the parent module).

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::model::{ModelPolicy, node_name, pod};
use super::network::{Link, Sent, tally};
use super::process::Process;
use super::world::World;
use super::{in_world, log::Log};
use crate::apiserver::{Fault, Filter};

const SECOND: Duration = Duration::from_secs(1);

/// A settled world of three nodes, in which a write takes 20 to 80 ms and nothing happens.
async fn calm(log: Log) -> World {
    let mut world = World::of_nodes(7, 3, log);
    world.set_weather(|weather| weather.slow_writes = Some((Duration::from_millis(20), Duration::from_millis(80))));
    world.start();
    world.settle().await.expect("a settled world");
    sleep(Duration::from_mins(12)).await;
    world
}

fn config(world: &World) -> Value {
    world.api.get("egressconfigs.egret.dev", "", "default").expect("an EgressConfig")
}

fn ready(object: &Value) -> (String, String) {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == "Ready").unwrap_or_default();
    (found["status"].as_str().unwrap_or_default().to_owned(), found["message"].as_str().unwrap_or_default().to_owned())
}

/// The controller that leads, and the other one.
fn leader(world: &World) -> (&Process, &Process) {
    let holder = config(world)["status"]["leader"].as_str().unwrap_or_default().to_owned();
    let [one, other] = &world.controllers[..] else { panic!("two controllers") };
    if one.name == holder { (one, other) } else { (other, one) }
}

/// How long until something holds; fails where it takes longer than a minute.
async fn until(world: &World, holds: impl Fn(&World) -> bool) -> Duration {
    let began = Instant::now();
    while !holds(world) {
        assert!(began.elapsed() < Duration::from_mins(1), "{}", world.log);
        sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

fn writes(process: &Process, since: Instant) -> Vec<Sent> {
    let sent = process.line.sent_since(since).into_iter();
    sent.filter(|one| one.is_write() && !one.path.contains("/leases") && !one.path.contains("/events")).collect()
}

/// A policy that no pod and no node label minds.
fn policy(world: &mut World, name: &str, network: u8) {
    world.revision.policies.insert(name.to_owned(), ModelPolicy { team: 9, network, group: 0 });
}

#[test]
fn a_push_of_one_policy_is_one_write_of_it_one_of_the_head_their_statuses_and_one_of_each_node() {
    in_world(async |log| {
        let mut world = calm(log).await;
        let since = Instant::now();
        policy(&mut world, "p99", 0);
        world.push();
        leader(&world).0.announce_push();
        sleep(30 * SECOND).await;
        assert_eq!(world.published().policies.len(), world.revision.policies.len());
        let path = |rest: &str| format!("PATCH /apis/egret.dev/v1alpha1/{rest}");
        let of_leader = tally(&writes(leader(&world).0, since));
        let expected = [
            path("egressconfigs/default"),
            path("egressconfigs/default/status"),
            path("publishedegresspolicies/p99"),
            path("publishedegresspolicies/p99/status"),
        ];
        assert_eq!(of_leader, expected.map(|one| (one, 1)).into());
        assert_eq!(tally(&writes(leader(&world).1, since)), [].into());
        for agent in &world.agents {
            let once = [(path(&format!("egressnodes/{}/status", agent.name)), 1)].into();
            assert_eq!(tally(&writes(agent, since)), once);
        }
    });
}

#[test]
fn two_hundred_policies_are_published_within_two_seconds_and_each_node_reports_once() {
    in_world(async |log| {
        let mut world = calm(log).await;
        let since = Instant::now();
        for number in 100..300 {
            policy(&mut world, &format!("p{number}"), 1);
        }
        world.push();
        leader(&world).0.announce_push();
        let took = until(&world, |world| world.published().policies.len() == world.revision.policies.len()).await;
        assert!(took < 2 * SECOND, "{took:?}");
        sleep(30 * SECOND).await;
        for agent in &world.agents {
            assert_eq!(writes(agent, since).len(), 1, "{:?}", tally(&writes(agent, since)));
        }
        assert_eq!(writes(leader(&world).0, since).len(), 200 + 200 + 2);
        world.settle().await.expect("a settled world");
    });
}

#[test]
fn a_webhook_to_the_replica_that_does_not_lead_is_as_good_as_one_to_the_leader() {
    in_world(async |log| {
        let mut world = calm(log).await;
        policy(&mut world, "p99", 0);
        world.push();
        leader(&world).1.announce_push();
        let took = until(&world, |world| world.published().policies.contains_key("p99")).await;
        assert!(took < SECOND, "{took:?}");
    });
}

#[test]
fn a_controller_that_lost_the_lease_asks_git_no_more_often_than_it_polls() {
    in_world(async |log| {
        let world = calm(log).await;
        let former = leader(&world).0.name.clone();
        let line = &leader(&world).0.line;
        line.set_weather(|weather| weather.link = Link::Silent);
        sleep(40 * SECOND).await;
        line.set_weather(|weather| weather.link = Link::Up);
        sleep(30 * SECOND).await;
        assert_ne!(leader(&world).0.name, former, "the other one leads");
        let since = Instant::now();
        sleep(Duration::from_mins(2)).await;
        assert!(world.git.asked_since(since, &former) <= 8, "{}", world.git.asked_since(since, &former));
        assert!(world.log.warnings_since(since) == 0, "{}", world.log);
    });
}

#[test]
fn a_pod_that_starts_during_an_outage_is_steered_within_two_seconds_of_the_servers_return() {
    in_world(async |log| {
        let mut world = calm(log).await;
        world.set_weather(|weather| weather.link = Link::Refused);
        sleep(30 * SECOND).await;
        for _ in 0..6 {
            world.start_pod();
        }
        sleep(10 * SECOND).await;
        // The real server forgets the past, and custom kinds are not ready at once.
        world.api.compact();
        let initializing = Filter::all().verb("list").resource("egressconfigs").resource("publishedegresspolicies");
        world.api.fault_times(initializing, Fault::TooManyRequests(1), 3);
        world.set_weather(|weather| weather.link = Link::Up);
        world.processes().for_each(|process| process.line.cut());
        let ready = world.ready.clone();
        let took = until(&world, |world| world.checker.unsettled(&ready).is_none()).await;
        assert!(took < 2 * SECOND, "{took:?}");
        world.check().expect("no packet with a wrong address");
    });
}

#[test]
fn what_keeps_a_commit_from_being_published_stands_in_the_status_in_the_servers_words() {
    for refused in ["egressconfigs/", "publishedegresspolicies/"] {
        in_world(async |log| {
            let mut world = calm(log).await;
            let fault = world.api.fault(Filter::all().verb("patch").resource(refused), Fault::Status(403));
            policy(&mut world, "p99", 0);
            world.push();
            leader(&world).0.announce_push();
            let took = until(&world, |world| ready(&config(world)).0 == "False").await;
            assert!(took < 5 * SECOND, "{took:?}");
            let (_, message) = ready(&config(&world));
            assert!(message.contains("as the test wishes"), "{message}");
            let since = Instant::now();
            sleep(Duration::from_mins(2)).await;
            let statuses = writes(leader(&world).0, since).iter().filter(|one| one.path.ends_with("/status")).count();
            assert!(statuses <= 2, "what was said is not said again: {statuses}");
            world.api.clear(fault);
            world.settle().await.expect("a settled world");
        });
    }
}

#[test]
fn what_one_node_says_of_fencing_tokens_moves_nobody_else() {
    in_world(async |log| {
        let mut world = calm(log).await;
        let before = config(&world)["spec"]["fence"].as_i64();
        world.api.patch("egressnodes.egret.dev", "", &node_name(0), &json!({"status": {"fence": 1_073_741_823}}));
        world.api.delete("leases.coordination.k8s.io", "egret-system", "egret-controller");
        policy(&mut world, "p99", 0);
        world.push();
        world.settle().await.expect("a settled world");
        let after = config(&world)["spec"]["fence"].as_i64();
        assert!(before <= after && after < Some(10), "{before:?}, then {after:?}");
    });
}

#[test]
fn an_installation_that_is_made_anew_is_followed_whatever_agents_remember() {
    in_world(async |log| {
        let mut world = calm(log).await;
        // The Lease counted far, and then everything was removed by hand but for the agents.
        let lease = ("leases.coordination.k8s.io", "egret-system", "egret-controller");
        world.api.patch(lease.0, lease.1, lease.2, &json!({"spec": {"leaseTransitions": 500, "holderIdentity": ""}}));
        until(&world, |world| config(world)["spec"]["fence"].as_i64() >= Some(500)).await;
        sleep(20 * SECOND).await;
        world.controllers.iter().for_each(Process::kill);
        world.api.delete(lease.0, lease.1, lease.2);
        world.api.delete("egressconfigs.egret.dev", "", "default");
        for policy in world.api.list("publishedegresspolicies.egret.dev") {
            world.api.delete(
                "publishedegresspolicies.egret.dev",
                "",
                policy["metadata"]["name"].as_str().expect("a name"),
            );
        }
        sleep(10 * SECOND).await;
        policy(&mut world, "p99", 0);
        world.push();
        world.controllers = vec![world.controller("gamma"), world.controller("delta")];
        world.settle().await.expect("a settled world");
        assert!(config(&world)["spec"]["fence"].as_i64() < Some(10));
    });
}

#[test]
fn an_agent_that_is_started_again_changes_no_time_in_its_status() {
    in_world(async |log| {
        let mut world = calm(log).await;
        let status =
            |world: &World| world.api.get("egressnodes.egret.dev", "", "n0").expect("a status")["status"].clone();
        let before = status(&world);
        world.agents[0].kill();
        world.machines[0].owner_died();
        sleep(3 * SECOND).await;
        world.agents[0] = world.agent(0);
        sleep(30 * SECOND).await;
        assert_eq!(status(&world), before);
        world.settle().await.expect("a settled world");
    });
}

#[test]
fn an_agent_that_dies_or_hangs_is_seen_within_45_seconds_and_everybody_says_so_until_it_is_back() {
    in_world(async |log| {
        let mut world = calm(log).await;
        let gateway = *world.revision.groups[&0].first().expect("a gateway");
        let of_gateway =
            |world: &World| world.api.get("egressnodes.egret.dev", "", &node_name(gateway)).unwrap_or_default();
        let policies = world.revision.policies.iter().filter(|(_, policy)| policy.group == 0);
        let policies: Vec<String> = policies.map(|(name, _)| name.clone()).collect();
        let of_policy = |world: &World, name: &String| {
            ready(&world.api.get("publishedegresspolicies.egret.dev", "", name).unwrap_or_default())
        };
        for hangs in [false, true] {
            let agent = &world.agents[usize::from(gateway)];
            if hangs {
                agent.line.freeze(true);
            } else {
                agent.kill();
                world.machines[usize::from(gateway)].owner_died();
            }
            let took = until(&world, |world| ready(&config(world)).0 == "Unknown").await;
            assert!(took < 45 * SECOND, "{took:?}");
            let (_, message) = ready(&config(&world));
            assert!(message.contains(&node_name(gateway)) && message.contains("has not been heard"), "{message}");
            sleep(SECOND).await;
            assert_eq!(ready(&of_gateway(&world)).0, "Unknown");
            assert!(policies.iter().all(|name| of_policy(&world, name).0 == "Unknown"), "{}", world.log);
            world.check().expect("packets go on");
            if hangs {
                world.agents[usize::from(gateway)].line.freeze(false);
            } else {
                world.agents[usize::from(gateway)] = world.agent(gateway);
            }
            world.settle().await.expect("a settled world");
            assert_eq!(ready(&of_gateway(&world)).0, "True");
        }
    });
}

#[test]
fn a_published_policy_that_somebody_deletes_is_published_again_and_an_event_says_so() {
    in_world(async |log| {
        let world = calm(log).await;
        let name = world.published().policies.keys().next().cloned().expect("a policy");
        world.api.delete("publishedegresspolicies.egret.dev", "", &name);
        until(&world, |world| world.api.get("publishedegresspolicies.egret.dev", "", &name).is_some()).await;
        world.settle().await.expect("a settled world");
        let events = world.api.list("events.events.k8s.io");
        let note = |event: &Value| event["note"].as_str().unwrap_or_default().to_owned();
        assert!(events.iter().any(|event| note(event).contains(&format!("{name} was deleted"))), "{events:#?}");
    });
}

#[test]
fn an_idle_hour_costs_leases_and_the_renewal_of_watches() {
    in_world(async |log| {
        let world = calm(log).await;
        let since = Instant::now();
        sleep(Duration::from_hours(1)).await;
        for process in world.processes() {
            let sent = process.line.sent_since(since);
            assert!(writes(process, since).is_empty(), "{}: {:?}", process.name, tally(&sent));
            let of_leases = sent.iter().filter(|one| one.path.contains("/leases") && !one.watch).count();
            let rest = sent.len() - of_leases;
            // Five or six watches, renewed every two and a half to five minutes, and what checks them.
            assert!(rest < 200, "{}: {:?}", process.name, tally(&sent));
            assert!(world.git.asked_since(since, &process.name) <= 240);
        }
        assert_eq!(world.log.warnings_since(since), 0, "{}", world.log);
    });
}

#[test]
fn an_hour_with_assertions_costs_a_list_of_pods_every_five_minutes_and_a_write_when_one_breaks() {
    in_world(async |log| {
        let mut world = calm(log).await;
        let assertion = "apiVersion: egret.dev/v1alpha1\nkind: EgressAssertion\nmetadata: {name: own}\nspec:\n  selectors: [{podSelector: \
                         {matchLabels: {team: t9}}}]\n  destinationCIDRs: [10.0.4.0/24]\n  neverSteered: true\n";
        // Snapshots list pods, too.
        let settings = "apiVersion: egret.dev/v1alpha1\nkind: Config\nreports: {snapshot: {enabled: false}}\n";
        let files = [("assertions/own.yaml", assertion), ("egret.yaml", settings)];
        world.revision.others = files.map(|(path, text)| (path.to_owned(), text.to_owned())).into();
        policy(&mut world, "p99", 0);
        world.push();
        leader(&world).0.announce_push();
        let holds = |world: &World| {
            let conditions = config(world)["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let found = conditions.into_iter().find(|condition| condition["type"] == "AssertionsHold");
            found.map(|found| found["status"].as_str().unwrap_or_default().to_owned())
        };
        until(&world, |world| holds(world).as_deref() == Some("True")).await;
        sleep(Duration::from_mins(2)).await;
        let since = Instant::now();
        sleep(Duration::from_hours(1)).await;
        let lists = |process: &Process| {
            process
                .line
                .sent_since(since)
                .iter()
                .filter(|one| one.path.starts_with("/api/v1/pods") && !one.watch)
                .count()
        };
        let (one, other) = leader(&world);
        assert_eq!(lists(one), 12);
        assert_eq!((lists(other), writes(one, since).len(), writes(other, since).len()), (0, 0, 0));

        let since = Instant::now();
        world.api.create(&pod("late", 9, 0, "10.244.0.250".parse().expect("an address")));
        while holds(&world).as_deref() != Some("False") {
            assert!(since.elapsed() < Duration::from_mins(6), "{}", world.log);
            sleep(SECOND).await;
        }
        // The policy has its first member.
        let path = |rest: &str| (format!("PATCH /apis/egret.dev/v1alpha1/{rest}/status"), 1);
        let expected = ["egressconfigs/default", "publishedegresspolicies/p99"].map(path);
        assert_eq!(tally(&writes(leader(&world).0, since)), expected.into());

        // One list that fails hides what is known for seconds, not until the next list is due.
        let fault = world.api.fault(Filter::all().verb("list").resource("pods"), Fault::Status(503));
        let since = Instant::now();
        while holds(&world).as_deref() != Some("Unknown") {
            assert!(since.elapsed() < Duration::from_mins(6), "{}", world.log);
            sleep(SECOND).await;
        }
        world.api.clear(fault);
        let took = until(&world, |world| holds(world).as_deref() == Some("False")).await;
        println!("measured: assertions are checked again {took:?} after a list of pods that failed");
    });
}

/// Whether an object says that an agent is not heard.
fn says_silent(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["reason"] == "AgentNotResponding")
}

#[test]
fn a_watch_of_leases_that_brings_nothing_makes_no_agent_silent() {
    in_world(async |log| {
        let world = calm(log).await;
        leader(&world).0.line.set_weather(|weather| weather.swallowed.push("leases"));
        for _ in 0..180 {
            sleep(SECOND).await;
            assert!(!says_silent(&config(&world)), "{}", world.log);
        }
    });
}

#[test]
fn an_agent_that_comes_back_unseen_by_the_watch_is_heard_by_its_status() {
    in_world(async |log| {
        let world = calm(log).await;
        world.agents[1].line.set_weather(|weather| weather.link = Link::Silent);
        until(&world, |world| says_silent(&config(world))).await;
        leader(&world).0.line.set_weather(|weather| weather.swallowed.push("leases"));
        world.agents[1].line.set_weather(|weather| weather.link = Link::Up);
        let took = until(&world, |world| !says_silent(&config(world))).await;
        println!("measured: an agent that is back is reported as heard after {took:?}");
        sleep(10 * SECOND).await;
        let node = world.api.get("egressnodes.egret.dev", "", &node_name(1)).expect("an EgressNode");
        assert!(!says_silent(&node) && !says_silent(&config(&world)), "{}", world.log);
    });
}

#[test]
fn a_controller_that_does_not_see_a_node_leaves_its_egressnode_alone() {
    in_world(async |log| {
        let world = calm(log).await;
        let (name, controller) = (node_name(1), &leader(&world).0.line);
        let egress_node = || world.api.get("egressnodes.egret.dev", "", &name);
        let mut node = world.api.get("nodes", "", &name).expect("a node");
        world.api.delete("nodes", "", &name);
        until(&world, |_| egress_node().is_none()).await;
        // The node comes back, and the controller's watch of nodes does not show it.
        controller.set_weather(|weather| weather.swallowed.push("v1/nodes"));
        for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields"] {
            node["metadata"].as_object_mut().expect("metadata").remove(field);
        }
        world.api.create(&node);
        until(&world, |_| egress_node().is_some()).await;
        let uid = || egress_node().map(|node| node["metadata"]["uid"].clone());
        let made = uid();
        sleep(90 * SECOND).await;
        assert_eq!(uid(), made, "{}", world.log);
    });
}
