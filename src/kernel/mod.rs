//! The edge to this machine's kernel: what is ours there is read, changed and listened to here, over netlink alone.
//!
//! Deliberately absent: what the state should be (`core::compile`) and in which order it is changed (`core::plan`).

pub mod conntrack;
pub mod nft;
