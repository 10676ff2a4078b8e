//! What blocks on Git or a forge, each on a thread of its own: reading the policy repository, publishing reports, previewing pull
//! requests; and the webhook that says when.

pub mod github_app;
pub mod preview;
pub mod publisher;
pub mod pulls;
pub mod report_sender;
pub mod repository;
pub mod tracked_repository;
pub mod webhook;
