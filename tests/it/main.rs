//! The one integration binary: linking is what costs on a small machine. Each module is a subject; labs are in `tests/lab`.

#[path = "../apiserver/mod.rs"]
mod apiserver;
mod apiserver_alone;
mod cilium;
mod cluster;
mod command_line;
mod commands;
mod consumers;
mod descriptions;
mod disk;
mod dist;
mod doctor;
mod documents;
mod explain;
mod fetched;
mod forge;
#[path = "../forge/mod.rs"]
mod forge_double;
mod fuzz_documents;
mod fuzz_netlink;
mod fuzz_signatures;
mod git;
mod github_app;
mod golden;
mod harness;
mod https;
mod incluster;
mod kernel_nft;
#[path = "../lab/mod.rs"]
mod lab;
mod lab_alone;
mod limits;
mod lints;
mod manifests;
mod outpost;
mod page;
mod pages;
mod policy;
mod previews;
mod proposals;
mod reference;
mod repositories;
mod runbooks;
mod scenarios;
mod semantics;
mod serve;
#[path = "../sim/mod.rs"]
mod sim;
mod strangers;
mod tidy;
#[path = "../lab/worlds/mod.rs"]
mod world;
mod worlds;
