//! Whether connection tracking has room for new connections on a node.
//!
//! One egress address has 64,512 ports for each destination, protocol and port there, and the table of connections has
//! a limit. Where either is used up, new connections are lost, and only the kernel's statistics show it. Not here:
//! reading them (`kernel::conntrack`), and how many ports each address uses (`ports`).

use jiff::{SignedDuration, Timestamp};

use super::finding::Finding;
use super::name::NodeName;

/// So many connections that could not be entered within [`INTERVAL`] are a finding. A few are usual: of two packets that
/// begin the same connection on two CPUs one loses.
const LOST: u64 = 10;
/// See [`LOST`].
const INTERVAL: SignedDuration = SignedDuration::from_mins(1);
/// How long the finding stays after the last such interval: each change of a finding is a commit of the report.
const QUIET: SignedDuration = SignedDuration::from_mins(15);
/// From this share of the limit on the table is almost full, in percent, until it is below [`ROOMY`] again.
const ALMOST_FULL: u64 = 80;
/// See [`ALMOST_FULL`].
const ROOMY: u64 = 70;

/// What the kernel counts in one network namespace. The counters wrap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConntrackStatistics {
    /// Tracked connections.
    pub entries: u32,
    /// The most there may be; none: the kernel does not say it.
    pub limit: Option<u32>,
    /// Connections that could not be entered, because their translated tuple is another's.
    pub insert_failed: u32,
    /// Packets dropped because a connection could not be made or entered.
    pub dropped: u32,
    /// Connections without an answer that were given up for new ones, in a full table.
    pub early_dropped: u32,
}

/// The same with counters that do not wrap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConntrackTotals {
    /// See [`ConntrackStatistics::entries`].
    pub entries: u32,
    /// See [`ConntrackStatistics::limit`].
    pub limit: Option<u32>,
    /// See [`ConntrackStatistics::insert_failed`].
    pub insert_failed: u64,
    /// See [`ConntrackStatistics::dropped`].
    pub dropped: u64,
    /// See [`ConntrackStatistics::early_dropped`].
    pub early_dropped: u64,
}

/// Follows the statistics.
#[derive(Debug, Default)]
pub struct ConntrackWatch {
    last: Option<ConntrackStatistics>,
    totals: ConntrackTotals,
    /// When the present interval began, and how many connections could not be entered since.
    interval: Option<(Timestamp, u64)>,
    /// When an interval last had too many of them.
    lost: Option<Timestamp>,
    almost_full: bool,
}

impl ConntrackWatch {
    /// Takes in a reading. The counters of the first one are from before: they count in the totals alone.
    pub fn read(&mut self, now: Timestamp, seen: ConntrackStatistics) {
        let before = self.last.replace(seen);
        let grown = |of: fn(&ConntrackStatistics) -> u32| {
            u64::from(before.as_ref().map_or(of(&seen), |before| of(&seen).wrapping_sub(of(before))))
        };
        let failed = grown(|one| one.insert_failed);
        self.totals = ConntrackTotals {
            entries: seen.entries,
            limit: seen.limit,
            insert_failed: self.totals.insert_failed + failed,
            dropped: self.totals.dropped + grown(|one| one.dropped),
            early_dropped: self.totals.early_dropped + grown(|one| one.early_dropped),
        };
        // A clock that was set back begins another interval.
        let interval =
            self.interval.filter(|(began, _)| (SignedDuration::ZERO..INTERVAL).contains(&now.duration_since(*began)));
        let (began, lost) = interval.unwrap_or((now, 0));
        let lost = lost + if before.is_some() { failed } else { 0 };
        self.interval = Some((began, lost));
        if lost >= LOST {
            self.lost = Some(now);
        }
        self.lost = self.lost.filter(|lost| now.duration_since(*lost) < QUIET);
        let share =
            seen.limit.filter(|limit| *limit > 0).map_or(0, |limit| u64::from(seen.entries) * 100 / u64::from(limit));
        self.almost_full = share >= if self.almost_full { ROOMY } else { ALMOST_FULL };
    }

    /// The totals; none before the first reading.
    pub fn totals(&self) -> Option<&ConntrackTotals> {
        self.last.map(|_| &self.totals)
    }

    /// What an operator should know. The texts have no figures, so that they stay the same while the cause does.
    pub fn findings(&self, node: &NodeName) -> Vec<Finding> {
        let lost = self.lost.map(|_| {
            let message = "connections are lost here: connection tracking cannot enter them, most likely because the ports \
                           of an egress address towards one destination are used up";
            Finding::new("connections-lost", node, message).hint(
                "use more egress addresses: each has 64,512 ports for each destination; or let connections end sooner \
                 (net.netfilter.nf_conntrack_*_timeout*); `conntrack -S` tells how many fail",
            )
        });
        let full = self.almost_full.then(|| {
            let message = "the table of connections is almost full; new ones are lost when it is";
            Finding::new("conntrack-almost-full", node, message)
                .hint("raise net.netfilter.nf_conntrack_max, or let connections end sooner")
        });
        lost.into_iter().chain(full).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("a time")
    }

    fn failed(insert_failed: u32) -> ConntrackStatistics {
        ConntrackStatistics { insert_failed, ..ConntrackStatistics::default() }
    }

    fn codes(watch: &ConntrackWatch) -> Vec<String> {
        let node = NodeName::parse("worker").expect("a name");
        watch.findings(&node).into_iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn connections_that_could_not_be_entered_are_a_finding_for_a_quarter_of_an_hour() {
        let mut watch = ConntrackWatch::default();
        assert_eq!(watch.totals(), None);
        watch.read(at(0), failed(4_000_000_000));
        assert_eq!(codes(&watch), [""; 0], "what was counted before is nothing new");
        watch.read(at(20), failed(4_000_000_005));
        watch.read(at(40), failed(4_000_000_009));
        assert_eq!(codes(&watch), [""; 0], "nine in a minute happen");
        watch.read(at(61), failed(4_000_000_010));
        assert_eq!(codes(&watch), [""; 0], "and one in the next");
        watch.read(at(80), failed(4_000_000_019));
        assert_eq!(codes(&watch), ["connections-lost"]);
        watch.read(at(80 + 14 * 60), failed(4_000_000_019));
        assert_eq!(codes(&watch), ["connections-lost"]);
        watch.read(at(80 + 15 * 60), failed(4_000_000_019));
        assert_eq!(codes(&watch), [""; 0]);
    }

    #[test]
    fn counters_of_the_kernel_wrap_and_totals_do_not() {
        let mut watch = ConntrackWatch::default();
        watch.read(at(0), failed(u32::MAX));
        watch.read(at(1), failed(1));
        assert_eq!(watch.totals().map(|totals| totals.insert_failed), Some(u64::from(u32::MAX) + 2));
    }

    #[test]
    fn a_table_is_almost_full_from_four_fifths_of_its_limit_and_until_there_is_room_again() {
        let mut watch = ConntrackWatch::default();
        let mut almost_full = |entries, limit| {
            watch.read(at(0), ConntrackStatistics { entries, limit, ..ConntrackStatistics::default() });
            codes(&watch) == ["conntrack-almost-full"]
        };
        let limit = Some(262_144);
        assert!(!almost_full(209_000, limit));
        assert!(almost_full(209_716, limit));
        assert!(almost_full(190_000, limit));
        assert!(!almost_full(183_000, limit));
        assert!(!almost_full(u32::MAX, None) && !almost_full(u32::MAX, Some(0)), "no limit is known");
    }
}
