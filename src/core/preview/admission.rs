//! When the change would come into force, where that is not at once.
//!
//! Deliberately absent: the checking of signatures (`git::signature`). What a forge makes of the change when it is merged, a merge commit
//! or one commit of all, has a signature of its own.

use super::phrase::Phrase;
use super::{Danger, Input, Level};
use crate::core::admission::{Rules, Verdict, Why, by_the_clock};

/// What becomes of the head when it is merged: by its signature, the windows of before, and the suspension of after.
pub(super) fn verdict(input: &Input<'_>) -> Verdict {
    if let Some((commit, what)) = input.unsigned {
        return Verdict::Withheld(Why::Unsigned { commit: commit.to_owned(), what: what.to_owned() });
    }
    let windows = &input.before.config.change_windows;
    let rules = Rules { windows, suspension: input.after.config.suspend.as_ref(), trailers: input.trailers };
    rules.judge(input.now)
}

/// What waits for what, and what passes.
pub(super) fn told(input: &Input<'_>, verdict: Verdict) -> Vec<Danger> {
    let danger = |code, title, text| Danger { level: Level::Waits, code, title, text };
    match verdict {
        Verdict::Withheld(Why::Suspended { until, owner, reason }) => {
            let begun = input.before.config.suspend == input.after.config.suspend;
            let text = Phrase::new().words(if begun {
                "the cluster is suspended by "
            } else {
                "this change suspends the cluster, by "
            });
            let text = text.name(owner).words(" ");
            let text = match until {
                Some(until) => text.words(format!("until {} (", by_the_clock(until, "UTC"))),
                None => text.words("("),
            };
            let text = text
                .quote(reason)
                .words("); no commit comes into force before, and then only in an open change window");
            vec![danger("suspended", "Suspended", text)]
        }
        Verdict::Withheld(Why::Window { opens, time_zone, window }) => {
            let text = Phrase::new().words("closed. It ");
            let text = match opens {
                Some(opens) => text.words(format!("opens {} (", by_the_clock(opens, &time_zone))),
                None => text.words("never opens ("),
            };
            vec![danger("change-window", "Change window", text.quote(window).words("); until then nothing happens"))]
        }
        Verdict::Emergency { trailer, reason } => {
            let text = Phrase::new().words("closed, and the head passes it by its trailer ").name(trailer);
            let text = text
                .words(" (")
                .quote(reason)
                .words("). A merge commit passes only with that line as the last paragraph of its own message");
            vec![Danger { level: Level::Warning, ..danger("emergency", "Change window", text) }]
        }
        Verdict::Withheld(Why::Unsigned { commit, what }) => {
            let short = commit.get(..12).unwrap_or(&commit);
            let text = Phrase::new().name(short).words(" would be refused: ").quote(what);
            let text = text.words(". What is in force stays until a commit comes that is signed as demanded; the forge's merge button makes one of its own");
            vec![Danger { level: Level::Danger, ..danger("unsigned", "Signature", text) }]
        }
        Verdict::Admitted => Vec::new(),
    }
}
