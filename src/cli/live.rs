//! `--live` of `egret explain`: a connection from the pod's own network namespace.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::core::explain::LiveOutcome;
use crate::kernel::pod_namespace::{PodNamespace, PodNamespaceError};

/// How long an answer may take: one that is sent again after a second is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// Opens a TCP connection from the pod with this address, and closes it at once.
pub(super) fn connect(
    pod: IpAddr,
    namespace: Option<&Path>,
    to: SocketAddr,
) -> Result<(LiveOutcome, Duration), PodNamespaceError> {
    let namespace = match namespace {
        Some(path) => PodNamespace::at(path)?,
        None => PodNamespace::of(pod)?,
    };
    let begun = Instant::now();
    let outcome = namespace.enter(move || match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(_) => LiveOutcome::Connected,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => LiveOutcome::Refused,
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            LiveOutcome::Failed(format!("nothing came within {} s", PATIENCE.as_secs()))
        }
        Err(error) => LiveOutcome::Failed(error.to_string()),
    })?;
    Ok((outcome, begun.elapsed()))
}
