//! Results on standard output, and failures as `error:` and `hint:` on standard error; the terminal's width and colours. Logs of a
//! running node are in `telemetry`.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::ArgAction;
use clap::builder::styling::{AnsiColor, Style};

use super::diagnostics::Colour;
use crate::cluster::{Cluster, ClusterError, read_text};
use crate::core::diagnostic::Diagnostic;
use crate::core::facts::Facts;
use crate::core::name::NodeName;
use crate::kernel::KernelError;
use crate::telemetry;

/// The form of a command's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// For reading on a terminal.
    Text,
    /// For programs: an object with `formatVersion`.
    Json,
    /// For comments and pages.
    Markdown,
}

/// The form of a result that no page is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum TextOrJson {
    /// For reading on a terminal.
    Text,
    /// For programs: an object with `formatVersion`.
    Json,
}

/// How much is logged.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Verbosity {
    /// Log more: -v debug messages, -vv also traces. EGRET_LOG and RUST_LOG take precedence.
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
    /// Log less: -q warnings and errors, -qq errors only. Commands that print a result leave their notes out.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    quiet: u8,
}

impl Verbosity {
    /// The level, where nothing else sets it.
    pub(super) fn level(&self) -> telemetry::Level {
        match (self.verbose, self.quiet) {
            (0, 0) => telemetry::Level::INFO,
            (0, 1) => telemetry::Level::WARN,
            (0, _) => telemetry::Level::ERROR,
            (1, _) => telemetry::Level::DEBUG,
            (_, _) => telemetry::Level::TRACE,
        }
    }

    /// Whether notes beside a result are left out.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet > 0
    }
}

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

    /// How a process that kept running ended.
    pub(super) fn ended<E: Error + 'static>(
        result: Result<(), E>,
        hint: impl FnOnce(&E) -> Option<String>,
    ) -> Result<ExitCode, Self> {
        result.map(|()| ExitCode::SUCCESS).map_err(|error| {
            let hint = hint(&error);
            Self::new(error, hint)
        })
    }

    /// A node that the manifests in `path` don't have; the hint lists those that they have.
    pub(super) fn unknown_node(node: &str, path: &Path, facts: &Facts) -> Self {
        /// So many names are listed: a cluster may have thousands.
        const SHOWN: usize = 8;
        let known: Vec<&str> = facts.nodes.keys().take(SHOWN).map(NodeName::as_str).collect();
        let hint = match facts.nodes.len() {
            0 => "they have no node at all; `kubectl get nodes -o yaml` prints them".to_owned(),
            many if many > SHOWN => format!("they have {} and {} more", known.join(", "), many - SHOWN),
            _ => format!("they have {}", known.join(", ")),
        };
        let of = if is_standard_input(path) { "standard input".to_owned() } else { path.display().to_string() };
        Self::new(format!("{node} is not among the nodes of {of}"), Some(hint))
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

/// A cluster's manifests, read once.
#[derive(Debug, Clone)]
pub(super) struct Manifests {
    /// Nodes, namespaces and pods.
    pub(super) facts: Facts,
    /// What is wrong with the manifests, by file and place.
    pub(super) faults: Vec<Diagnostic>,
}

impl Manifests {
    /// What `--cluster` names: a file, a folder, or `-` for standard input.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        if !is_standard_input(path) {
            let cluster = Cluster::open(path)?;
            return Ok(Self { facts: cluster.facts().clone(), faults: cluster.faults().to_vec() });
        }
        Self::of_text(&standard_input()?)
    }

    /// Of standard input's text.
    pub(super) fn of_text(text: &str) -> Result<Self, Failure> {
        let (facts, faults) = read_text("standard input", text)
            .map_err(|fault| Failure::new(fault.to_string(), Some(CLUSTER_HINT.to_owned())))?;
        Ok(Self { facts, faults })
    }
}

/// What is written to standard input, to its end.
pub(super) fn standard_input() -> Result<String, Failure> {
    io::read_to_string(io::stdin()).map_err(|error| Failure::new(format!("read standard input: {error}"), None))
}

/// Whether `--cluster` names standard input.
pub(super) fn is_standard_input(path: &Path) -> bool {
    path == Path::new("-")
}

/// For commands that follow manifests, and write labels into them.
pub(super) fn no_standard_input(path: &Path) -> Result<(), Failure> {
    if is_standard_input(path) {
        let hint = "name a file or folder: this command follows its changes and writes labels into it";
        return Err(Failure::new("--cluster - is standard input, which cannot be followed", Some(hint.to_owned())));
    }
    Ok(())
}

const CLUSTER_HINT: &str = "--cluster takes a file or folder, as `kubectl get nodes,namespaces,pods -A -o yaml` prints it, or - for standard input";

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Self {
        Self::new(error, Some(CLUSTER_HINT.to_owned()))
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

/// Writes to standard error what was done beside the result, unless `-q` is given.
pub(super) fn note(text: &str, verbosity: &Verbosity) {
    if !verbosity.is_quiet() {
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// Whether standard output gets colours: as `--color` says, else on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
pub(super) fn colour() -> Colour {
    match anstream::AutoStream::choice(&io::stdout()) {
        anstream::ColorChoice::Never => Colour::No,
        _ => Colour::Yes,
    }
}

/// The width that text is wrapped at: `COLUMNS`, where it is set, else the terminal's. None where standard output is no terminal: what
/// reads a pipe looks for whole lines.
pub(super) fn width() -> Option<usize> {
    /// Below this, wrapped text is harder to read than what the terminal breaks.
    const LEAST: usize = 40;
    let given = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
    given.or_else(terminal).map(|width: usize| width.max(LEAST))
}

/// What a colour means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    /// Added, or correct.
    Good,
    /// Worth checking.
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
    fn style(self) -> Style {
        match self {
            Self::Good => AnsiColor::Green.on_default(),
            Self::Doubtful => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Gone => AnsiColor::Red.on_default(),
            Self::Title => Style::new().bold(),
            Self::Place => AnsiColor::Cyan.on_default(),
        }
    }
}

/// A text in its colour; as it is where there are none.
pub(super) fn paint(text: &str, paint: Paint, colour: Colour) -> String {
    match colour {
        Colour::Yes => {
            let style = paint.style();
            format!("{style}{text}{style:#}")
        }
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

/// What a command waits with.
pub(super) type Runtime = tokio::runtime::Runtime;

/// A runtime on this thread: what opens netlink sockets must be in this network namespace.
pub(super) fn runtime() -> Result<Runtime, Failure> {
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
    fn an_unknown_node_gets_a_hint_with_the_nodes_there_are() {
        let mut facts = Facts::default();
        let hint = |facts: &Facts| Failure::unknown_node("x", Path::new("c"), facts).parts().1.unwrap_or_default();
        assert_eq!(hint(&facts), "they have no node at all; `kubectl get nodes -o yaml` prints them");
        for number in 0..9 {
            facts.nodes.insert(NodeName::parse(&format!("n{number}")).unwrap(), crate::core::facts::Node::default());
        }
        assert_eq!(hint(&facts), "they have n0, n1, n2, n3, n4, n5, n6, n7 and 1 more");
    }

    #[test]
    fn quiet_and_verbose_move_the_level_from_info() {
        use telemetry::Level;
        let level = |verbose, quiet| Verbosity { verbose, quiet }.level();
        assert_eq!([level(0, 0), level(0, 1), level(0, 2)], [Level::INFO, Level::WARN, Level::ERROR]);
        assert_eq!([level(1, 0), level(2, 0), level(3, 0)], [Level::DEBUG, Level::TRACE, Level::TRACE]);
    }
}
