//! Finds a pod's network namespace by its address, and does something inside: what `egret test` sends takes the way of the pod's own
//! packets.
//!
//! A container runtime is not asked: each has its own API. The processes of this machine and the names in `/run/netns` lead to every
//! namespace that a pod can have. Not here: what is sent (`https::echo`).

use std::collections::BTreeMap;
use std::fs::{File, read_dir};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::ifaddrs::getifaddrs;
use nix::sched::{CloneFlags, setns};

/// Where `ip netns`, and CNIs with it, keep the names of namespaces.
const NAMED: &str = "/run/netns";

/// Why no namespace is found, or it cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum PodNamespaceError {
    /// None has the address.
    #[error("no network namespace of this machine has {0}")]
    None(IpAddr),
    /// Several have it.
    #[error("{count} network namespaces of this machine have {address}: {first} and {second}, for example")]
    Several {
        /// The address.
        address: IpAddr,
        /// How many.
        count: usize,
        /// One of them.
        first: String,
        /// Another one.
        second: String,
    },
    /// It cannot be opened or entered.
    #[error("enter the network namespace {path}: {source}")]
    Enter {
        /// The file that stands for it.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// A pod's network namespace.
#[derive(Debug)]
pub struct PodNamespace {
    file: File,
    path: PathBuf,
}

impl PodNamespace {
    /// The one that this file stands for.
    pub fn at(path: &Path) -> Result<Self, PodNamespaceError> {
        let failed = |source| PodNamespaceError::Enter { path: path.display().to_string(), source };
        Ok(Self { file: File::open(path).map_err(failed)?, path: path.to_owned() })
    }

    /// The one whose interfaces have the address. Needs root, in the machine's own process namespace.
    pub fn of(address: IpAddr) -> Result<Self, PodNamespaceError> {
        // What ends meanwhile, or is not ours to see, is no pod of this node.
        let has = |namespace: &Self| namespace.enter(move || has_address(address)).unwrap_or(false);
        let mut found: Vec<Self> = all().into_values().filter_map(|path| Self::at(&path).ok()).filter(has).collect();
        match found.as_slice() {
            [] => Err(PodNamespaceError::None(address)),
            [_] => Ok(found.remove(0)),
            [first, second, ..] => {
                let [first, second] = [first, second].map(|one| one.path.display().to_string());
                Err(PodNamespaceError::Several { address, count: found.len(), first, second })
            }
        }
    }

    /// Does something inside, on a thread of its own.
    pub fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PodNamespaceError> {
        let failed = |source| PodNamespaceError::Enter { path: self.path.display().to_string(), source };
        let file = self.file.try_clone().map_err(failed)?;
        let inside = move || setns(file, CloneFlags::CLONE_NEWNET).map(|()| work());
        let thread = std::thread::Builder::new().name("egret-in-pod".into()).spawn(inside).map_err(failed)?;
        let done = thread.join().map_err(|_| failed(std::io::Error::other("the thread in it has ended")))?;
        done.map_err(|errno| failed(errno.into()))
    }
}

/// One file for each network namespace but this process's.
fn all() -> BTreeMap<(u64, u64), PathBuf> {
    let numbered = |path: PathBuf| {
        let known = std::fs::metadata(&path).ok()?;
        Some(((known.dev(), known.ino()), path))
    };
    let listed = |folder: &str| read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_process = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let of_processes = listed("/proc").filter(is_process).map(|path| path.join("ns/net"));
    let mut all: BTreeMap<(u64, u64), PathBuf> = of_processes.chain(listed(NAMED)).filter_map(numbered).collect();
    if let Some((own, _)) = numbered(PathBuf::from("/proc/self/ns/net")) {
        all.remove(&own);
    }
    all
}

fn has_address(address: IpAddr) -> bool {
    let Ok(interfaces) = getifaddrs() else { return false };
    interfaces.filter_map(|one| one.address).any(|known| {
        known.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip())) == Some(address)
            || known.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())) == Some(address)
    })
}
