//! The addresses of pools, as one process knows them: the reports branch says which policy has which, and a copy of it is persisted, so
//! that what is allocated stays while Git is away.
//!
//! The standalone node and the controller share it. Not here: allocating (`core::allocation`), which happens where the branch is written
//! (`publisher`).

use super::publisher::BranchAllocation;
use super::repository::DesiredRevision;
use crate::core::allocation::{Allocation, read, write};
use crate::reconcile::persistence::state_store::StateStore;

/// The known allocation, and the revision that it is for.
#[derive(Debug, Default)]
pub struct PoolAddresses {
    /// As the repository has it: with requests in place of addresses.
    revision: Option<DesiredRevision>,
    /// None: neither the branch nor a copy was read.
    known: Option<Allocation>,
    /// Another process may have allocated since.
    outdated: bool,
    /// Why the branch's file could not be read the last time, as it was logged.
    fault: Option<String>,
}

impl PoolAddresses {
    /// Begins with the copy of an earlier process.
    pub fn open(memory: &StateStore) -> Self {
        let known = memory.kept().allocation.as_deref().and_then(|text| read(text).ok());
        Self { known, ..Self::default() }
    }

    /// Whether the branch, or a copy of it, was read, and no other process may have allocated since.
    pub fn known(&self) -> bool {
        self.known.is_some() && !self.outdated
    }

    /// Another process may have allocated meanwhile, and what it published has addresses that are not known here: revisions
    /// have no addresses until the branch is read.
    pub fn outdated(&mut self) -> Option<DesiredRevision> {
        self.outdated = true;
        self.revision.clone()
    }

    /// The known allocation.
    pub fn allocation(&self) -> Option<&Allocation> {
        self.known.as_ref()
    }

    /// A revision with the addresses that are known.
    pub fn take(&mut self, revision: DesiredRevision) -> DesiredRevision {
        let resolved = self.resolved(&revision);
        self.revision = Some(revision);
        resolved
    }

    /// Takes in what the branch has. Returns the revision with its addresses if there are others now.
    pub fn learn(&mut self, branch: Option<BranchAllocation>, memory: &mut StateStore) -> Option<DesiredRevision> {
        let known = match branch? {
            Ok(known) => known,
            Err(error) => {
                let fault = Some(error.to_string());
                if self.fault != fault {
                    let hint = "restore the file from the branch's history; until then no address of a pool is given";
                    tracing::error!(hint, "{error}");
                }
                self.fault = fault;
                return None;
            }
        };
        self.fault = None;
        let outdated = std::mem::take(&mut self.outdated);
        if self.known.as_ref() == Some(&known) {
            return self.revision.as_ref().filter(|_| outdated).map(|revision| self.resolved(revision));
        }
        memory.keep(|kept| kept.allocation = Some(write(&known)));
        self.known = Some(known);
        self.revision.as_ref().map(|revision| self.resolved(revision))
    }

    fn resolved(&self, revision: &DesiredRevision) -> DesiredRevision {
        let asks = revision.asked.as_ref().is_some_and(|asked| !asked.demand.is_empty());
        let Some(known) = self.known.as_ref().filter(|_| asks && !self.outdated) else { return revision.clone() };
        DesiredRevision { set: known.resolve(&revision.set).into(), ..revision.clone() }
    }
}
