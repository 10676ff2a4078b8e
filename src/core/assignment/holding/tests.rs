//! Nodes on one link, with their kernels: who has the address while they die, are cut off and come back.

use super::*;

const TICK: Duration = Duration::from_millis(25);

fn address() -> IpAddr {
    IpAddr::from([10, 0, 3, 100])
}

fn mac(node: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, u8::try_from(node).unwrap()])
}

struct Node {
    monitor: HoldingMonitor,
    claim: Claim,
    /// The agent runs.
    runs: bool,
    /// The kernel and its link are there.
    lives: bool,
    /// How many sources reach it.
    wanted: u32,
}

/// A link with candidates. The first is placed.
struct Link {
    nodes: Vec<Node>,
    now: Duration,
    /// Pairs of nodes that do not hear each other.
    cut: Vec<(usize, usize)>,
    announced: Vec<(usize, Duration)>,
    /// How often a holder was asked to give way.
    claimed: u32,
    /// How long two nodes had the address that hear each other.
    doubled: Duration,
}

impl Link {
    fn with(count: usize) -> Self {
        let node = |place: usize| Node {
            monitor: HoldingMonitor::default(),
            claim: Claim {
                link: "net1".to_owned(),
                on_loopback: false,
                rank: Some(u32::try_from(place.saturating_sub(1)).unwrap()),
                placed: place == 0,
                preferred: false,
                present: false,
                works: true,
                local: 0,
            },
            runs: true,
            lives: true,
            wanted: 0,
        };
        let nodes = (0..count).map(node).collect();
        let (now, doubled) = (Duration::ZERO, Duration::ZERO);
        Self { nodes, now, cut: Vec::new(), announced: Vec::new(), claimed: 0, doubled }
    }

    fn hear(&self, one: usize, other: usize) -> bool {
        let reaches = |node: usize| self.nodes[node].lives && self.nodes[node].claim.works;
        one != other
            && reaches(one)
            && reaches(other)
            && !self.cut.iter().any(|pair| *pair == (one, other) || *pair == (other, one))
    }

    fn holders(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].claim.present && self.nodes[*node].lives).collect()
    }

    fn deliver(&mut self, from: usize, message: &Message) {
        let now = self.now;
        for to in (0..self.nodes.len()).filter(|to| self.hear(from, *to)).collect::<Vec<_>>() {
            let answers = match message {
                // The kernel answers, whether or not the agent runs.
                Message::Ask if self.nodes[to].claim.present => {
                    let heard = Heard { from: mac(to), says: Says::Has };
                    let answers = if self.nodes[from].runs { self.tell(from, heard, now) } else { Vec::new() };
                    for answer in &answers {
                        self.deliver(from, answer);
                    }
                    continue;
                }
                Message::Announce => self.tell(to, Heard { from: mac(from), says: Says::Has }, now),
                Message::Claim { to: host, wanted, preferred } if *host == mac(to) => {
                    let says = Says::Claims { wanted: *wanted, preferred: *preferred };
                    self.tell(to, Heard { from: mac(from), says }, now)
                }
                Message::Give { to: host } if *host == mac(to) => {
                    self.tell(to, Heard { from: mac(from), says: Says::Gives }, now)
                }
                Message::Keep { to: host } if *host == mac(to) => {
                    self.tell(to, Heard { from: mac(from), says: Says::Keeps }, now)
                }
                Message::Ask | Message::Claim { .. } | Message::Give { .. } | Message::Keep { .. } => continue,
            };
            if matches!(message, Message::Claim { .. }) {
                self.claimed += 1;
            }
            for answer in &answers {
                self.deliver(to, answer);
            }
        }
        if *message == Message::Announce {
            self.announced.push((from, now));
        }
    }

    fn tell(&mut self, node: usize, heard: Heard, now: Duration) -> Vec<Message> {
        if !self.nodes[node].runs {
            return Vec::new();
        }
        let answers = self.nodes[node].monitor.heard(address(), heard, now);
        answers.into_iter().map(|(_, message)| message).collect()
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            for place in 0..self.nodes.len() {
                if !self.nodes[place].runs || !self.nodes[place].lives {
                    continue;
                }
                let now = self.now;
                let node = &mut self.nodes[place];
                let own = BTreeMap::from([("net1".to_owned(), mac(place))]);
                // A node that is no candidate and has it not has no part in it (`assignment::of_node`).
                let part = node.claim.rank.is_some() || node.claim.present;
                let claims = part.then(|| (address(), node.claim.clone())).into_iter().collect();
                node.monitor.set(&claims, own, ProbeTiming::default(), now);
                node.monitor.wanted(address(), Some(node.wanted));
                node.monitor.judge(now);
                let due = node.monitor.due(now);
                node.monitor.said();
                // A round applies what was decided.
                node.claim.present = node.monitor.view(now).holds(address(), false, false);
                for (_, message) in &due {
                    self.deliver(place, message);
                }
            }
            let holders = self.holders();
            if holders.iter().any(|one| holders.iter().any(|other| self.hear(*one, *other))) {
                self.doubled += TICK;
            }
            self.now += TICK;
        }
    }

    /// Runs until one node alone has the address; how long that took.
    fn until_held_by(&mut self, node: usize) -> Duration {
        let began = self.now;
        while self.holders() != [node] {
            assert!(self.now < began + Duration::from_mins(1), "held by {:?}", self.holders());
            self.run(TICK);
        }
        self.now.saturating_sub(began)
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Two candidates, and the first has it.
fn held(count: usize) -> Link {
    let mut link = Link::with(count);
    link.until_held_by(0);
    link.nodes[0].wanted = 5;
    link.run(seconds(5));
    assert_eq!(link.doubled, Duration::ZERO);
    link
}

#[test]
fn the_placed_node_takes_an_address_that_nobody_has_and_announces_it() {
    let mut link = Link::with(3);
    let took = link.until_held_by(0);
    assert!(took < Duration::from_millis(400), "{took:?}");
    link.run(seconds(20));
    assert_eq!((link.holders(), link.doubled), (vec![0], Duration::ZERO));
    assert_eq!(link.announced.len(), ANNOUNCED.len());
    assert!(link.announced.iter().all(|(node, _)| *node == 0));
}

#[test]
fn of_several_standbys_the_first_takes_the_address_of_a_dead_holder() {
    let mut link = held(4);
    link.nodes[0].lives = false;
    let took = link.until_held_by(1);
    assert!(took < Duration::from_millis(400), "{took:?}");
    link.run(seconds(20));
    assert_eq!((link.holders(), link.doubled), (vec![1], Duration::ZERO));
}

#[test]
fn a_holder_whose_agent_does_not_run_keeps_it() {
    let mut link = held(2);
    link.nodes[0].runs = false;
    link.run(seconds(60));
    assert_eq!(link.holders(), [0]);
    link.nodes[0].monitor = HoldingMonitor::default();
    link.nodes[0].runs = true;
    link.run(seconds(5));
    assert_eq!((link.holders(), link.doubled), (vec![0], Duration::ZERO));
    assert_eq!(link.announced.len(), ANNOUNCED.len(), "a new process announces nothing: {:?}", link.announced);
}

#[test]
fn a_node_that_was_cut_off_and_comes_back_looks_first_and_gives_way() {
    let mut link = held(2);
    link.nodes[0].claim.works = false;
    link.until_held_by(1);
    link.nodes[0].wanted = 0;
    link.nodes[1].wanted = 5;
    link.run(seconds(30));
    link.nodes[0].claim.works = true;
    link.run(seconds(60));
    assert_eq!((link.holders(), link.doubled), (vec![1], Duration::ZERO));
}

#[test]
fn a_holder_that_sources_do_not_reach_gives_way_to_the_one_that_they_reach() {
    let mut link = held(3);
    (link.nodes[0].wanted, link.nodes[2].wanted) = (0, 5);
    let took = link.until_held_by(2);
    assert!(took <= TICK * 4, "it is asked at once, and says at once that it has given: {took:?}");
    // It is reachable again, and the address stays.
    (link.nodes[0].wanted, link.nodes[2].wanted) = (0, 5);
    link.run(seconds(60));
    assert_eq!((link.holders(), link.doubled), (vec![2], Duration::ZERO));
}

#[test]
fn where_sources_see_different_things_the_address_is_where_more_of_them_are_and_nobody_bounces() {
    let mut link = held(2);
    (link.nodes[0].wanted, link.nodes[1].wanted) = (3, 2);
    link.run(seconds(30));
    assert_eq!(link.holders(), [0]);
    (link.nodes[0].wanted, link.nodes[1].wanted) = (2, 3);
    link.until_held_by(1);
    (link.nodes[0].wanted, link.nodes[1].wanted) = (3, 3);
    let moved = link.announced.len();
    link.run(seconds(60));
    assert_eq!((link.holders(), link.doubled), (vec![1], Duration::ZERO));
    assert!(link.announced.len() - moved <= ANNOUNCED.len());
}

#[test]
fn a_node_that_is_no_candidate_any_more_keeps_it_until_the_next_one_asks() {
    let mut link = held(2);
    (link.nodes[0].claim.rank, link.nodes[0].claim.placed) = (None, false);
    (link.nodes[1].claim.placed, link.nodes[1].claim.rank) = (true, Some(0));
    let took = link.until_held_by(1);
    assert!(took <= ASK + TICK * 4, "it says at once that it has given, though it has no part any more: {took:?}");
    assert!(link.nodes[0].monitor.is_empty(), "and then forgets the address");
    assert_eq!(link.doubled, Duration::ZERO);
    let mut alone = held(1);
    (alone.nodes[0].claim.rank, alone.nodes[0].claim.placed) = (None, false);
    alone.run(seconds(60));
    assert_eq!(alone.holders(), [0]);
}

#[test]
fn an_address_returns_only_if_the_policy_says_so() {
    for failback in [false, true] {
        let mut link = held(2);
        link.nodes[0].lives = false;
        link.until_held_by(1);
        link.nodes[1].wanted = 5;
        link.nodes[0] = Node { monitor: HoldingMonitor::default(), ..Link::with(1).nodes.remove(0) };
        link.nodes[0].claim.preferred = failback;
        link.run(seconds(5));
        assert_eq!(link.holders(), [1]);
        if failback {
            link.until_held_by(0);
            // Sources follow.
            (link.nodes[0].wanted, link.nodes[1].wanted) = (5, 0);
        }
        link.run(seconds(30));
        assert_eq!((link.holders(), link.doubled), (vec![usize::from(!failback)], Duration::ZERO));
    }
}

#[test]
fn a_standby_that_keeps_the_address_is_no_conflict_and_is_asked_rarely() {
    let mut link = held(2);
    link.nodes[0].claim.works = false;
    link.until_held_by(1);
    (link.nodes[0].wanted, link.nodes[1].wanted) = (0, 5);
    link.nodes[0].claim.works = true;
    link.run(seconds(5));
    link.claimed = 0;
    for _ in 0..600 {
        link.run(TICK * 4);
        assert_eq!(link.nodes[0].monitor.view(link.now).conflict(address()), None, "after {:?}", link.now);
    }
    assert_eq!(link.holders(), [1]);
    assert!((6..=13).contains(&link.claimed), "{} times in a minute", link.claimed);
    // Its agent dies and answers no claims any more; its kernel still has the address.
    link.nodes[1].runs = false;
    link.run(seconds(30));
    assert_eq!(link.nodes[0].monitor.view(link.now).conflict(address()), Some(mac(1)));
}

#[test]
fn two_halves_of_a_broken_link_have_one_holder_soon_after_it_is_mended() {
    for (wanted, stays) in [((5, 0), 0), ((0, 5), 1), ((0, 0), 0)] {
        let mut link = held(2);
        link.cut = vec![(0, 1)];
        link.run(seconds(10));
        assert_eq!(link.holders(), [0, 1]);
        (link.nodes[0].wanted, link.nodes[1].wanted) = wanted;
        link.cut.clear();
        let took = link.until_held_by(stays);
        assert!(took < seconds(5), "{took:?}");
        link.run(seconds(20));
        assert_eq!(link.holders(), [stays]);
    }
}

#[test]
fn an_address_that_another_host_has_is_not_taken() {
    let mut link = Link::with(2);
    // A host without Egret.
    link.nodes[1].runs = false;
    link.nodes[1].claim.present = true;
    link.run(seconds(30));
    assert_eq!(link.holders(), [1]);
    let view = link.nodes[0].monitor.view(link.now);
    assert_eq!(view.conflict(address()), Some(mac(1)));
}

#[test]
fn a_holder_that_is_needed_defends_its_address_against_another_host_and_one_that_is_not_needed_gives_way() {
    for (wanted, keeps) in [(5, true), (0, false)] {
        let mut link = held(2);
        link.nodes[0].wanted = wanted;
        link.nodes[1].runs = false;
        link.nodes[1].claim.present = true;
        link.run(seconds(30));
        assert_eq!(link.nodes[0].claim.present, keeps);
        assert_eq!(link.nodes[0].monitor.view(link.now).conflict(address()), Some(mac(1)));
    }
}

#[test]
fn who_cannot_ask_takes_nothing() {
    let mut monitor = HoldingMonitor::default();
    let mut claim = Link::with(1).nodes.remove(0).claim;
    claim.placed = true;
    for tick in 0..400 {
        let now = TICK * tick;
        monitor.set(&BTreeMap::from([(address(), claim.clone())]), BTreeMap::new(), ProbeTiming::default(), now);
        monitor.judge(now);
        for (of, message) in monitor.due(now) {
            assert_eq!(message, Message::Ask);
            monitor.not_asked(of);
        }
        assert!(!monitor.view(now).holds(address(), false, false));
    }
}

#[test]
fn on_loopback_the_address_is_where_sources_send() {
    let mut link = Link::with(2);
    link.nodes.iter_mut().for_each(|node| node.claim.on_loopback = true);
    link.run(seconds(10));
    assert_eq!(link.holders(), Vec::<usize>::new(), "nobody sends");
    link.nodes[0].wanted = 5;
    link.run(seconds(10));
    assert_eq!((link.holders(), link.announced.len()), (vec![0], 0));
    (link.nodes[0].wanted, link.nodes[1].wanted) = (0, 5);
    let took = link.until_held_by(1);
    assert!(took < Duration::from_millis(400), "{took:?}");
    // The placed gateway comes back, and draws nothing.
    link.nodes[0].monitor = HoldingMonitor::default();
    link.run(seconds(10));
    assert_eq!(link.holders(), [1]);
    link.nodes[1].wanted = 0;
    link.run(seconds(10));
    assert_eq!(link.holders(), Vec::<usize>::new(), "nobody sends any more");
}

#[test]
fn on_loopback_an_address_stays_while_nobody_knows_whether_sources_send() {
    let mut monitor = HoldingMonitor::default();
    let mut claim = Link::with(1).nodes.remove(0).claim;
    (claim.on_loopback, claim.present) = (true, true);
    let mut after = |wanted, from: u32| {
        for now in (from..from + 40).map(|tick| TICK * tick) {
            monitor.set(&BTreeMap::from([(address(), claim.clone())]), BTreeMap::new(), ProbeTiming::default(), now);
            monitor.wanted(address(), wanted);
            monitor.judge(now);
        }
        monitor.view(TICK * (from + 40)).holds(address(), false, false)
    };
    assert!(after(None, 0), "a process that has just begun");
    assert!(!after(Some(0), 40));
}
