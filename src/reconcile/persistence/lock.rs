//! One Egret for each network namespace.
//!
//! The lock is a name in the abstract socket name space, which belongs to the network namespace (unix(7)): it is released
//! whatever way the process ends, and two nodes on one machine don't meet. Deliberately absent: files, which outlive a crash.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Held for as long as it lives.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the bound name is the lock")] UnixListener);

/// Why there is no lock.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another Egret is at work in this network namespace")]
    Taken,
    /// The kernel refused the socket.
    #[error("take the lock of this network namespace")]
    Refused(#[source] io::Error),
}

impl Lock {
    /// Takes the lock of this network namespace.
    pub fn take() -> Result<Self, LockError> {
        let address = SocketAddr::from_abstract_name(b"egret.dev/node").map_err(LockError::Refused)?;
        match UnixListener::bind_addr(&address) {
            Ok(listener) => Ok(Self(listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(LockError::Taken),
            Err(error) => Err(LockError::Refused(error)),
        }
    }
}
