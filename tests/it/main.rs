//! The one integration binary: linking is what costs on a small machine. Each module is a subject; labs are in `tests/lab`.

#[path = "../lab/mod.rs"]
mod lab;
mod lab_alone;
