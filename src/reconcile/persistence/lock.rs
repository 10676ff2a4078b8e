//! The lock that allows one Egret process per network namespace.
//!
//! It is a name in the abstract socket namespace, which belongs to the network namespace (unix(7)). The kernel
//! releases it however the process ends, unlike a lock file, which outlives a crash; and two nodes on one machine do
//! not conflict.

use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// The lock is held as long as this value lives.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the bound name is the lock")] UnixListener);

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("another Egret is at work in this network namespace")]
    Taken,
    /// The kernel rejected the socket.
    #[error("take the lock of this network namespace")]
    Refused(#[source] io::Error),
}

/// The name, which needs no file.
const NAME: &str = "egret.dev/node";

impl Lock {
    /// Whether a process holds the lock of this thread's network namespace. It cannot be asked, and taking it for a moment would keep
    /// another process from starting, so the kernel's list of sockets is read; false where that cannot be.
    pub fn is_held() -> bool {
        let sockets = fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default();
        sockets.lines().any(|line| line.split_whitespace().last() == Some(&format!("@{NAME}")))
    }

    /// Takes the lock of this network namespace.
    pub fn take() -> Result<Self, LockError> {
        let address = SocketAddr::from_abstract_name(NAME).map_err(LockError::Refused)?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => Ok(Self(listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(LockError::Taken),
            Err(error) => Err(LockError::Refused(error)),
        }
    }
}
