//! Tests: when a window is open, and what a commit waits for.

use jiff::{SignedDuration, Timestamp};

use super::{
    AdmissionDecision, AdmissionRules, ChangeWindows, Emergency, PendingCommit, PendingReason, Removals, Share,
    Suspension, Window, by_the_clock,
};

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

fn window(cron: &str, zone: &str, hours: i64) -> Window {
    Window {
        name: String::new(),
        cron: cron.to_owned(),
        time_zone: zone.to_owned(),
        duration: SignedDuration::from_hours(hours),
    }
}

fn windows(open: &[Window]) -> ChangeWindows {
    ChangeWindows { open: open.to_vec(), emergency_trailer: Some("Egret-Emergency".to_owned()) }
}

/// The openings and closings of a window between two times, checked every quarter of an hour.
fn edges(window: &Window, from: &str, to: &str) -> Vec<String> {
    let windows = windows(std::slice::from_ref(window));
    let (mut now, to) = (at(from), at(to));
    let mut open = windows.is_open(now);
    let mut edges = Vec::new();
    while now < to {
        let next = now + SignedDuration::from_mins(15);
        if windows.is_open(next) != open {
            open = !open;
            edges.push(format!("{} {next}", if open { "opens" } else { "closes" }));
            if open {
                let foretold = windows.next_opening(now).map(|(opens, _)| opens);
                assert_eq!(foretold, Some(next), "it was said beforehand");
            }
        }
        now = next;
    }
    edges
}

#[test]
fn a_window_is_open_from_its_first_moment_up_to_its_last() {
    let nightly = windows(&[window("0 22 * * 1-5", "Europe/Berlin", 4)]);
    let open = |time| nightly.is_open(at(time));
    assert!(!open("2026-11-24T20:59:59Z"));
    assert!(open("2026-11-24T21:00:00Z"));
    assert!(open("2026-11-25T00:59:59.999Z"), "over midnight");
    assert!(!open("2026-11-25T01:00:00Z"));
    // Friday evening is the week's last; the next is on Monday.
    let next = nightly.next_opening(at("2026-11-28T12:00:00Z")).unwrap();
    assert_eq!(by_the_clock(next.0, &next.1.time_zone), "Mon 2026-11-30 22:00 Europe/Berlin");
}

#[test]
fn windows_that_meet_are_one_and_none_at_all_is_always_open() {
    let both = windows(&[window("0 8 * * *", "UTC", 2), window("0 10 * * *", "UTC", 2)]);
    for (time, expected) in [("07:59", false), ("08:00", true), ("10:00", true), ("11:59", true), ("12:00", false)] {
        assert_eq!(both.is_open(at(&format!("2026-11-24T{time}:00Z"))), expected, "{time}");
    }
    assert!(ChangeWindows::default().is_open(at("2026-11-24T00:00:00Z")));
    assert_eq!(ChangeWindows::default().next_opening(at("2026-11-24T00:00:00Z")), None);
}

#[test]
fn a_window_in_the_hour_that_is_skipped_opens_right_after_it_and_lasts_as_long() {
    // Europe/Berlin goes from 02:00 to 03:00 on 2026-03-29 at 01:00Z.
    let skipped = window("30 2 * * *", "Europe/Berlin", 2);
    let expected = ["opens 2026-03-29T01:00:00Z", "closes 2026-03-29T03:00:00Z"];
    assert_eq!(edges(&skipped, "2026-03-29T00:00:00Z", "2026-03-29T12:00:00Z"), expected);
    // A window that is open across the change lasts two elapsed hours, though local clocks show three.
    let over = window("0 1 * * *", "Europe/Berlin", 2);
    let expected = ["opens 2026-03-29T00:00:00Z", "closes 2026-03-29T02:00:00Z"];
    assert_eq!(edges(&over, "2026-03-28T22:00:00Z", "2026-03-29T12:00:00Z"), expected);
}

#[test]
fn a_window_in_the_hour_that_comes_twice_opens_once() {
    // Europe/Berlin goes from 03:00 back to 02:00 on 2026-10-25 at 01:00Z.
    let twice = window("30 2 * * *", "Europe/Berlin", 1);
    let expected = ["opens 2026-10-25T00:30:00Z", "closes 2026-10-25T01:30:00Z"];
    assert_eq!(edges(&twice, "2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z"), expected);
}

#[test]
fn a_zone_that_jumps_at_midnight_has_its_window_all_the_same() {
    // Asia/Beirut has no midnight on 2026-03-29: it goes from 00:00 to 01:00 at 22:00Z, and comes back on 2026-10-25
    // at 21:00Z.
    let midnight = window("0 0 * * *", "Asia/Beirut", 1);
    let spring = edges(&midnight, "2026-03-27T12:00:00Z", "2026-03-30T12:00:00Z");
    let expected = [
        "opens 2026-03-27T22:00:00Z",
        "closes 2026-03-27T23:00:00Z",
        "opens 2026-03-28T22:00:00Z",
        "closes 2026-03-28T23:00:00Z",
        "opens 2026-03-29T21:00:00Z",
        "closes 2026-03-29T22:00:00Z",
    ];
    assert_eq!(spring, expected);
    let autumn = edges(&midnight, "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
    let expected = [
        "opens 2026-10-24T22:00:00Z",
        "closes 2026-10-24T23:00:00Z",
        "opens 2026-10-25T22:00:00Z",
        "closes 2026-10-25T23:00:00Z",
    ];
    assert_eq!(autumn, expected);
}

#[test]
fn a_trailer_passes_a_closed_window_only_if_it_is_named_and_has_a_reason() {
    let closed = at("2026-11-24T12:00:00Z");
    let nightly = windows(&[window("0 22 * * 1-5", "Europe/Berlin", 4)]);
    let strict = ChangeWindows { emergency_trailer: None, ..nightly.clone() };
    let judge = |windows: &ChangeWindows, key: &str, value: &str, now| {
        let trailers = [("Signed-off-by".to_owned(), "Leia".to_owned()), (key.to_owned(), value.to_owned())];
        AdmissionRules {
            unsigned: None,
            first_start: false,
            windows,
            suspension: None,
            removals: Removals::default(),
            trailers: &trailers,
        }
        .judge(now)
    };
    let waits = AdmissionDecision::Pending(PendingReason::Window {
        opens: Some(at("2026-11-24T21:00:00Z")),
        time_zone: "Europe/Berlin".to_owned(),
        window: "0 22 * * 1-5 for 4h".to_owned(),
    });
    let emergency =
        AdmissionDecision::Emergency { trailer: "Egret-Emergency".to_owned(), reason: "the bank is down".to_owned() };
    assert_eq!(judge(&nightly, "egret-emergency", " the bank is down ", closed), emergency);
    assert_eq!(judge(&nightly, "Egret-Emergency", "  ", closed), waits);
    assert_eq!(judge(&nightly, "Emergency", "the bank is down", closed), waits);
    assert_eq!(judge(&strict, "Egret-Emergency", "the bank is down", closed), waits);
    let open = at("2026-11-24T22:00:00Z");
    assert_eq!(
        judge(&nightly, "Egret-Emergency", "the bank is down", open),
        AdmissionDecision::Admitted,
        "there is no need"
    );
}

#[test]
fn a_suspension_ends_by_itself_and_no_trailer_passes_it() {
    let trailers = [("Egret-Emergency".to_owned(), "the bank is down".to_owned())];
    let suspension = Suspension {
        until: at("2026-11-24T12:00:00Z"),
        owner: "Leia".to_owned(),
        reason: "we move to another rack".to_owned(),
    };
    let windows = windows(&[]);
    let rules = AdmissionRules {
        unsigned: None,
        first_start: false,
        windows: &windows,
        suspension: Some(&suspension),
        removals: Removals::default(),
        trailers: &trailers,
    };
    let waits = AdmissionDecision::Pending(PendingReason::Suspended {
        until: Some(suspension.until),
        owner: suspension.owner.clone(),
        reason: suspension.reason.clone(),
    });
    assert_eq!(rules.judge(at("2026-11-24T11:59:59Z")), waits);
    assert_eq!(rules.judge(at("2026-11-24T12:00:00Z")), AdmissionDecision::Admitted);
}

#[test]
fn a_commit_that_removes_more_than_its_share_waits_until_one_confirms_it() {
    let closed = windows(&[window("0 22 * * 1-5", "Europe/Berlin", 4)]);
    let judge = |removed, of, max, trailer: Option<&str>, first_start, windows: &ChangeWindows| {
        let trailers: Vec<(String, String)> =
            trailer.map(|value| ("egret-confirm-removals".to_owned(), value.to_owned())).into_iter().collect();
        let removals = Removals { policies: Share { removed, of }, members: Share::default(), max };
        let rules =
            AdmissionRules { unsigned: None, first_start, windows, suspension: None, removals, trailers: &trailers };
        rules.judge(at("2026-11-24T12:00:00Z"))
    };
    let always = ChangeWindows::default();
    let waits = |removed, of, max| {
        let removals = Removals { policies: Share { removed, of }, members: Share::default(), max };
        AdmissionDecision::Pending(PendingReason::Removals(removals))
    };
    for (removed, of, max, admitted) in [
        (0, 0, 50, true),
        (0, 0, 0, true),
        (1, 2, 50, true),
        (2, 3, 50, false),
        (1, 1, 50, false),
        (1, 9, 0, false),
        (9, 9, 100, true),
    ] {
        let expected = if admitted { AdmissionDecision::Admitted } else { waits(removed, of, max) };
        assert_eq!(judge(removed, of, max, None, false, &always), expected, "{removed} of {of}, {max}");
        assert_eq!(judge(removed, of, max, Some("we move"), false, &always), AdmissionDecision::Admitted);
        assert_eq!(judge(removed, of, max, None, true, &always), AdmissionDecision::Admitted, "a first start");
    }
    assert_eq!(judge(3, 3, 50, Some(" "), false, &always), waits(3, 3, 50), "a trailer without a reason");
    // What a user has to do is reported first; a confirmation opens no window.
    assert_eq!(judge(3, 3, 50, None, false, &closed), waits(3, 3, 50));
    let confirmed = judge(3, 3, 50, Some("we move"), false, &closed);
    assert!(matches!(confirmed, AdmissionDecision::Pending(PendingReason::Window { .. })), "{confirmed:?}");
}

#[test]
fn what_waits_says_for_what() {
    let message = |why| {
        let pending = PendingCommit {
            commit: "a41c9e2".repeat(6)[..40].to_owned(),
            summary: "let batuu through".to_owned(),
            author: "Leia <leia@alderaan>".to_owned(),
            since: at("2026-11-24T12:00:00Z"),
            why,
        };
        pending.message()
    };
    let opens = Some(at("2026-11-24T21:00:00Z"));
    let closed = PendingReason::Window { opens, time_zone: "Europe/Berlin".to_owned(), window: "nights".to_owned() };
    let expected = "a41c9e2a41c9 \"let batuu through\" of Leia <leia@alderaan> waits: the change window is closed; it \
                    opens Tue 2026-11-24 22:00 Europe/Berlin (nights)";
    assert_eq!(message(closed), expected);
    let suspended = PendingReason::Suspended {
        until: opens,
        owner: "Han".to_owned(),
        reason: "we move to another rack".to_owned(),
    };
    let expected = "a41c9e2a41c9 \"let batuu through\" of Leia <leia@alderaan> waits: Han suspended the cluster until \
                    Tue 2026-11-24 21:00 UTC (we move to another rack)";
    assert_eq!(message(suspended), expected);
    let unsigned = PendingReason::Unsigned { commit: "b".repeat(40), what: "it has no signature".to_owned() };
    let expected = "a41c9e2a41c9 \"let batuu through\" of Leia <leia@alderaan> waits: bbbbbbbbbbbb is not signed as \
                    demanded: it has no signature";
    assert_eq!(message(unsigned), expected);
    let (policies, members) = (Share { removed: 3, of: 4 }, Share { removed: 1, of: 4 });
    let removals = PendingReason::Removals(Removals { policies, members, max: 50 });
    let expected = "a41c9e2a41c9 \"let batuu through\" of Leia <leia@alderaan> waits: it removes 3 of 4 policies, more than \
                    50 %, without the trailer Egret-Confirm-Removals and a reason";
    assert_eq!(message(removals), expected);
    let both = Removals { policies, members: Share { removed: 10, of: 12 }, max: 50 };
    assert_eq!(both.to_string(), "it removes 3 of 4 policies and 10 of 12 members, more than 50 %");
    let members = Removals { policies: Share::default(), ..both };
    assert!(members.exceed());
    assert_eq!(members.to_string(), "it removes 10 of 12 members, more than 50 %");
    let emergency = Emergency {
        commit: "c".repeat(40),
        author: "Leia <leia@alderaan>".to_owned(),
        trailer: "Egret-Emergency".to_owned(),
        reason: "the bank is down".to_owned(),
    };
    let expected = "cccccccccccc was applied outside the change window by Leia <leia@alderaan>, because: the bank is \
                    down (Egret-Emergency)";
    assert_eq!(emergency.message(), expected);
}
