//! Opens a sysctl below `/proc/sys/net` for writing, on a host and in a container.
//!
//! An unprivileged container has `/proc/sys` read-only, and container runtimes refuse to mount anything below `/proc`.
//! The chart mounts the node's `/proc/sys/net` below `/host` instead. The files are the same there: they act on the
//! network namespace of the process that opens them. Reading works in the usual place.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Result};

/// Where the chart mounts what a container's own `/proc` has read-only.
const HOST: &str = "/host";

/// Opens a setting for writing.
pub(super) fn open(path: &str) -> Result<File> {
    first(path, |path| OpenOptions::new().write(true).open(path))
}

fn first<T>(path: &str, open: impl Fn(&str) -> Result<T>) -> Result<T> {
    open(path).or_else(|refused| match refused.kind() {
        // Read-only by its mount, or denied by AppArmor's default profile, which goes by path.
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
            open(&format!("{HOST}{path}")).map_err(|error| match error.kind() {
                // Nothing is mounted there: the first error is the one to report.
                ErrorKind::NotFound => refused,
                _ => error,
            })
        }
        _ => Err(refused),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/proc/sys/net/ipv4/conf/egret0/rp_filter";
    const MOUNTED: &str = "/host/proc/sys/net/ipv4/conf/egret0/rp_filter";

    fn opened(host: Option<ErrorKind>, mounted: Option<ErrorKind>) -> std::result::Result<String, ErrorKind> {
        let answer = |path: &str| match if path == MOUNTED { mounted } else { host } {
            Some(kind) => Err(kind.into()),
            None => Ok(path.to_owned()),
        };
        first(PATH, answer).map_err(|error| error.kind())
    }

    #[test]
    fn on_a_host_proc_sys_is_used() {
        assert_eq!(opened(None, None), Ok(PATH.to_owned()));
    }

    #[test]
    fn in_a_container_the_charts_mount_is_used() {
        for kind in [ErrorKind::ReadOnlyFilesystem, ErrorKind::PermissionDenied] {
            assert_eq!(opened(Some(kind), None), Ok(MOUNTED.to_owned()));
        }
    }

    #[test]
    fn the_error_that_explains_the_failure_is_returned() {
        let (missing, read_only) = (ErrorKind::NotFound, ErrorKind::ReadOnlyFilesystem);
        assert_eq!(opened(Some(read_only), Some(missing)), Err(read_only));
        assert_eq!(opened(Some(read_only), Some(ErrorKind::PermissionDenied)), Err(ErrorKind::PermissionDenied));
        // A device that was deleted is missing in both places.
        assert_eq!(opened(Some(missing), None), Err(missing));
    }
}
