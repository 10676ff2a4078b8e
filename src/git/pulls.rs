//! Heads of pull requests: fetched by the names that forges give them, into references of our own in a mirror of its own.
//!
//! What somebody proposes is data, wherever it is from: it is fetched by the same process under the same limits as everything else, and
//! nothing of it is run. Deliberately absent: which pull requests there are (a forge says that), and what they would do.

use std::collections::BTreeMap;
use std::fs;

use super::CommitId;
use super::error::{Error, Result};
use super::mirror::{Mirror, seen};
use super::remote::{Remote, Want};

/// The most bytes that pull requests may bring in one conversation. Policies are small; whoever proposes hundreds of megabytes is told so.
pub const MOST: u64 = 32 << 20;

/// The head of a pull request, as a forge tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PullHead {
    /// The name of the reference there: `refs/pull/5/head`.
    pub name: String,
    /// The commit.
    pub commit: CommitId,
}

impl Mirror {
    /// Fetches heads that are not here yet, and forgets those of other pull requests. Gives those that could not be had, with the reason; a
    /// commit that is just not behind its name (yet) has none. One that cannot be fetched keeps none of the others from it.
    ///
    /// Nothing more is fetched once the mirror has `room` bytes.
    ///
    /// Errors: the mirror itself.
    pub fn pull_heads(&mut self, wanted: &[PullHead], room: u64) -> Result<BTreeMap<PullHead, Option<Error>>> {
        /// After so many in a row it is not they that are at fault.
        const TRIES: usize = 3;
        self.forget_all_but(wanted)?;
        let missing: Vec<&PullHead> = wanted.iter().filter(|head| !self.has(head.commit)).collect();
        let mut faults = BTreeMap::new();
        let full = || Error::TooMuch { repository: self.source.to_string(), most: room };
        if self.size() > room {
            faults.extend(missing.iter().map(|head| ((*head).clone(), full())));
        } else if !missing.is_empty() && self.bring(&missing).is_err() {
            let mut in_a_row = 0;
            for head in &missing {
                if self.size() > room {
                    faults.insert((*head).clone(), full());
                    continue;
                }
                match self.bring(&[head]) {
                    Ok(()) => in_a_row = 0,
                    Err(error) => {
                        in_a_row = if matches!(error, Error::TooMuch { .. } | Error::Oversized { .. }) {
                            0
                        } else {
                            in_a_row + 1
                        };
                        faults.insert((*head).clone(), error);
                    }
                }
                if in_a_row >= TRIES {
                    break;
                }
            }
        }
        let absent = missing.into_iter().filter(|head| !self.has(head.commit));
        Ok(absent.map(|head| (head.clone(), faults.remove(head))).collect())
    }

    /// How many bytes the mirror has fetched and kept.
    pub fn size(&self) -> u64 {
        let entries = fs::read_dir(self.repository.path().join("objects/pack")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum()
    }

    /// The next look at the source makes the mirror anew, without what nobody asks for any more.
    pub fn renew(&self) {
        self.suspect.set(true);
    }

    fn bring(&self, heads: &[&PullHead]) -> Result<()> {
        let mut access = self.remote().access.clone();
        access.limits.most = access.limits.most.min(MOST);
        let remote = Remote { source: &self.source, access: &access };
        let wants: Vec<Want> =
            heads.iter().map(|head| Want { name: head.name.clone(), into: seen(&head.name) }).collect();
        remote.look(&self.repository, &mut |_| wants.clone()).map(|_| ())
    }

    /// A reference keeps its commits from being taken for garbage, and is a name that others may trip over.
    fn forget_all_but(&self, wanted: &[PullHead]) -> Result<()> {
        let fault = |source| self.fault("forget a pull request", source);
        for folder in ["refs/egret/pull/*", "refs/egret/merge-requests/*"] {
            for reference in self.repository.references_glob(folder).map_err(fault)? {
                let mut reference = reference.map_err(fault)?;
                let kept = wanted.iter().any(|head| seen(&head.name).as_bytes() == reference.name_bytes());
                if !kept {
                    reference.delete().map_err(fault)?;
                }
            }
        }
        Ok(())
    }
}
