//! The kernel as a round uses it. A simulation has its own; otherwise it is this machine's.
//!
//! Not here: netlink (`kernel`).

use crate::core::conntrack::ConntrackStatistics;
use crate::core::neighbour_resolution::LinkNeighbour;
use crate::core::plan::Step;
use crate::core::state::nft::RuleCounters;
use crate::core::state::ownership::DatapathConfig;
use crate::kernel::conntrack::{self, ConntrackError};
use crate::kernel::marks::{self, MarkSurvey, MarkSurveyError};
use crate::kernel::nft::Generation;
use crate::kernel::watch::{KernelEvent, KernelWatch};
use crate::kernel::{Kernel, KernelError, Observed};

/// Reads and changes a node's kernel.
#[expect(async_fn_in_trait, reason = "one task drives a node: its futures need not be Send")]
pub trait NodeKernel {
    /// Reads Egret's objects and the host network.
    async fn observe(&mut self) -> Result<Observed, KernelError>;

    /// Carries out one step of a plan that was made on this nftables generation, which becomes the one that the step
    /// made.
    async fn apply(&mut self, step: &Step, generation: &mut Generation) -> Result<(), KernelError>;

    /// Reads the counters of rules.
    async fn counters(&mut self) -> Result<RuleCounters, KernelError>;

    /// Makes the kernel ask for a neighbour, as a packet to it would.
    async fn ask_for(&self, neighbour: &LinkNeighbour) -> Result<(), KernelError>;

    /// Sets the ranges of marks and tables that are Egret's.
    fn set_ranges(&mut self, ranges: Vec<DatapathConfig>);

    /// Whether connections are tracked already, so that some may be known that Egret did not see begin.
    async fn tracks_connections(&self) -> bool;

    /// Reads the statistics of connection tracking.
    async fn conntrack_statistics(&self) -> Result<ConntrackStatistics, ConntrackError>;

    /// Reads which mark bits other software uses.
    async fn survey_marks(&self, first_table: u32) -> Result<MarkSurvey, MarkSurveyError>;
}

/// Reports what changes in a node's kernel.
#[expect(async_fn_in_trait, reason = "one task drives a node: its futures need not be Send")]
pub trait KernelEvents {
    /// Waits for the next event. Cancel-safe.
    async fn next(&mut self) -> Result<KernelEvent, KernelError>;
}

impl NodeKernel for Kernel {
    async fn observe(&mut self) -> Result<Observed, KernelError> {
        Self::observe(self).await
    }

    async fn apply(&mut self, step: &Step, generation: &mut Generation) -> Result<(), KernelError> {
        Self::apply(self, step, generation).await
    }

    async fn counters(&mut self) -> Result<RuleCounters, KernelError> {
        Self::counters(self).await
    }

    async fn ask_for(&self, neighbour: &LinkNeighbour) -> Result<(), KernelError> {
        Self::ask_for(self, neighbour).await
    }

    fn set_ranges(&mut self, ranges: Vec<DatapathConfig>) {
        Self::set_ranges(self, ranges);
    }

    async fn tracks_connections(&self) -> bool {
        // If that is unknown, they may be.
        conntrack::at_work().await.unwrap_or(true)
    }

    async fn conntrack_statistics(&self) -> Result<ConntrackStatistics, ConntrackError> {
        conntrack::statistics().await
    }

    async fn survey_marks(&self, first_table: u32) -> Result<MarkSurvey, MarkSurveyError> {
        marks::survey(first_table).await
    }
}

impl KernelEvents for KernelWatch {
    async fn next(&mut self) -> Result<KernelEvent, KernelError> {
        Self::next(self).await
    }
}
