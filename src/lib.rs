//! Egret: a GitOps reconciler for Kubernetes egress gateways, on any CNI.
//!
//! `core` decides and is pure; `git`, `cluster` and `kernel` are the edges and do not depend on each other;
//! `reconcile` is the loop that connects them; `serve` exposes its state over HTTP; `cli` is the command line.
//! ARCHITECTURE.md has the diagram and the glossary.

pub mod atomic_file;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod core;
pub mod forge;
pub mod git;
pub mod https;
pub mod kernel;
pub mod reconcile;
pub mod secret;
pub mod serve;
pub mod telemetry;
pub mod watch;
