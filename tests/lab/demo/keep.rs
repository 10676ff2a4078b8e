//! The lab stays up, with the pages of both nodes at addresses of this machine, until somebody presses Enter or Ctrl-C.
//!
//! The pages are served within the nodes' namespaces. A forwarder for each accepts connections here and leads them there; it changes no byte.

use std::fs;
use std::io::{self, BufRead as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::thread;

use super::lab::{Lab, LabError, OUTPOST};
use super::{Failure, GATEWAY, Stage, WORKER};

/// Where each node serves its page, in its own namespace.
pub(super) const UI: &str = "127.0.0.1:9092";

/// Where the pages are reached from here; another port, where these are in use.
const HERE: [(&str, u16); 2] = [(WORKER, 9092), (GATEWAY, 9093)];

/// Whether the lab is to stay up.
pub(super) fn is_wanted() -> bool {
    std::env::var_os("EGRET_DEMO_KEEP").is_some_and(|value| !value.is_empty() && value != "0")
}

impl Stage<'_> {
    /// Leaves everything up until Enter is pressed. Ctrl-C takes it down, as ever.
    pub(super) fn keep(&self) -> Result<(), Failure> {
        self.screen.title("The lab stays up")?;
        for (node, port) in HERE {
            let address = forward(&self.lab, node, port)?;
            self.screen.seen(&format!("the page of {node}: http://{address}/"))?;
        }
        self.screen.print("A client in batuu/tiefighter asks the outpost without pause, so that there are rates.")?;
        self.screen.print("Try in another terminal, and look at the pages:")?;
        let (name, repository) = (self.lab.name(), self.lab.repository().path().display().to_string());
        let egret = self.script(WORKER)?.display().to_string();
        for command in [
            format!("{egret} status"),
            format!("{egret} explain batuu/tiefighter --to {OUTPOST}"),
            format!("ip netns exec {name}-{WORKER} ip rule del priority 501"),
            format!("ip netns exec {name}-{GATEWAY} ip address del 10.0.3.42/24 dev net1"),
            format!("ip netns exec {name}-{GATEWAY} ip address add 10.0.3.42/24 dev net1"),
            format!("git clone {repository}"),
        ] {
            self.screen.command("here", &command)?;
        }
        self.screen.print("Enter goes on with the last scenes; Ctrl-C takes everything down.")?;
        let _traffic = self.lab.hammer("tiefighter", OUTPOST)?;
        let read = io::stdin().lock().read_line(&mut String::new())?;
        if read == 0 {
            // There is nobody who could press a key: a signal ends it.
            loop {
                thread::park();
            }
        }
        Ok(())
    }
}

impl Stage<'_> {
    /// A script among the lab's files that calls the program on a node, with the options that it needs there: too many to type.
    fn script(&self, node: &str) -> Result<PathBuf, LabError> {
        let words = self.lab.egret_arguments(node)?;
        let options: Vec<String> = words.iter().map(|one| one.to_string_lossy().into_owned()).collect();
        let (namespace, program) = (self.lab.name(), self.lab.program()?);
        let text = format!(
            "#!/bin/sh\nexec ip netns exec {namespace}-{node} {} \"$@\" {}\n",
            program.display(),
            options.join(" ")
        );
        let path = self.lab.cluster_dir().with_file_name("egret");
        let made = fs::write(&path, text).and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)));
        made.map_err(LabError::doing(format!("write {}", path.display())))?;
        Ok(path)
    }
}

/// Leads connections from this machine to a node's page. Threads end with the process.
fn forward(lab: &Lab, node: &str, port: u16) -> Result<SocketAddr, LabError> {
    let doing = LabError::doing(format!("listen for the page of {node}"));
    let bound = TcpListener::bind(("127.0.0.1", port)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    let (listener, namespace) = (bound.map_err(doing)?, lab.node(node)?);
    let address = listener.local_addr().map_err(LabError::doing("ask for the port"))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let there = namespace.enter(|| TcpStream::connect(UI));
            if let Ok(Ok(there)) = there {
                thread::spawn(move || relay(&stream, &there));
            }
        }
    });
    Ok(address)
}

/// Copies both ways until both are at their end.
fn relay(here: &TcpStream, there: &TcpStream) {
    let copy = |mut from: &TcpStream, mut to: &TcpStream| {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    thread::scope(|scope| {
        scope.spawn(|| copy(here, there));
        copy(there, here);
    });
}
