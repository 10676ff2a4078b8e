//! Tells a router that does not answer from one that was asked a moment ago.
//!
//! The kernel asks for a neighbour's MAC address three times, a second apart (`mcast_solicit`, `retrans_time_ms`), then gives up; the next
//! packet makes it ask again. So while packets come, an address that nobody has is nearly always being asked for. Not here: reading the
//! kernel's table (`kernel::observe`), and which routers matter (`compile::next_hops`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

/// An interface and an address behind it.
pub type LinkNeighbour = (String, IpAddr);

/// Why the kernel has no MAC address of a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// It is asking for it (`NUD_INCOMPLETE`, include/uapi/linux/neighbour.h).
    Asking,
    /// Nobody answered (`NUD_FAILED`), or not for [`PATIENCE`].
    Failed,
}

/// A neighbour that is still being asked for after this time does not answer.
pub const PATIENCE: SignedDuration = SignedDuration::from_secs(3);

/// What is known of the neighbours that the kernel was asked for.
#[derive(Debug, Default)]
pub struct ResolutionWatch(BTreeMap<LinkNeighbour, Known>);

/// What is known of one.
#[derive(Debug, Clone, Copy)]
enum Known {
    /// It has answered, or nobody looked yet.
    Fine,
    /// It has been asked for since this time.
    Asked(Timestamp),
    /// It does not answer.
    Silent,
}

impl ResolutionWatch {
    /// These are asked for now, and no others.
    pub fn asked(&mut self, neighbours: &BTreeSet<LinkNeighbour>) {
        self.0.retain(|neighbour, _| neighbours.contains(neighbour));
        for neighbour in neighbours {
            self.0.entry(neighbour.clone()).or_insert(Known::Fine);
        }
    }

    /// Corrects what was read now by what was read before. `resolved`: those that the kernel has an address of. What nobody asked for
    /// may have failed long ago; and the kernel forgets one that failed (`neigh_periodic_work`), which is no answer.
    pub fn correct(
        &mut self,
        unresolved: &mut BTreeMap<LinkNeighbour, Resolution>,
        resolved: &BTreeSet<LinkNeighbour>,
        now: Timestamp,
    ) {
        for (neighbour, resolution) in &mut *unresolved {
            if !self.0.contains_key(neighbour) {
                *resolution = Resolution::Asking;
            }
        }
        for (neighbour, known) in &mut self.0 {
            *known = match (unresolved.get(neighbour), *known) {
                _ if resolved.contains(neighbour) => Known::Fine,
                (Some(Resolution::Failed), _) | (_, Known::Silent) => Known::Silent,
                (None, _) => Known::Fine,
                (Some(Resolution::Asking), Known::Fine) => Known::Asked(now),
                (Some(Resolution::Asking), Known::Asked(since)) if now.duration_since(since) >= PATIENCE => {
                    Known::Silent
                }
                (Some(Resolution::Asking), Known::Asked(since)) => Known::Asked(since),
            };
            if matches!(known, Known::Silent) {
                unresolved.insert(neighbour.clone(), Resolution::Failed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_is_silent_once_it_was_asked_in_vain_and_until_it_answers() {
        use Resolution::{Asking, Failed};
        let router: LinkNeighbour = ("net1".to_owned(), "10.0.3.1".parse().unwrap());
        let all = BTreeSet::from([router.clone()]);
        let mut watch = ResolutionWatch::default();
        let mut at = |second: i64, read: Option<Resolution>, asked: bool, answered: bool| {
            if asked {
                watch.asked(&all);
            }
            let mut read: BTreeMap<_, _> = read.map(|resolution| (router.clone(), resolution)).into_iter().collect();
            let resolved = if answered { all.clone() } else { BTreeSet::new() };
            watch.correct(&mut read, &resolved, Timestamp::from_second(second).unwrap());
            read.get(&router).copied()
        };
        assert_eq!(at(0, Some(Failed), false, false), Some(Asking), "nobody knows how long ago that was");
        assert_eq!(at(0, Some(Asking), true, false), Some(Asking), "it was asked a moment ago");
        assert_eq!(at(2, Some(Asking), true, false), Some(Asking));
        assert_eq!(at(3, Some(Asking), true, false), Some(Failed), "and has not answered since");
        assert_eq!(at(4, Some(Asking), true, false), Some(Failed), "the kernel asks again and again");
        assert_eq!(at(5, None, true, false), Some(Failed), "the kernel has forgotten it");
        assert_eq!(at(6, None, true, true), None, "it has answered");
        assert_eq!(at(7, Some(Asking), true, false), Some(Asking));
        assert_eq!(at(8, Some(Failed), true, false), Some(Failed), "the kernel gave up");
        watch.asked(&BTreeSet::new());
        let mut read = BTreeMap::from([(router.clone(), Failed)]);
        watch.correct(&mut read, &BTreeSet::new(), Timestamp::from_second(9).unwrap());
        assert_eq!(read[&router], Asking, "no exit needs it any more");
    }
}
