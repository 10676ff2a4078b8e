//! How results and failures reach people: text or JSON on standard output, `error:` and `hint:` on standard error; and the only place
//! that knows escape sequences, next to the renderer of diagnostics.
//!
//! Deliberately absent: logs of a running node (`telemetry`).

use std::error::Error;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use super::diagnostics::Colour;
use crate::cluster::ClusterError;
use crate::core::facts::Facts;
use crate::core::name::NodeName;
use crate::kernel::KernelError;

/// The form of a command's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// For people.
    Text,
    /// For programs.
    Json,
    /// For comments and pages.
    Markdown,
}

/// The exit code that says "there are changes".
pub(super) const CHANGES: u8 = 2;

/// A command that failed: what was being done to what, and what to do about it.
#[derive(Debug)]
pub(super) struct Failure {
    error: Box<dyn Error>,
    hint: Option<String>,
}

impl Failure {
    /// With a hint.
    pub(super) fn new(error: impl Into<Box<dyn Error>>, hint: Option<String>) -> Self {
        Self { error: error.into(), hint }
    }

    /// Of what runs on: how it ended.
    pub(super) fn ended<E: Error + 'static>(
        result: Result<(), E>,
        hint: impl FnOnce(&E) -> Option<String>,
    ) -> Result<ExitCode, Self> {
        result.map(|()| ExitCode::SUCCESS).map_err(|error| {
            let hint = hint(&error);
            Self::new(error, hint)
        })
    }

    /// A node that the manifests in `path` don't have; the hint says which they have.
    pub(super) fn unknown_node(node: &str, path: &Path, facts: &Facts) -> Self {
        /// So many names are told: a cluster may have thousands.
        const SHOWN: usize = 8;
        let known: Vec<&str> = facts.nodes.keys().take(SHOWN).map(NodeName::as_str).collect();
        let hint = match facts.nodes.len() {
            0 => "they have no node at all; `kubectl get nodes -o yaml` prints them".to_owned(),
            many if many > SHOWN => format!("they have {} and {} more", known.join(", "), many - SHOWN),
            _ => format!("they have {}", known.join(", ")),
        };
        Self::new(format!("{node} is not among the nodes of {}", path.display()), Some(hint))
    }

    /// The error with all its causes, and the hint.
    pub(super) fn parts(&self) -> (String, Option<String>) {
        (crate::telemetry::chain(self.error.as_ref()), self.hint.clone())
    }

    /// Prints it, and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        let (error, hint) = self.parts();
        let hint = hint.map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
        let text = format!("error: {error}\n{hint}");
        let _ = io::stderr().write_all(text.as_bytes());
        ExitCode::FAILURE
    }
}

impl From<crate::git::Error> for Failure {
    fn from(error: crate::git::Error) -> Self {
        let hint = error.hint();
        Self::new(error, hint)
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        let hint = error.hint();
        Self::new(error, hint)
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        let hint = "--cluster takes a file or folder, as `kubectl get nodes,namespaces,pods -A -o yaml` prints it";
        Self::new(error, Some(hint.to_owned()))
    }
}

/// Writes a result to standard output. A reader that has gone away, as `head` does, is no failure.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("write to standard output: {error}"), None))
        }
        _ => Ok(()),
    }
}

/// Says on standard error what was done beside the result.
pub(super) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Colours only on a terminal, and only where nobody asked for none (<https://no-color.org>).
pub(super) fn colour() -> Colour {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted && io::stdout().is_terminal() { Colour::Yes } else { Colour::No }
}

/// What a colour is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    /// Added, or as it should be.
    Good,
    /// To be looked at.
    Doubtful,
    /// An error.
    Bad,
    /// Removed.
    Gone,
    /// A title.
    Title,
    /// Where in a listing one is.
    Place,
}

impl Paint {
    /// "Select graphic rendition" (ECMA-48, 8.3.117).
    fn sequence(self) -> &'static str {
        match self {
            Self::Good => "\u{1b}[32m",
            Self::Doubtful => "\u{1b}[33m",
            Self::Bad => "\u{1b}[1;31m",
            Self::Gone => "\u{1b}[31m",
            Self::Title => "\u{1b}[1m",
            Self::Place => "\u{1b}[36m",
        }
    }
}

/// A text in its colour; as it is where there are none.
pub(super) fn paint(text: &str, paint: Paint, colour: Colour) -> String {
    match colour {
        Colour::Yes => format!("{}{text}\u{1b}[0m", paint.sequence()),
        Colour::No => text.to_owned(),
    }
}

/// A unified diff with the colours that Git gives it.
pub(super) fn painted_diff(diff: &str, colour: Colour) -> String {
    let painted = diff.lines().enumerate().map(|(number, line)| {
        let mut kind = None;
        // Only the first two lines are titles: a removed line that starts with `--` looks like one.
        if number < 2 {
            kind = Some(Paint::Title);
        } else if line.starts_with("@@") {
            kind = Some(Paint::Place);
        } else if line.starts_with('+') {
            kind = Some(Paint::Good);
        } else if line.starts_with('-') {
            kind = Some(Paint::Gone);
        }
        let line = kind.map_or_else(|| line.to_owned(), |kind| paint(line, kind, colour));
        line + "\n"
    });
    painted.collect()
}

/// A fence longer than any run of backticks in the text, so that nothing in it ends it.
pub(super) fn fence_for(text: &str) -> String {
    let mut longest = 0;
    let mut run = 0;
    for character in text.chars() {
        run = if character == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    "`".repeat(3.max(longest + 1))
}

/// A runtime on this thread: what opens netlink sockets must be in this network namespace.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("start a runtime: {error}"), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIFF: &str = "--- a now\n+++ a after\n@@ -1,2 +1,2 @@\n ip rule\n--- 1\n+\t2\n";

    #[test]
    fn a_diff_is_coloured_as_git_does_and_only_where_colours_are_wanted() {
        assert_eq!(painted_diff(DIFF, Colour::No), DIFF);
        let expected = "\u{1b}[1m--- a now\u{1b}[0m\n\u{1b}[1m+++ a after\u{1b}[0m\n\u{1b}[36m@@ -1,2 +1,2 @@\u{1b}[0m\n \
                        ip rule\n\u{1b}[31m--- 1\u{1b}[0m\n\u{1b}[32m+\t2\u{1b}[0m\n";
        assert_eq!(painted_diff(DIFF, Colour::Yes), expected);
    }

    #[test]
    fn an_unknown_node_is_told_which_there_are() {
        let mut facts = Facts::default();
        let hint = |facts: &Facts| Failure::unknown_node("x", Path::new("c"), facts).parts().1.unwrap_or_default();
        assert_eq!(hint(&facts), "they have no node at all; `kubectl get nodes -o yaml` prints them");
        for number in 0..9 {
            facts.nodes.insert(NodeName::parse(&format!("n{number}")).unwrap(), crate::core::facts::Node::default());
        }
        assert_eq!(hint(&facts), "they have n0, n1, n2, n3, n4, n5, n6, n7 and 1 more");
    }
}
