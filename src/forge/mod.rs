//! Forges: where a repository's pull requests are talked about.
//!
//! Deliberately absent: everything but GitHub Apps, for now.

pub mod app;
