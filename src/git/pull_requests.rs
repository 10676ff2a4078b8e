//! Heads of pull requests: fetched by the reference names of the forge, into references below `refs/egret/` of a separate mirror.
//!
//! A pull request is data: the worker process fetches it under the same limits as everything else, and nothing of it is run. Which pull
//! requests there are is known from the forge's API (`forge`).

use std::collections::BTreeMap;
use std::fs;

use super::commit::CommitId;
use super::error::{Error, Result};
use super::exchange::Refspec;
use super::mirror::{Mirror, tracking};
use super::remote::Remote;

/// The most bytes that pull requests may bring in one fetch. Policies are small.
pub const MOST: u64 = 32 << 20;

/// The head of a pull request, as the forge reports it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PullHead {
    /// The reference's name in the repository: `refs/pull/5/head`.
    pub name: String,
    /// The commit.
    pub commit: CommitId,
}

impl Mirror {
    /// Fetches heads that the mirror lacks, and removes those of other pull requests. Returns those that could not be fetched, with the
    /// error; a head whose reference does not (yet) lead to its commit has none. A head that fails does not affect the others.
    ///
    /// Nothing more is fetched once the mirror has `room` bytes.
    ///
    /// Errors: the mirror itself.
    pub fn pull_heads(&mut self, wanted: &[PullHead], room: u64) -> Result<BTreeMap<PullHead, Option<Error>>> {
        /// After so many failures in a row the cause is not the single head.
        const MOST_FAILURES: usize = 3;
        self.remove_all_but(wanted)?;
        let missing: Vec<&PullHead> = wanted.iter().filter(|head| !self.has(head.commit)).collect();
        let mut errors = BTreeMap::new();
        let full = || Error::TooMuch { repository: self.source.to_string(), max_bytes: room };
        if self.size() > room {
            errors.extend(missing.iter().map(|head| ((*head).clone(), full())));
        } else if !missing.is_empty() && self.fetch_heads(&missing).is_err() {
            let mut in_a_row = 0;
            for head in &missing {
                if self.size() > room {
                    errors.insert((*head).clone(), full());
                    continue;
                }
                match self.fetch_heads(&[head]) {
                    Ok(()) => in_a_row = 0,
                    Err(error) => {
                        in_a_row = if matches!(error, Error::TooMuch { .. } | Error::Oversized { .. }) {
                            0
                        } else {
                            in_a_row + 1
                        };
                        errors.insert((*head).clone(), error);
                    }
                }
                if in_a_row >= MOST_FAILURES {
                    break;
                }
            }
        }
        let absent = missing.into_iter().filter(|head| !self.has(head.commit));
        Ok(absent.map(|head| (head.clone(), errors.remove(head))).collect())
    }

    /// How many bytes the mirror has fetched and kept.
    pub fn size(&self) -> u64 {
        let entries = fs::read_dir(self.repository.path().join("objects/pack")).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|data| data.len()).sum()
    }

    /// The next fetch creates the mirror anew, without objects that are no longer needed.
    pub fn renew(&self) {
        self.suspect.set(true);
    }

    fn fetch_heads(&self, heads: &[&PullHead]) -> Result<()> {
        let mut access = self.remote().access.clone();
        access.limits.max_bytes = access.limits.max_bytes.min(MOST);
        let remote = Remote { source: &self.source, access: &access, in_place: false };
        let refspecs: Vec<Refspec> =
            heads.iter().map(|head| Refspec { remote: head.name.clone(), local: tracking(&head.name) }).collect();
        remote.fetch(&self.repository, &mut |_| refspecs.clone()).map(|_| ())
    }

    /// References of closed pull requests would keep their commits, and their names may be in the way of new ones.
    fn remove_all_but(&self, wanted: &[PullHead]) -> Result<()> {
        let fault = |source| self.fault("remove the reference of a pull request", source);
        for folder in ["refs/egret/pull/*", "refs/egret/merge-requests/*"] {
            for reference in self.repository.references_glob(folder).map_err(fault)? {
                let mut reference = reference.map_err(fault)?;
                let kept = wanted.iter().any(|head| tracking(&head.name).as_bytes() == reference.name_bytes());
                if !kept {
                    reference.delete().map_err(fault)?;
                }
            }
        }
        Ok(())
    }
}
