//! Tells a router that does not answer from one that was asked a moment ago.
//!
//! The kernel asks for a neighbour's MAC address three times, a second apart (`mcast_solicit`, `retrans_time_ms`), then gives up; the next
//! packet makes it ask again. So while packets come, an address that nobody has is nearly always being asked for. Not here: reading the
//! kernel's table (`kernel::observe`), and which routers matter (`compile::next_hops`).

use std::collections::BTreeMap;
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

/// Since when neighbours are being asked for; none: they have not answered before.
#[derive(Debug, Default)]
pub struct ResolutionWatch(BTreeMap<LinkNeighbour, Option<Timestamp>>);

impl ResolutionWatch {
    /// Corrects what was read now by what was read before.
    pub fn correct(&mut self, read: &mut BTreeMap<LinkNeighbour, Resolution>, now: Timestamp) {
        self.0.retain(|neighbour, _| read.contains_key(neighbour));
        for (neighbour, resolution) in read {
            let since = self.0.entry(neighbour.clone()).or_insert(Some(now));
            if *resolution == Resolution::Failed || since.is_some_and(|since| now.duration_since(since) >= PATIENCE) {
                *since = None;
            }
            if since.is_none() {
                *resolution = Resolution::Failed;
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
        let mut watch = ResolutionWatch::default();
        let mut at = |second: i64, read: Option<Resolution>| {
            let mut read: BTreeMap<_, _> = read.map(|resolution| (router.clone(), resolution)).into_iter().collect();
            watch.correct(&mut read, Timestamp::from_second(second).unwrap());
            read.get(&router).copied()
        };
        assert_eq!([at(0, Some(Asking)), at(2, Some(Asking))], [Some(Asking); 2], "it was asked a moment ago");
        assert_eq!([at(3, Some(Asking)), at(4, Some(Asking))], [Some(Failed); 2], "and has not answered since");
        assert_eq!([at(5, None), at(6, Some(Asking))], [None, Some(Asking)], "it has answered");
        assert_eq!([at(7, Some(Failed)), at(8, Some(Asking))], [Some(Failed); 2], "the kernel gave up, and asks again");
        assert_eq!(
            [at(9, None), at(0, Some(Asking)), at(-9, Some(Asking))],
            [None, Some(Asking), Some(Asking)],
            "a clock that goes back"
        );
    }
}
