//! The parts of the loops that block on Git or a forge, each on its own thread: reading the policy repository,
//! publishing reports and previewing pull requests; and the webhook that triggers them.

pub mod github_app;
pub mod preview;
pub mod publisher;
pub mod pulls;
pub mod report_sender;
pub mod repository;
pub mod tracked_repository;
pub mod webhook;
