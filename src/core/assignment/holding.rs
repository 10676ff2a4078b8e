//! Who has an assigned address: when a node takes it, when it gives it away, and what it sends on the link.
//!
//! On an Ethernet the link itself knows who has an address: every candidate without it asks several times a second (RFC 5227 for IPv4,
//! neighbour discovery for IPv6), and the holder's kernel answers, with or without an agent. So a holder that restarts loses nothing,
//! one that is dead does not answer, and no node takes an address that another host has. A holder that answers, but
//! that sources do not reach, is asked to give way by the candidate that they reach. On `lo` a routing daemon announces
//! the address, and no host can be asked: it is where sources send their packets, and nowhere before the first does. A
//! gateway that comes back, and announced it at once, would draw the answers to what another one sends.
//!
//! Times are durations since the monitor began; this module has no clock and sends nothing. Not here: packets (`kernel::conflict`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::core::policy::config::ProbeTiming;
use crate::core::state::net::Mac;

/// How often a holder asks whether another host has its address.
const WATCH: Duration = Duration::from_secs(1);
/// How long a node that is not placed waits where it never saw a holder: the placed one may just be starting. And how long any node waits
/// after its link has come back.
const FIRST: Duration = Duration::from_secs(5);
/// How long a node that gave an address away leaves it to the other.
const GIVEN: Duration = Duration::from_secs(1);
/// How long a new holder keeps an address, whoever asks for it: views of who is reachable change for all at once, and not in one moment.
const SETTLED: Duration = Duration::from_secs(1);
/// How long the first candidate has been there before it asks for an address that is to return.
const RETURN: Duration = Duration::from_secs(10);
/// How often a placed node asks a holder that may be no candidate any more.
const ASK: Duration = Duration::from_millis(150);
/// How often it asks one that said that it keeps the address; the answer is believed for some of these.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// After these times an address is announced again: switches and routers may have missed the first.
const ANNOUNCED: [Duration; 3] = [Duration::ZERO, Duration::from_millis(200), Duration::from_secs(2)];
/// How often a holder answers to a host that has its address, too (RFC 5227, 2.4 c: DEFEND_INTERVAL).
const DEFEND: Duration = Duration::from_secs(10);

/// A node's part in one address.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Claim {
    /// The interface.
    pub link: String,
    /// No link: a routing daemon announces the address.
    pub on_loopback: bool,
    /// How many nodes take it before this one; none: this one is no candidate any more.
    pub rank: Option<u32>,
    /// Some policy is placed here.
    pub placed: bool,
    /// The address returns to this node.
    pub preferred: bool,
    /// The interface has it.
    pub present: bool,
    /// The interface can send.
    pub works: bool,
    /// 1 if members of this node want it here.
    pub local: u32,
}

/// A node's claims.
pub type Claims = BTreeMap<IpAddr, Claim>;

/// Which addresses a node may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldingView {
    /// No node asks: each address is where policies are placed. For previews.
    Placed,
    /// As the monitor decides; what it does not know stays as it is.
    Seen(BTreeMap<IpAddr, Hold>),
}

impl Default for HoldingView {
    fn default() -> Self {
        Self::Seen(BTreeMap::new())
    }
}

/// The monitor's decision about one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// This node is to have it.
    pub ours: bool,
    /// A host that has it and does not give way.
    pub conflict: Option<Mac>,
}

impl HoldingView {
    /// Each address is where policies are placed.
    pub const PLACED: &'static Self = &Self::Placed;

    /// Whether a node is to have an address. `there`: it has it from an earlier decision.
    pub fn holds(&self, address: IpAddr, placed: bool, there: bool) -> bool {
        match self {
            Self::Placed => placed,
            Self::Seen(seen) => seen.get(&address).map_or(there, |hold| hold.ours),
        }
    }

    /// A host that has the address and does not give way.
    pub fn conflict(&self, address: IpAddr) -> Option<Mac> {
        match self {
            Self::Placed => None,
            Self::Seen(seen) => seen.get(&address)?.conflict,
        }
    }
}

/// What a node sends on the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Who has the address?
    Ask,
    /// This node has it: to all.
    Announce,
    /// To the holder: give way. `wanted`: how many sources want it here; `placed`: it belongs here.
    Claim {
        /// To this host.
        to: Mac,
        /// How many sources reach this node and not the holder.
        wanted: u32,
        /// The address is to return to this node.
        preferred: bool,
    },
    /// To a node that claimed it: this one has it no more.
    Give {
        /// To this host.
        to: Mac,
    },
    /// To a node that claimed it: this one keeps it. So the other knows that no stranger has the address.
    Keep {
        /// To this host.
        to: Mac,
    },
}

/// A message that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The host that sent it.
    pub from: Mac,
    /// What it says.
    pub says: Says,
}

/// What a host says of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// It has it.
    Has,
    /// It wants it: [`Message::Claim`].
    Claims {
        /// How many sources want it there.
        wanted: u32,
        /// It is to return there.
        preferred: bool,
    },
    /// It has it no more.
    Gives,
    /// It knows who wants it, and keeps it.
    Keeps,
}

/// One address.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct Address {
    claim: Claim,
    /// This node is to have it.
    ours: bool,
    /// Since when it is to have it or not.
    since: Duration,
    /// Questions since the last answer, and when the first of them was asked.
    unanswered: u32,
    first_unanswered: Duration,
    last_asked: Duration,
    /// When the next question is due.
    due: Duration,
    /// Who answered last, and when.
    holder: Option<(Mac, Duration)>,
    /// It was seen with some holder, this node or another.
    seen: bool,
    /// When the holder was last asked to give way.
    asked: Option<Duration>,
    /// It gave way: no host has it.
    free: bool,
    /// Who said last that it keeps it, and when.
    kept_by: Option<(Mac, Duration)>,
    /// When this node gave it away, to whom, and whether it still has to say so.
    given: Option<(Mac, Duration, bool)>,
    /// When the address appeared on this node's interface, and how often that was announced.
    appeared: Option<Duration>,
    announced: usize,
    /// When another host was last seen with this node's address, and how often it was asked to give way.
    conflicts: u32,
    defended: Option<Duration>,
    /// How many sources want it here; none: it is not known. And since when none does.
    wanted: Option<u32>,
    unwanted_since: Option<Duration>,
    /// Since when this node could have it.
    able_since: Option<Duration>,
    /// When the link came back, if it was away.
    link_back: Option<Duration>,
    /// This node has no part in it any more; it still has to say that it gave the address away.
    leaves: bool,
}

impl Address {
    fn new(claim: Claim, now: Duration) -> Self {
        let ours = claim.present;
        Self {
            claim,
            ours,
            // What was there before this process need not settle.
            since: now.saturating_sub(SETTLED),
            unanswered: 0,
            first_unanswered: now,
            last_asked: now,
            due: now,
            holder: None,
            seen: ours,
            asked: None,
            free: false,
            kept_by: None,
            given: None,
            appeared: None,
            // It was announced when it appeared.
            announced: if ours { ANNOUNCED.len() } else { 0 },
            conflicts: 0,
            defended: None,
            wanted: None,
            unwanted_since: None,
            able_since: None,
            link_back: None,
            leaves: false,
        }
    }

    fn set(&mut self, claim: Claim, now: Duration) {
        if claim.present && !self.claim.present {
            (self.appeared, self.announced) = (Some(now), 0);
        }
        if !claim.works && self.ours {
            self.give(now);
        }
        // Where a link comes back, another may have it meanwhile.
        if claim.works && !self.claim.works {
            (self.unanswered, self.due, self.link_back) = (0, now, Some(now));
        }
        let able = claim.works && claim.rank.is_some();
        self.able_since = if able { self.able_since.or(Some(now)) } else { None };
        (self.claim, self.leaves) = (claim, false);
    }

    /// This node has no part in the address any more, and so it is not on its interface. Returns whether
    /// [`Message::Give`] has still to be sent.
    fn leave(&mut self) -> bool {
        (self.claim.rank, self.claim.present, self.leaves) = (None, false, true);
        !self.ours && self.claim.works && self.is_untold()
    }

    fn is_untold(&self) -> bool {
        matches!(self.given, Some((_, _, true)))
    }

    fn demand(&self) -> u32 {
        self.wanted.unwrap_or_default() + self.claim.local
    }

    fn take(&mut self, now: Duration) {
        (self.ours, self.since, self.seen) = (true, now, true);
        (self.holder, self.conflicts, self.asked) = (None, 0, None);
        (self.free, self.kept_by, self.given) = (false, None, None);
        (self.unanswered, self.due) = (0, now + WATCH);
    }

    fn give(&mut self, now: Duration) {
        (self.ours, self.since) = (false, now);
        (self.unanswered, self.first_unanswered, self.due) = (0, now, now);
        (self.conflicts, self.defended) = (0, None);
    }

    /// What is to be sent now.
    fn due(&mut self, now: Duration, timing: ProbeTiming) -> Vec<Message> {
        let mut say = Vec::new();
        if !self.claim.works || self.claim.on_loopback {
            return say;
        }
        if let Some((to, _, untold @ true)) = &mut self.given
            && !self.claim.present
        {
            *untold = false;
            say.push(Message::Give { to: *to });
        }
        if let Some(appeared) = self.appeared.filter(|_| self.ours && self.claim.present)
            && let Some(after) = ANNOUNCED.get(self.announced)
            && now >= appeared + *after
        {
            self.announced += 1;
            say.push(Message::Announce);
        }
        if now >= self.due && (self.ours || self.claim.rank.is_some()) {
            if self.unanswered == 0 {
                self.first_unanswered = now;
            }
            self.unanswered += 1;
            self.last_asked = now;
            let asked = self.asked.is_some_and(|asked| now.saturating_sub(asked) < WATCH);
            self.due = now + if self.ours { WATCH } else { timing.interval / (1 + u32::from(asked)) };
            say.push(Message::Ask);
            say.extend(self.claims(now));
        }
        say
    }

    /// Whether the holder is asked to give way.
    fn claims(&mut self, now: Duration) -> Option<Message> {
        let (to, heard) = self.holder?;
        let recent = now.saturating_sub(heard) < WATCH + WATCH;
        let claims = if self.ours {
            // Two hosts have it.
            self.conflicts > 0
        } else {
            let returns = self.claim.preferred && self.able_since.is_some_and(|since| now >= since + RETURN);
            let pause = if self.keeps(to, now) { ASK_AGAIN } else { ASK };
            let placed = self.claim.placed && self.asked.is_none_or(|asked| now >= asked + pause);
            self.claim.rank.is_some() && (self.demand() > 0 || returns || placed)
        };
        let preferred = self.claim.preferred && self.able_since.is_some_and(|since| now >= since + RETURN);
        (recent && claims).then(|| {
            self.asked = Some(now);
            Message::Claim { to, wanted: self.demand(), preferred }
        })
    }

    /// Whether a host said lately that it keeps the address.
    fn keeps(&self, host: Mac, now: Duration) -> bool {
        self.kept_by.is_some_and(|(by, at)| by == host && now.saturating_sub(at) < ASK_AGAIN * 3)
    }

    /// Decides whether this node is to have the address.
    fn judge(&mut self, now: Duration, timing: ProbeTiming) {
        if self.claim.on_loopback {
            return self.judge_loopback(now, timing);
        }
        if self.ours || !self.claim.works {
            return;
        }
        let Some(rank) = self.claim.rank else { return };
        // A holder that was asked to give way does so within one interval.
        let asked = self.asked.is_some_and(|asked| now.saturating_sub(asked) < WATCH);
        let misses = if asked { timing.misses.min(2) } else { timing.misses };
        let interval = timing.interval / (1 + u32::from(asked));
        // The last question is a fresh one, and had time to be answered: another may have taken the address since the one before.
        let answerable = interval / 3;
        let mut patience = interval * misses + timing.interval * rank + answerable;
        if !self.seen && !self.claim.placed {
            patience += FIRST;
        }
        // A switch, or a bridge, takes a while before it forwards on a port that came up: a missing answer does not
        // count until then.
        if self.link_back.is_some_and(|back| now < back + FIRST) && !self.free {
            return;
        }
        let given = self.given.is_some_and(|(_, at, _)| now < at + GIVEN);
        let silent = self.unanswered > misses && now.saturating_sub(self.first_unanswered) >= patience;
        if self.free || silent && now.saturating_sub(self.last_asked) >= answerable && !given {
            self.take(now);
        }
    }

    /// On `lo` the address is where sources send their packets.
    fn judge_loopback(&mut self, now: Duration, timing: ProbeTiming) {
        let wanted = self.demand() > 0;
        let known = wanted || self.wanted.is_some();
        self.unwanted_since = if wanted || !known { None } else { self.unwanted_since.or(Some(now)) };
        let patience = timing.interval * (timing.misses + 1);
        let unwanted = self.unwanted_since.is_some_and(|since| now >= since + patience);
        let ours = self.claim.rank.is_some() && self.claim.works && (wanted || (self.ours && !unwanted));
        match (self.ours, ours) {
            (false, true) => self.take(now),
            (true, false) => self.give(now),
            _ => {}
        }
    }

    fn heard(&mut self, own: Option<Mac>, heard: Heard, now: Duration) -> Vec<Message> {
        if own == Some(heard.from) || self.claim.on_loopback {
            return Vec::new();
        }
        self.seen = true;
        match heard.says {
            Says::Claims { wanted, preferred } if self.ours => {
                self.claimed(own, heard.from, (wanted, preferred), now).into_iter().collect()
            }
            Says::Keeps => {
                self.kept_by = Some((heard.from, now));
                Vec::new()
            }
            // Only from the holder that was asked.
            Says::Gives => {
                let asked = self.asked.is_some_and(|asked| now.saturating_sub(asked) < WATCH);
                self.free = !self.ours && asked && self.holder.is_some_and(|(holder, _)| holder == heard.from);
                Vec::new()
            }
            Says::Claims { .. } => Vec::new(),
            Says::Has => {
                self.holder = Some((heard.from, now));
                (self.unanswered, self.free) = (0, false);
                if self.ours { self.doubled(heard.from, now) } else { Vec::new() }
            }
        }
    }

    /// Another node wants the address that this one has. Where two have it, neither keeps it rightly, and no answer is one.
    fn claimed(
        &mut self,
        own: Option<Mac>,
        from: Mac,
        (wanted, preferred): (u32, bool),
        now: Duration,
    ) -> Option<Message> {
        let doubled = self.conflicts > 0 && self.holder.is_some_and(|(holder, _)| holder == from);
        let settled = now >= self.since + SETTLED;
        let more = wanted > self.demand() || (doubled && wanted == self.demand() && own.is_some_and(|own| from < own));
        let gives = self.claim.rank.is_none()
            || (preferred && !self.claim.preferred && settled)
            || (more && (settled || doubled));
        if gives {
            self.give(now);
            self.given = Some((from, now, true));
        }
        (!gives && !doubled).then_some(Message::Keep { to: from })
    }

    /// Another host has the address, too. A node of Egret's reports how many sources want it there, and one of the two
    /// gives way; any other host is answered as RFC 5227 has it (2.4 c).
    fn doubled(&mut self, from: Mac, now: Duration) -> Vec<Message> {
        self.conflicts += 1;
        let claim = Message::Claim { to: from, wanted: self.demand(), preferred: false };
        // No source needs it here, and the other does not give way.
        if self.conflicts > 3 && self.demand() == 0 {
            self.give(now);
            return Vec::new();
        }
        let mut say = vec![claim];
        if self.defended.is_none_or(|defended| now >= defended + DEFEND) {
            self.defended = Some(now);
            say.push(Message::Announce);
        }
        say
    }

    fn hold(&self, now: Duration) -> Hold {
        let answers = self.holder.filter(|(_, at)| now.saturating_sub(*at) < WATCH * 3);
        let refuses = if self.ours { self.conflicts > 3 } else { self.asked.is_some() && self.claim.placed };
        let conflicts = |mac: Mac| refuses && self.stays_refused(mac, now);
        Hold { ours: self.ours, conflict: answers.map(|(mac, _)| mac).filter(|mac| conflicts(*mac)) }
    }

    /// A node of Egret's gives way within moments, or says that it keeps the address.
    fn stays_refused(&self, by: Mac, now: Duration) -> bool {
        self.ours || now >= self.since + FIRST && !self.keeps(by, now)
    }
}

/// All addresses of a node.
#[derive(Debug, Clone, Default)]
pub struct HoldingMonitor {
    addresses: BTreeMap<IpAddr, Address>,
    /// MAC addresses of this node's interfaces.
    own: BTreeMap<String, Mac>,
    timing: ProbeTiming,
}

impl HoldingMonitor {
    /// Sets the claims. What is known of those that stay is kept.
    pub fn set(&mut self, claims: &Claims, own: BTreeMap<String, Mac>, timing: ProbeTiming, now: Duration) {
        (self.timing, self.own) = (timing, own);
        self.addresses.retain(|address, one| claims.contains_key(address) || one.leave());
        for (address, claim) in claims {
            let one = self.addresses.entry(*address).or_insert_with(|| Address::new(claim.clone(), now));
            one.set(claim.clone(), now);
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The interface of an address.
    pub fn link(&self, address: IpAddr) -> Option<&str> {
        self.addresses.get(&address).map(|one| one.claim.link.as_str())
    }

    /// Sets how many sources want an address here; none: it is not known, and nothing changes because of it.
    pub fn wanted(&mut self, address: IpAddr, sources: Option<u32>) {
        let Some(one) = self.addresses.get_mut(&address) else { return };
        let before = one.demand();
        one.wanted = sources;
        // Sources have lost the holder just now: it is asked at once to give way.
        if before == 0 && one.demand() > 0 && !one.ours {
            one.due = Duration::ZERO;
        }
    }

    /// Takes in a message; returns the answers.
    pub fn heard(&mut self, address: IpAddr, heard: Heard, now: Duration) -> Vec<(IpAddr, Message)> {
        let Some(one) = self.addresses.get_mut(&address) else { return Vec::new() };
        let own = self.own.get(&one.claim.link).copied();
        one.heard(own, heard, now).into_iter().map(|message| (address, message)).collect()
    }

    /// A question could not be sent: missing answers do not count.
    pub fn not_asked(&mut self, address: IpAddr) {
        if let Some(one) = self.addresses.get_mut(&address) {
            one.unanswered = 0;
        }
    }

    /// Decides about every address, once everything that has come is taken in.
    pub fn judge(&mut self, now: Duration) {
        let timing = self.timing;
        self.addresses.values_mut().for_each(|one| one.judge(now, timing));
    }

    /// What is to be sent now.
    pub fn due(&mut self, now: Duration) -> Vec<(IpAddr, Message)> {
        let timing = self.timing;
        let mut due = Vec::new();
        for (address, one) in &mut self.addresses {
            due.extend(one.due(now, timing).into_iter().map(|message| (*address, message)));
        }
        due
    }

    /// Everything that was due is sent: forgets the addresses that this node has no part in any more.
    pub fn said(&mut self) {
        self.addresses.retain(|_, one| !one.leaves || one.is_untold());
    }

    /// What this node may hold.
    pub fn view(&self, now: Duration) -> HoldingView {
        HoldingView::Seen(self.addresses.iter().map(|(address, one)| (*address, one.hold(now))).collect())
    }

    /// How long to wait before the next step.
    pub fn interval(&self) -> Duration {
        self.timing.interval / 3
    }
}

#[cfg(test)]
mod tests;
