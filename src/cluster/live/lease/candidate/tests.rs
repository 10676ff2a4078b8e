//! Tests of the leader's decisions: single cases, and some hundred thousand steps of three candidates on an
//! unreliable network.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn seen(version: u64, holder: &str, transitions: i64) -> ObservedLease {
    ObservedLease { version: version.to_string(), holder: holder.to_owned(), transitions, seconds: 15 }
}

fn candidate() -> Candidate {
    Candidate::new("a", Timing::default())
}

fn follower(holder: Option<&str>) -> LeaseRole {
    LeaseRole::Follower { holder: holder.map(str::to_owned) }
}

#[test]
fn the_first_one_takes_it_and_renews() {
    let start = Instant::now();
    let mut a = candidate();
    assert_eq!(a.decide(start), LeaseAction::Take(1));
    assert_eq!(a.role(start), follower(None));
    a.observe(None, start);
    assert_eq!(a.decide(start), LeaseAction::Take(1));
    a.wrote(seen(1, "a", 1), start, start + SECOND);
    assert_eq!(a.role(start + SECOND), LeaseRole::Leader { fence: 1, until: start + 10 * SECOND });
    assert_eq!(a.decide(start + 2 * SECOND), LeaseAction::Renew);
}

#[test]
fn a_leader_that_cannot_renew_stops_before_others_may_start() {
    let start = Instant::now();
    let mut a = candidate();
    a.wrote(seen(1, "a", 1), start, start);
    let mut b = Candidate::new("b", Timing::default());
    b.observe(Some(seen(1, "a", 1)), start);
    assert!(matches!(a.role(start + 9 * SECOND), LeaseRole::Leader { .. }));
    assert_eq!(a.role(start + 10 * SECOND), follower(Some("a")));
    assert_eq!(b.decide(start + 14 * SECOND), LeaseAction::Wait);
    assert_eq!(b.decide(start + 15 * SECOND), LeaseAction::Take(2));
}

#[test]
fn only_a_change_that_we_see_ourselves_counts() {
    let start = Instant::now();
    let mut b = Candidate::new("b", Timing::default());
    b.observe(Some(seen(1, "a", 1)), start);
    b.observe(Some(seen(2, "a", 1)), start + 14 * SECOND);
    b.observe(Some(seen(2, "a", 1)), start + 20 * SECOND);
    assert_eq!(b.decide(start + 28 * SECOND), LeaseAction::Wait, "it was renewed 14 s ago");
    assert_eq!(b.decide(start + 29 * SECOND), LeaseAction::Take(2));
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let start = Instant::now();
    let mut b = Candidate::new("b", Timing::default());
    b.observe(Some(seen(5, "", 3)), start);
    assert_eq!(b.decide(start), LeaseAction::Take(4));
    assert_eq!(b.role(start), follower(None));
}

#[test]
fn our_own_name_alone_is_no_title() {
    let start = Instant::now();
    let mut a = candidate();
    // An earlier term held it, or our write succeeded and its answer was lost.
    a.observe(Some(seen(5, "a", 3)), start);
    assert_eq!(a.role(start), follower(Some("a")));
    assert_eq!(a.decide(start), LeaseAction::Take(4));
    // A second process with our name: the last writer leads, the other one sees another fencing token.
    a.wrote(seen(6, "a", 4), start, start);
    a.observe(Some(seen(7, "a", 5)), start + SECOND);
    assert_eq!(a.role(start + SECOND), follower(Some("a")));
}

#[test]
fn a_lost_lease_is_noticed_by_the_next_read() {
    let start = Instant::now();
    let mut a = candidate();
    a.wrote(seen(1, "a", 1), start, start);
    a.observe(Some(seen(2, "b", 2)), start + SECOND);
    assert_eq!(a.role(start + SECOND), follower(Some("b")));
    assert_eq!(a.decide(start + SECOND), LeaseAction::Wait);
}

#[test]
fn a_fence_never_goes_back_also_where_the_lease_was_deleted() {
    let start = Instant::now();
    let mut a = candidate();
    a.wrote(seen(9, "a", 7), start, start);
    a.observe(None, start + SECOND);
    assert_eq!(a.decide(start + SECOND), LeaseAction::Take(8));

    let mut fresh = candidate();
    fresh.wrote(seen(10, "a", 1), start, start);
    fresh.raise(7);
    assert_eq!(fresh.decide(start + SECOND), LeaseAction::Take(8), "what is published has a greater one");
    fresh.wrote(seen(11, "a", 8), start, start);
    fresh.raise(8);
    assert_eq!(fresh.decide(start + SECOND), LeaseAction::Renew);
}

#[test]
fn a_duration_by_hand_does_not_stop_us_for_ever() {
    let start = Instant::now();
    let mut b = Candidate::new("b", Timing::default());
    b.observe(Some(ObservedLease { seconds: 86_400, ..seen(1, "a", 1) }), start);
    assert_eq!(b.decide(start + 59 * SECOND), LeaseAction::Wait);
    assert_eq!(b.decide(start + 60 * SECOND), LeaseAction::Take(2));
}

/// Marsaglia's xorshift: the same numbers every time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// The server's side: one lease, written only if the writer has seen its current version.
#[derive(Default)]
struct Server {
    lease: Option<ObservedLease>,
    writes: u64,
}

impl Server {
    fn write(&mut self, over: Option<&ObservedLease>, holder: &str, transitions: i64) -> Option<ObservedLease> {
        if over.map(|seen| &seen.version) != self.lease.as_ref().map(|seen| &seen.version) {
            return None;
        }
        self.writes += 1;
        self.lease = Some(seen(self.writes, holder, transitions));
        self.lease.clone()
    }
}

/// A candidate on its network, and its next request.
struct Node {
    candidate: Candidate,
    next: Instant,
    /// When that request was sent, and what it writes. None: it is a read.
    write: Option<(Instant, i64)>,
}

impl Node {
    /// The request arrives now, or is lost; the answer arrives later, or is lost.
    fn turn(&mut self, server: &mut Server, random: &mut Random) {
        let mut delay = || Duration::from_millis(random.below(1_900));
        let (now, answered, sends) = (self.next, self.next + delay(), delay());
        let lost = random.below(8);
        let pause = if random.below(50) == 0 { 30 } else { 2 };
        self.next = answered + pause * SECOND;
        let write = self.write.take();
        if lost == 0 {
            return;
        }
        if let Some((sent, transitions)) = write {
            let identity = self.candidate.identity.clone();
            match server.write(self.candidate.seen.as_ref(), &identity, transitions) {
                _ if lost == 1 => {}
                Some(written) => self.candidate.wrote(written, sent, answered),
                None => self.next = answered,
            }
            return;
        }
        if lost == 1 {
            return;
        }
        self.candidate.observe(server.lease.clone(), answered);
        let transitions = match self.candidate.decide(answered) {
            LeaseAction::Wait => return,
            LeaseAction::Renew => self.candidate.seen.as_ref().map_or(0, |seen| seen.transitions),
            LeaseAction::Take(transitions) => transitions,
        };
        self.write = Some((answered, transitions));
        self.next = now.max(answered) + sends;
    }
}

#[test]
fn there_are_never_two_leaders_and_every_leader_has_a_greater_fence() {
    for seed in 1..200 {
        let mut random = Random(seed);
        let mut server = Server::default();
        let start = Instant::now();
        let mut nodes = ["a", "b", "c"].map(|name| {
            let candidate = Candidate::new(name, Timing::default());
            Node { candidate, next: start, write: None }
        });
        let (mut terms, mut greatest) = (0, 0);
        for _ in 0..2_000 {
            let next = nodes.iter_mut().min_by_key(|node| node.next).expect("three");
            let now = next.next;
            next.turn(&mut server, &mut random);
            let fence = |node: &Node| match node.candidate.role(now) {
                LeaseRole::Leader { fence, .. } => Some(fence),
                LeaseRole::Follower { .. } => None,
            };
            let leaders: Vec<i64> = nodes.iter().filter_map(fence).collect();
            assert!(leaders.len() <= 1, "seed {seed}: {leaders:?}");
            if let Some(fence) = leaders.first() {
                assert!(*fence >= greatest, "seed {seed}: {fence} after {greatest}");
                terms += i32::from(*fence > greatest);
                greatest = *fence;
            }
        }
        assert!(terms > 10, "seed {seed}: {terms} terms");
    }
}
