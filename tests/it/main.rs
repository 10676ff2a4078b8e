//! The one integration binary: linking is what costs on a small machine. Each module is a subject; labs are in `tests/lab`.

mod fuzz_documents;
mod policy;
mod git;
mod manifests;
#[path = "../lab/mod.rs"]
mod lab;
mod lab_alone;
mod outpost;
