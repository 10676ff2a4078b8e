//! The pure core: values in, values out. Same input, same bytes.
//!
//! Not here: clocks, IO, async, logs, randomness, and every other folder of `src` (tests/it/tidy.rs holds it so).
//!
//! ```text
//! files --policy--> policies + diagnostics
//! facts, policies --placement--> which node answers for what
//! placement, facts, ground of one node --compile--> desired state of that node
//! desired, observed --plan--> steps, in make-before-break order
//! plan, history --report--> drift report
//! ```

pub mod address_class;
pub mod admission;
pub mod allocation;
pub mod assignment;
pub mod checks;
pub mod cidr;
pub mod compile;
pub mod conntrack;
pub mod detours;
pub mod diagnostic;
pub mod duration;
pub mod escape;
pub mod evaluation;
pub mod explain;
pub mod facts;
pub mod fate;
pub mod finding;
pub mod gate;
pub mod gateway_interfaces;
pub mod heartbeat;
pub mod host_network;
pub mod labelling;
pub mod labels;
pub mod liveness;
pub mod name;
pub mod nat_record;
pub mod neighbour_resolution;
pub mod networks;
pub mod overview;
pub mod page;
pub mod placement;
pub mod plan;
pub mod policy;
pub mod pools;
pub mod ports;
pub mod prefixes;
pub mod preview;
pub mod rates;
pub mod readiness;
pub mod removals;
pub mod report;
pub mod signature;
pub mod snapshot;
pub mod state;
pub mod status;
pub mod support;
pub mod text;
pub mod transfer;
