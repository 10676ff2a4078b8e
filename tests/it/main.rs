//! The one integration binary: linking is what costs on a small machine. Each module is a subject; labs are in `tests/lab`.

mod fuzz_netlink;
mod kernel_nft;
