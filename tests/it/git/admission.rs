//! The gate: which of the commits that were fetched become active, and which wait.
//!
//! The repository's thread of a node, on real repositories. Deliberately absent: packets (`outpost`), and the rules' own cases
//! (`core::admission`).

use std::collections::BTreeMap;
use std::time::Duration;

use egret::core::admission::{ChangeWindows, PendingCommit, PendingReason, Removals, Share};
use egret::core::facts::{Facts, Pod, PodName};
use egret::core::gate::ActiveRevision;
use egret::core::policy::catalogue::LastGoodDocuments;
use egret::core::policy::check::windows_file;
use egret::core::policy::published::{Published, read_config};
use egret::git::CommitId;
use egret::reconcile::gitops::repository::{DesiredRevision, RepositoryEvent};
use egret::reconcile::gitops::tracked_repository::TrackedRepository;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::fixture::Origin;
use super::reading::{Reading, following};

/// Opens in a week at the earliest: a test that runs over midnight of a New Year's Day would see it open.
const CLOSED: &str = "changeWindows: {open: [{name: new year, cron: 0 0 1 1 *, duration: 1m}]}\n";
const EMERGENCY: &str = "changeWindows: {open: [{cron: 0 0 1 1 *, duration: 1m}], emergencyTrailer: Egret-Emergency}\n";

fn config(rest: &str) -> String {
    format!("apiVersion: egret.dev/v1alpha1\nkind: Config\n{rest}")
}

fn suspended(seconds: i64) -> String {
    let until = Timestamp::now() + SignedDuration::from_secs(seconds);
    config(&format!("suspend: {{until: \"{until}\", owner: Han, reason: we move to another rack}}\n"))
}

fn policy(destination: &str) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {{name: a}}\nspec:\n  selectors:\n  - podSelector: {{}}\n  \
         destinationCIDRs: [{destination}]\n  egressGateway: {{nodeSelector: {{}}}}\n"
    )
}

/// A thread for a cluster, with windows that flags set.
fn reading(origin: &Origin, cluster: &str, known: ActiveRevision, windows: Option<ChangeWindows>) -> Reading {
    let source = following(origin.bare.to_str().expect("UTF-8"));
    let following = TrackedRepository { cluster: cluster.to_owned(), windows, ..source };
    Reading::start(following, origin.path().join(format!("mirror-{cluster}")), known)
}

/// What is active, and what waits.
fn active(intent: &DesiredRevision) -> (CommitId, Vec<String>, Option<&PendingCommit>) {
    let destinations = intent.set.policies.values().flat_map(|policy| &policy.destinations);
    (intent.commit.id, destinations.map(ToString::to_string).collect(), intent.active.pending.as_ref())
}

/// As a process remembers it.
fn known(intent: &DesiredRevision) -> ActiveRevision {
    intent.active.clone()
}

#[test]
fn a_first_start_is_let_in_and_a_later_commit_waits_for_the_window() {
    let origin = Origin::new();
    let first = origin.push(&[("egret.yaml", &config(CLOSED)), ("a.yaml", &policy("10.1.0.0/16"))], "first");
    let mut stand = reading(&origin, "prod", ActiveRevision::default(), None);
    let intent = stand.intent();
    assert_eq!(active(&intent), (first, vec!["10.1.0.0/16".to_owned()], None));
    let second = origin.push(&[("a.yaml", &policy("10.2.0.0/16"))], "second");
    let intent = stand.poll();
    let pending = intent.active.pending.clone().expect("it waits");
    assert_eq!(active(&intent), (first, vec!["10.1.0.0/16".to_owned()], Some(&pending)));
    let PendingReason::Window { opens: Some(opens), time_zone, window } = &pending.why else { panic!("{pending:?}") };
    assert!(opens.to_string().ends_with("-01-01T00:00:00Z"), "{opens}");
    assert_eq!((time_zone.as_str(), window.as_str()), ("UTC", "new year"));
    let said = (pending.commit.as_str(), pending.summary.as_str(), pending.author.as_str());
    assert_eq!(said, (second.to_string().as_str(), "second", "Ada <ada@example.org>"));
    stand.nothing();
    // The commit that takes the window away waits as well: it cannot open the door for itself.
    let third = origin.push(&[("egret.yaml", &config(""))], "no windows any more");
    let intent = stand.poll();
    assert_eq!(intent.active.pending.as_ref().map(|pending| pending.commit.clone()), Some(third.to_string()));
    // Neither does a restart let it in, nor one with a mirror that has to be made anew; and it waits since then.
    for fresh in [false, true] {
        if fresh {
            std::fs::remove_dir_all(origin.path().join("mirror-prod")).expect("a mirror");
        }
        drop(stand);
        stand = reading(&origin, "prod", known(&intent), None);
        assert_eq!(active(&stand.intent()), active(&intent));
    }
    // What was taken back does not wait any more.
    origin.git(&["reset", "--quiet", "--hard", &first.to_string()]);
    origin.git(&["push", "--quiet", "--force", "origin", "main"]);
    assert_eq!(active(&stand.poll()), (first, vec!["10.1.0.0/16".to_owned()], None));
}

#[test]
fn a_suspension_holds_at_once_ends_by_itself_and_lets_the_newest_in_as_one_change() {
    let origin = Origin::new();
    let first = origin.push(&[("a.yaml", &policy("10.1.0.0/16"))], "first");
    let mut stand = reading(&origin, "prod", ActiveRevision::default(), None);
    assert_eq!(active(&stand.intent()).0, first);
    origin.push(&[("egret.yaml", &suspended(4)), ("a.yaml", &policy("10.2.0.0/16"))], "second");
    let intent = stand.poll();
    let pending = intent.active.pending.clone().expect("it waits");
    let PendingReason::Suspended { until: Some(until), owner, reason } = &pending.why else { panic!("{pending:?}") };
    assert_eq!((owner.as_str(), reason.as_str()), ("Han", "we move to another rack"));
    // A trailer does not pass it, nor an egret.yaml that cannot be read.
    origin.push(&[("a.yaml", &policy("10.3.0.0/16")), ("egret.yaml", "{")], "third\n\nEgret-Emergency: now");
    let intent = stand.poll();
    let third = intent.active.pending.as_ref().map(|pending| (pending.summary.as_str(), &pending.why));
    assert_eq!(third, Some(("third", &pending.why)));
    let newest = origin.push(&[("a.yaml", &policy("10.4.0.0/16"))], "fourth");
    let intent = stand.poll();
    assert_eq!(active(&intent).1, ["10.1.0.0/16"]);
    // Nobody asks for a look, and the next poll is far.
    let intent = stand.intent();
    assert!(Timestamp::now() >= *until, "not before its end");
    assert_eq!(active(&intent), (newest, vec!["10.4.0.0/16".to_owned()], None));
}

#[test]
fn a_window_opens_by_itself_at_its_minute() {
    let begun = Timestamp::now();
    // Not so near that it opens before anything waits.
    let minutes = if begun.as_second() % 60 > 50 { 2 } else { 1 };
    let opens = Timestamp::from_second((begun.as_second() / 60 + minutes) * 60).expect("a time");
    let at = opens.to_zoned(TimeZone::get("Asia/Kathmandu").expect("a zone"));
    let windows = format!(
        "changeWindows: {{open: [{{cron: \"{} {} * * *\", timeZone: Asia/Kathmandu, duration: 2m}}]}}\n",
        at.minute(),
        at.hour()
    );
    let origin = Origin::new();
    let first = origin.push(&[("egret.yaml", &config(&windows)), ("a.yaml", &policy("10.1.0.0/16"))], "first");
    let mut stand = reading(&origin, "prod", ActiveRevision::default(), None);
    stand.intent();
    origin.push(&[("a.yaml", &policy("10.2.0.0/16"))], "second");
    let intent = stand.poll();
    assert_eq!(active(&intent).0, first);
    assert_eq!(intent.active.pending.and_then(|pending| pending.why.ends()), Some(opens));
    let third = origin.push(&[("a.yaml", &policy("10.3.0.0/16"))], "third");
    assert_eq!(active(&stand.poll()).0, first);
    // Nobody asks for a look, and the next poll is far.
    assert_eq!(active(&stand.intent()), (third, vec!["10.3.0.0/16".to_owned()], None));
    assert!(Timestamp::now() >= opens, "not before");
}

#[test]
fn a_history_that_was_rewritten_while_nobody_looked_waits_for_the_window_as_well() {
    let origin = Origin::new();
    origin.push(&[("egret.yaml", &config(CLOSED)), ("a.yaml", &policy("10.1.0.0/16"))], "first");
    let known = known(&reading(&origin, "prod", ActiveRevision::default(), None).intent());
    let rewrite = |rest: &str, message: &str| {
        origin.git(&["checkout", "--quiet", "--orphan", message]);
        let commit = origin.commit(&[("egret.yaml", &config(rest)), ("a.yaml", &policy("10.2.0.0/16"))], message);
        origin.git(&["push", "--quiet", "--force", "origin", "HEAD:main"]);
        commit.to_string()
    };
    let pending = |known: &ActiveRevision, mirror: &str| match reading(&origin, mirror, known.clone(), None).next() {
        RepositoryEvent::Pending(pending) => (pending.commit, pending.why.as_str()),
        other => panic!("{other:?}"),
    };
    let other = rewrite("", "other");
    assert_eq!(pending(&known, "anew"), (other.clone(), "ChangeWindowClosed"));
    // Nobody remembers a window: then there is none. A suspension counts in any case.
    let none = ActiveRevision { windows: None, good: LastGoodDocuments::default(), ..known.clone() };
    assert_eq!(reading(&origin, "without", none.clone(), None).intent().commit.id.to_string(), other);
    let until = Timestamp::now() + SignedDuration::from_hours(1);
    let third = rewrite(&format!("suspend: {{until: \"{until}\", owner: Han, reason: we move}}\n"), "third");
    assert_eq!(pending(&none, "suspended"), (third.clone(), "Suspended"));
    // Where nothing was ever active it is a first start.
    assert_eq!(reading(&origin, "first", ActiveRevision::default(), None).intent().commit.id.to_string(), third);
}

#[test]
fn where_what_is_in_force_is_lost_the_newest_commit_meets_its_own_windows() {
    let lost = || ActiveRevision { lost: true, ..ActiveRevision::default() };
    let waits = |origin: &Origin, mirror: &str| match reading(origin, mirror, lost(), None).next() {
        RepositoryEvent::Pending(pending) => (pending.commit.clone(), pending.why.to_string()),
        other => panic!("{other:?}"),
    };
    let origin = Origin::new();
    let first = origin.push(&[("egret.yaml", &config(EMERGENCY)), ("a.yaml", &policy("10.1.0.0/16"))], "first");
    let (commit, why) = waits(&origin, "closed");
    assert_eq!(commit, first.to_string());
    assert!(why.starts_with("the change window is closed; it opens "), "{why}");
    // One that cannot be read opens nothing, and the flags decide in any case.
    origin.push(&[("egret.yaml", "{")], "broken");
    assert_eq!(waits(&origin, "broken").1, "the change window is closed, and no opening of it is known");
    let open = Some(ChangeWindows::default());
    assert!(reading(&origin, "flags", lost(), open).intent().active.pending.is_none());
    let third = origin.push(&[("egret.yaml", &config(EMERGENCY))], "third\n\nEgret-Emergency: the file is gone");
    let mut stand = reading(&origin, "emergency", lost(), None);
    let intent = stand.intent();
    assert_eq!((intent.commit.id, intent.active.lost), (third, false));
    assert_eq!(intent.active.emergency.as_ref().map(|emergency| emergency.commit.clone()), Some(third.to_string()));
    // From now on it is known.
    origin.push(&[("a.yaml", &policy("10.2.0.0/16"))], "fourth");
    let intent = stand.poll();
    assert_eq!((intent.commit.id, intent.active.pending.is_some()), (third, true));
    origin.push(&[("egret.yaml", &config(""))], "no windows");
    assert!(reading(&origin, "open", lost(), None).intent().active.pending.is_none());
}

#[test]
fn an_active_egret_yaml_that_broke_opens_no_window_for_a_process_that_begins_with_nothing() {
    let origin = Origin::new();
    origin.push(&[("egret.yaml", &config(EMERGENCY)), ("a.yaml", &policy("10.1.0.0/16"))], "first");
    let mut stand = reading(&origin, "prod", ActiveRevision::default(), None);
    let windows = stand.intent().set.config.change_windows.clone();
    let broken = origin.push(&[("egret.yaml", "{")], "broken\n\nEgret-Emergency: somebody slipped");
    let intent = stand.poll();
    assert_eq!((intent.commit.id, &intent.set.config.change_windows), (broken, &windows));
    let next = origin.push(&[("a.yaml", &policy("10.2.0.0/16"))], "next");
    // All that a controller finds in the cluster.
    let published = read_config(&Published::of(&intent.set).config).expect("what was published");
    assert_eq!(published.change_windows, windows);
    let commit = Some(broken.to_string());
    let found = ActiveRevision { commit, windows: Some(published.change_windows), ..ActiveRevision::default() };
    let mut stand = reading(&origin, "anew", found, None);
    let intent = stand.intent();
    let pending = intent.active.pending.as_ref().map(|pending| pending.commit.clone());
    assert_eq!((intent.commit.id, pending), (broken, Some(next.to_string())));
    assert_eq!(intent.set.config.change_windows, windows, "it is published again");
    // What takes the windows away, through an emergency, does so for good.
    let files = [("egret.yaml", config("")), ("a.yaml", policy("10.3.0.0/16"))];
    let files = [(files[0].0, files[0].1.as_str()), (files[1].0, files[1].1.as_str())];
    let last = origin.push(&files, "last\n\nEgret-Emergency: it is time");
    let intent = stand.poll();
    assert_eq!((intent.commit.id, intent.set.config.change_windows.clone()), (last, ChangeWindows::default()));
}

#[test]
fn a_suspension_is_lifted_by_the_commit_that_takes_it_out() {
    let origin = Origin::new();
    origin.push(&[("egret.yaml", &suspended(3600)), ("a.yaml", &policy("10.1.0.0/16"))], "first");
    let mut stand = reading(&origin, "prod", ActiveRevision::default(), None);
    stand.intent();
    origin.push(&[("a.yaml", &policy("10.2.0.0/16"))], "second");
    assert!(stand.poll().active.pending.is_some());
    let third = origin.push(&[("egret.yaml", &config(""))], "go on");
    assert_eq!(active(&stand.poll()), (third, vec!["10.2.0.0/16".to_owned()], None));
}

#[test]
fn an_emergency_passes_only_if_the_active_egret_yaml_names_its_trailer() {
    let origin = Origin::new();
    origin.push(&[("egret.yaml", &config(CLOSED)), ("a.yaml", &policy("10.1.0.0/16"))], "first");
    let mut strict = reading(&origin, "prod", ActiveRevision::default(), None);
    strict.intent();
    let files = [("egret.yaml", config(EMERGENCY)), ("a.yaml", policy("10.2.0.0/16"))];
    let files = [(files[0].0, files[0].1.as_str()), (files[1].0, files[1].1.as_str())];
    let second = origin.push(&files, "second\n\nWhy not.\n\nEgret-Emergency: the bank is down");
    assert!(strict.poll().active.pending.is_some(), "it names the trailer itself");
    // With that setting active, a commit passes by it, and one that only mentions it does not.
    let mut stand = reading(
        &origin,
        "test",
        ActiveRevision { commit: Some(second.to_string()), ..ActiveRevision::default() },
        None,
    );
    assert_eq!(active(&stand.intent()), (second, vec!["10.2.0.0/16".to_owned()], None));
    origin.push(&[("a.yaml", &policy("10.3.0.0/16"))], "third\n\nEgret-Emergency: no, this is prose.\n\nReally.");
    assert!(stand.poll().active.pending.is_some());
    let message = "fourth\n\nWhy.\n\negret-emergency: the bank is down\nReviewed-by: Leia";
    let fourth = origin.push(&[("a.yaml", &policy("10.4.0.0/16"))], message);
    let intent = stand.poll();
    assert_eq!(active(&intent), (fourth, vec!["10.4.0.0/16".to_owned()], None));
    let emergency = intent.active.emergency.clone().expect("it is recorded");
    let expected = format!(
        "{} was applied outside the change window by Ada <ada@example.org>, because: the bank is down (Egret-Emergency)",
        fourth.short()
    );
    assert_eq!(emergency.message(), expected);
    // It is known over a restart as well, and the next one waits again.
    drop(stand);
    let mut stand = reading(&origin, "test", known(&intent), None);
    assert_eq!(stand.intent().active.emergency, Some(emergency));
    origin.push(&[("a.yaml", &policy("10.5.0.0/16"))], "fifth");
    assert!(stand.poll().active.pending.is_some());
}

#[test]
fn windows_of_the_flags_count_whatever_is_active() {
    let given = "open: [{cron: 0 0 1 1 *, duration: 1m}]\nemergencyTrailer: Now\n";
    let given = windows_file("windows.yaml", given).expect("windows");
    let origin = Origin::new();
    let first = origin.push(&[("egret.yaml", &config(EMERGENCY)), ("a.yaml", &policy("10.1.0.0/16"))], "first");
    let mut stand = reading(&origin, "prod", ActiveRevision::default(), Some(given));
    assert_eq!(active(&stand.intent()).0, first);
    origin.push(&[("a.yaml", &policy("10.2.0.0/16"))], "second\n\nEgret-Emergency: the bank is down");
    assert!(stand.poll().active.pending.is_some(), "the repository's trailer is none here");
    let third = origin.push(&[("a.yaml", &policy("10.3.0.0/16"))], "third\n\nNow: the bank is down");
    assert_eq!(active(&stand.poll()), (third, vec!["10.3.0.0/16".to_owned()], None));
}

#[test]
fn a_file_of_windows_is_refused_where_its_mistake_is() {
    let found = |text| -> Vec<String> {
        let found = windows_file("windows.yaml", text).expect_err("a mistake");
        found.iter().map(|one| format!("{}:{} {}", one.start.line, one.start.column, one.message)).collect()
    };
    assert_eq!(found("open:\n- {cron: 0 22 * * *, duration: 0h}\n"), ["2:32 a window cannot be open for `0h`"]);
    assert_eq!(found("emergencyTrailer: Now\n"), ["1:1 there is no window in it"]);
    assert_eq!(found(""), ["1:1 there is no window in it"]);
}

#[test]
fn a_commit_that_touches_nothing_of_a_clusters_is_passed_over() {
    let origin = Origin::new();
    let paths = config("clusters: {prod: {paths: [prod]}, test: {paths: [test]}}\n");
    let own = policy("10.1.0.0/16");
    let files =
        [("egret.yaml", paths.as_str()), ("prod/a.yaml", &own), ("prod/values.yaml", "a: b\n"), ("test/a.yaml", "")];
    let first = origin.push(&files, "first");
    let mut prod = reading(&origin, "prod", ActiveRevision::default(), None);
    assert_eq!(active(&prod.intent()).0, first);
    origin.push(&[("test/a.yaml", &policy("10.2.0.0/16")), ("prod/README.md", "words\n")], "another cluster's");
    prod.nothing();
    // After a restart it is still the first that is active.
    drop(prod);
    let mut prod =
        reading(&origin, "prod", ActiveRevision { commit: Some(first.to_string()), ..ActiveRevision::default() }, None);
    assert_eq!(active(&prod.intent()), (first, vec!["10.1.0.0/16".to_owned()], None));
    // A file that moves out of its folder is gone from it.
    origin.git(&["mv", "prod/a.yaml", "test/b.yaml"]);
    let moved = origin.push(&[], "it moves\n\nEgret-Confirm-Removals: to the other cluster");
    assert_eq!(active(&prod.poll()), (moved, vec![], None));
    origin.remove("test/b.yaml");
    origin.push(&[], "a file outside goes");
    prod.nothing();
    // With other paths it counts what was passed over before.
    let both = origin.push(&[("egret.yaml", &config("clusters: {prod: {paths: [prod, test]}}\n"))], "both");
    assert_eq!(active(&prod.poll()), (both, vec!["10.2.0.0/16".to_owned()], None));
}

#[test]
fn a_branch_that_goes_back_is_believed_once_several_polls_say_so_and_a_newer_tip_at_once() {
    let origin = Origin::new();
    let first = origin.push(&[("a.yaml", &policy("10.1.0.0/16"))], "first");
    let second = origin.push(&[("a.yaml", &policy("10.2.0.0/16"))], "second");
    let source = following(origin.bare.to_str().expect("UTF-8"));
    // Replicas may lag: the time is short here, and four polls it takes.
    let lagging = TrackedRepository { max_lag: Duration::from_millis(1), ..source };
    let mirror = origin.path().join("mirror-lagging");
    let mut stand = Reading::start(lagging.clone(), mirror.clone(), ActiveRevision::default());
    assert_eq!(active(&stand.intent()).0, second);
    let reset = |to: CommitId| origin.git(&["push", "--quiet", "--force", "origin", &format!("{to}:main")]);
    for _ in 0..2 {
        reset(first);
        for _ in 0..3 {
            stand.nothing();
        }
        // The other replica answers.
        reset(second);
        stand.nothing();
    }
    reset(first);
    for _ in 0..3 {
        stand.nothing();
    }
    let back = stand.believed();
    assert_eq!(active(&back), (first, vec!["10.1.0.0/16".to_owned()], None));
    assert!(back.predecessors.contains(&second), "what is published may be replaced");
    reset(second);
    assert_eq!(active(&stand.poll()).0, second);
    // A process that starts and does not find what is published waits in the same way.
    drop(stand);
    let elsewhere = "0123456789012345678901234567890123456789";
    let known = ActiveRevision { commit: Some(elsewhere.to_owned()), ..ActiveRevision::default() };
    let mut stand = Reading::start(lagging, mirror, known);
    assert!(matches!(stand.next(), RepositoryEvent::Unchanged));
    stand.nothing();
    stand.nothing();
    let taken = stand.believed();
    assert!(active(&taken).0 == second && taken.predecessors.contains(&CommitId::parse(elsewhere).expect("an id")));
}

#[test]
fn what_another_leader_let_in_is_not_taken_back() {
    let origin = Origin::new();
    let first = origin.push(&[("egret.yaml", &config(CLOSED)), ("a.yaml", &policy("10.1.0.0/16"))], "first");
    let mut stand = reading(&origin, "prod", ActiveRevision::default(), None);
    stand.intent();
    let second = origin.push(&[("a.yaml", &policy("10.2.0.0/16"))], "second");
    assert_eq!(active(&stand.poll()).0, first);
    stand.thread.published(second, None);
    assert_eq!(active(&stand.intent()), (second, vec!["10.2.0.0/16".to_owned()], None));
    stand.thread.published(first, None);
    // What is published was replaced here, and this thread says so.
    let intent = stand.intent();
    assert!(intent.predecessors.contains(&first) && active(&intent).0 == second);
}

#[test]
fn an_emptied_repository_waits_until_a_commit_confirms_it() {
    let origin = Origin::new();
    let named = |name: &str| policy("10.1.0.0/16").replace("{name: a}", &format!("{{name: {name}}}"));
    let files = [("p/a.yaml", named("a")), ("p/b.yaml", named("b")), ("p/c.yaml", named("c"))];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    origin.push(&files, "three");
    let mut stand = reading(&origin, "prod", ActiveRevision::default(), None);
    assert_eq!(stand.intent().set.policies.len(), 3);
    // One of three goes as it is, and one that is only renamed does not go.
    origin.remove("p/a.yaml");
    let second = origin.push(&[("p/b.yaml", &named("other"))], "two");
    let intent = stand.poll();
    assert_eq!((intent.commit.id, intent.set.policies.len()), (second, 2));
    origin.remove("p/b.yaml");
    origin.remove("p/c.yaml");
    let emptied = origin.push(&[], "nothing is left");
    let intent = stand.poll();
    let pending = intent.active.pending.clone().expect("it waits");
    assert_eq!((intent.commit.id, intent.set.policies.len(), pending.commit), (second, 2, emptied.to_string()));
    assert_eq!(
        pending.why,
        PendingReason::Removals(Removals { policies: Share { removed: 2, of: 2 }, members: Share::default(), max: 50 })
    );
    // A restart does not let it in, nor a trailer without a reason, nor an egret.yaml that asks for less.
    drop(stand);
    let mut stand = reading(&origin, "prod", known(&intent), None);
    assert_eq!(active(&stand.intent()).0, second);
    origin.push(&[("egret.yaml", &config("maxRemovals: 100%\n"))], "no question asked");
    assert_eq!(active(&stand.poll()).0, second);
    let confirmed = origin.push(&[], "as was meant\n\nEgret-Confirm-Removals: the site is closed");
    let intent = stand.poll();
    assert_eq!((intent.commit.id, intent.set.policies.len(), intent.active.pending), (confirmed, 0, None));
}

#[test]
fn a_commit_that_takes_its_members_from_a_policy_waits_over_a_restart_that_knows_no_pods() {
    let origin = Origin::new();
    let of = |app: &str| {
        policy("10.1.0.0/16").replace("podSelector: {}", &format!("podSelector: {{matchLabels: {{app: {app}}}}}"))
    };
    let pods = (1..=4).map(|last: u8| {
        let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
        let pod = Pod { labels, addresses: vec![[10, 1, 1, last].into()], ..Pod::default() };
        (PodName { namespace: "shop".to_owned(), name: format!("web-{last}") }, pod)
    });
    let facts = Facts { pods: pods.collect(), ..Facts::default() };
    let first = origin.push(&[("p.yaml", &of("web"))], "first");
    let mut stand = reading(&origin, "prod", ActiveRevision::default(), None);
    assert_eq!(active(&stand.intent()).0, first);
    stand.know(&facts);
    origin.push(&[("p.yaml", &of("wbe"))], "a typo");
    let intent = stand.poll();
    let (policies, members) = (Share { removed: 0, of: 1 }, Share { removed: 4, of: 4 });
    let why = PendingReason::Removals(Removals { policies, members, max: 50 });
    let waits = |intent: &DesiredRevision| {
        assert_eq!(intent.commit.id, first);
        assert_eq!(intent.active.pending.as_ref().map(|pending| &pending.why), Some(&why));
    };
    waits(&intent);
    drop(stand);
    let mut stand = reading(&origin, "prod", known(&intent), None);
    waits(&stand.intent());
    stand.know(&facts);
    let mended = origin.push(&[("p.yaml", &of("web").replace("10.1.0.0", "10.2.0.0"))], "what was meant");
    let intent = stand.poll();
    assert_eq!((intent.commit.id, intent.active.pending), (mended, None));
}
