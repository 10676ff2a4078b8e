//! Monorepos of three lengths, the longest as long as one that people have: 31,692 commits.
//!
//! Deliberately absent: measuring (`main`).

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Outcome, measured};

const LONGEST: usize = 31_692;
/// Files that have nothing to do with egress.
const FOREIGN: usize = 2_000;

pub(super) fn measure(folder: &Path) -> Outcome<()> {
    for commits in [LONGEST / 10, LONGEST / 3, LONGEST] {
        let repository = folder.join(format!("{commits}.git"));
        let bare = Command::new("git").args(["init", "-q", "--bare", "-b", "main"]).arg(&repository).status()?;
        if !bare.success() {
            return Err(format!("git init: {bare}").into());
        }
        import(&repository, commits)?;
        writeln!(io::stdout(), "\na monorepo of {commits} commits")?;
        let repo = ["--repo".as_ref(), repository.as_os_str()];
        let cluster = folder.join("cluster.yaml");
        std::fs::write(&cluster, CLUSTER)?;
        let validate = ["validate", "--rev", "main"].map(AsRef::as_ref);
        measured(&[&validate[..], &repo].concat())?.show("validate --rev main")?;
        let preview = ["preview", "--base", "main", "--head", "change", "--cluster"].map(AsRef::as_ref);
        measured(&[&preview[..], &[cluster.as_os_str()], &repo].concat())?.show("preview")?;
    }
    Ok(())
}

const CLUSTER: &str = "kind: Node\nmetadata: {name: a, labels: {gateway: a}}\nstatus: {addresses: [{type: InternalIP, address: 172.18.0.2}]}\n";

/// The history of `main`, in which each commit changes one of the foreign files, and a branch `change` that begins a hundred commits before
/// its end.
fn import(repository: &Path, commits: usize) -> Outcome<()> {
    let mut importing =
        Command::new("git").arg("-C").arg(repository).args(["fast-import", "--quiet"]).stdin(Stdio::piped()).spawn()?;
    let mut stream = BufWriter::new(importing.stdin.take().ok_or("no pipe")?);
    let foreign = |number: usize| format!("apps/team-{}/app-{number}/values.yaml", number % 100);
    for number in 0..commits {
        head(&mut stream, "main", number)?;
        if number == 0 {
            file(&mut stream, "egret.yaml", "apiVersion: egret.dev/v1alpha1\nkind: Config\npaths: [policies]\n")?;
            file(&mut stream, "policies/one.yaml", &policy(24))?;
            for number in 0..FOREIGN {
                file(&mut stream, &foreign(number), "replicas: 0\n")?;
            }
        }
        file(
            &mut stream,
            &foreign(number % FOREIGN),
            &format!("replicas: {number}\nimage: registry.example.org/app:{number}\n"),
        )?;
        if number + 100 == commits {
            writeln!(stream, "reset refs/heads/change\nfrom refs/heads/main\n")?;
        }
    }
    head(&mut stream, "change", commits)?;
    file(&mut stream, "policies/one.yaml", &policy(25))?;
    stream.into_inner().map_err(io::IntoInnerError::into_error)?.flush()?;
    let status = importing.wait()?;
    if status.success() { Ok(()) } else { Err(format!("git fast-import: {status}").into()) }
}

fn head(stream: &mut impl Write, branch: &str, number: usize) -> io::Result<()> {
    let seconds = 1_700_000_000 + number * 60;
    writeln!(stream, "commit refs/heads/{branch}\ncommitter bench <bench@localhost> {seconds} +0000\ndata 6\nupdate")
}

fn file(stream: &mut impl Write, path: &str, text: &str) -> io::Result<()> {
    writeln!(stream, "M 100644 inline {path}\ndata {}\n{text}", text.len())
}

fn policy(length: u8) -> String {
    format!(
        "apiVersion: cilium.io/v2\nkind: CiliumEgressGatewayPolicy\nmetadata: {{name: one}}\nspec:\n  selectors:\n  - podSelector: \
         {{matchLabels: {{app: web, io.kubernetes.pod.namespace: shop}}}}\n  destinationCIDRs: [203.0.113.0/{length}]\n  egressGateway: \
         {{nodeSelector: {{matchLabels: {{gateway: a}}}}, interface: net1}}\n"
    )
}
