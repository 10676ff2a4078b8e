//! The kernel as it is between two rounds, for the page: read, compared with what was last applied, and not changed.
//!
//! Not here: the same by a process of its own (`inquiry`).

use super::{NodeKernel, Reconciler};
use crate::core::compile::counters::Counters;
use crate::core::explain::KernelReading;
use crate::core::host_network::HostNetwork;
use crate::core::placement::Placement;
use crate::kernel::KernelError;

/// What was read, and what it follows from.
pub struct RoundReading {
    /// The kernel.
    pub kernel: KernelReading,
    /// The rest of it that matters.
    pub host_network: HostNetwork,
    /// The placement as it applies on this node.
    pub placement: Option<Placement>,
    /// What its rules have counted until now.
    pub counted: Counters,
}

impl<K: NodeKernel> Reconciler<K> {
    /// Reads the kernel; none before the first round, and after one that failed.
    pub async fn reading(&mut self) -> Result<Option<RoundReading>, KernelError> {
        let Some(compiled) = self.applied().cloned() else { return Ok(None) };
        let mut observed = self.kernel.observe().await?;
        observed.state.labels = self.observed_labels(&compiled.desired.labels);
        let counters = self.kernel.counters().await?;
        let counted = self.totals.add(&self.counter_index, &counters).clone();
        let range = self.memory.kept().range().unwrap_or_default();
        let (node, state, at) = (self.node.clone(), observed.state, self.clock.now());
        let unresolved = observed.host_network.unresolved.clone();
        let kernel = KernelReading { node, state, compiled, range, counters, unresolved, running: true, at };
        let placement = self.placement.clone();
        Ok(Some(RoundReading { kernel, host_network: observed.host_network, placement, counted }))
    }
}
