//! `kubectl egret …`: kubectl runs a program `kubectl-egret` for it, and asks `kubectl_complete-egret` how words go on
//! (kubernetes.io, "Extend kubectl with plugins"). Both are links to this program.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, Command};

use super::output::{self, Failure};

const PLUGIN: &str = "kubectl-egret";
const COMPLETER: &str = "kubectl_complete-egret";

/// Directives of kubectl's completion (cobra's): what a shell does beside the words.
const FILES_TOO: u8 = 0;
const NO_FILES: u8 = 4;

/// What the program's own name asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Invoked {
    /// `egret`, whatever the file's name is.
    Plain,
    /// `kubectl egret`.
    Plugin,
    /// How do these words go on?
    Completer,
}

impl Invoked {
    /// From the first word of the command line.
    pub(super) fn of(program: Option<&OsStr>) -> Self {
        match program.and_then(|program| Path::new(program).file_name()).and_then(OsStr::to_str) {
            Some(PLUGIN) => Self::Plugin,
            Some(COMPLETER) => Self::Completer,
            _ => Self::Plain,
        }
    }

    /// The command as usage lines have to name it.
    pub(super) fn named(self, command: Command) -> Command {
        if self == Self::Plugin { command.bin_name("kubectl egret") } else { command }
    }
}

/// Prints how the last word goes on, one completion a line, and a directive.
pub(super) fn complete(words: impl IntoIterator<Item = OsString>) -> Result<ExitCode, Failure> {
    let words: Vec<String> = words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut all = super::command();
    all.build();
    let (found, directive) = completions(&all, &words);
    let lines: String = found.iter().flat_map(|word| [word.as_str(), "\n"]).collect();
    output::print(&format!("{lines}:{directive}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn completions(all: &Command, words: &[String]) -> (Vec<String>, u8) {
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let mut command = all;
    for word in before {
        command = command.find_subcommand(word).unwrap_or(command);
    }
    if let Some(option) = before.last().and_then(|word| option(command, word)).filter(|option| takes_a_value(option)) {
        return values(option, last);
    }
    if let Some((long, value)) = last.split_once('=') {
        let Some(option) = option(command, long) else { return (Vec::new(), NO_FILES) };
        let (found, directive) = values(option, value);
        return (found.into_iter().map(|value| format!("{long}={value}")).collect(), directive);
    }
    if last.starts_with('-') {
        let visible = command.get_arguments().filter(|arg| !arg.is_hide_set());
        let longs = visible.filter_map(|arg| Some((format!("--{}", arg.get_long()?), arg.get_help())));
        let longs = longs.filter(|(long, _)| long.starts_with(last));
        let lines = longs.map(|(long, help)| help.map_or(long.clone(), |help| format!("{long}\t{help}")));
        return (lines.collect(), NO_FILES);
    }
    let commands: Vec<String> = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set() && command.get_name().starts_with(last))
        .map(|command| format!("{}\t{}", command.get_name(), command.get_about().cloned().unwrap_or_default()))
        .collect();
    if command.has_subcommands() {
        return (commands, NO_FILES);
    }
    command.get_positionals().next().map_or((Vec::new(), NO_FILES), |positional| values(positional, last))
}

fn option<'c>(command: &'c Command, word: &str) -> Option<&'c Arg> {
    command.get_arguments().find(|arg| {
        word.strip_prefix("--").is_some_and(|long| arg.get_long() == Some(long))
            || arg.get_short().is_some_and(|short| word.strip_prefix('-') == Some(short.to_string().as_str()))
    })
}

fn takes_a_value(option: &Arg) -> bool {
    option.get_num_args().is_some_and(|number| number.takes_values())
}

/// The values that an argument can have; where these are not listed, it may be a file.
fn values(arg: &Arg, start: &str) -> (Vec<String>, u8) {
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| value.get_name().to_owned())
        .collect();
    let directive = if values.is_empty() { FILES_TOO } else { NO_FILES };
    (values.into_iter().filter(|value| value.starts_with(start)).collect(), directive)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> (Vec<String>, u8) {
        let mut all = super::super::command();
        all.build();
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let (found, directive) = completions(&all, &words);
        (found.iter().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect(), directive)
    }

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_programs_name_says_who_asks() {
        let of = |name: &str| Invoked::of(Some(OsStr::new(name)));
        assert_eq!(of("/usr/bin/kubectl-egret"), Invoked::Plugin);
        assert_eq!(of("kubectl_complete-egret"), Invoked::Completer);
        assert_eq!([of("egret"), of("kubectl-egrets"), Invoked::of(None)], [Invoked::Plain; 3]);
    }

    #[test]
    fn words_go_on_as_commands_options_and_values() {
        assert_eq!(words(&["va"]), (list(&["validate"]), NO_FILES));
        assert!(words(&[""]).0.contains(&"plan".to_owned()));
        assert!(!words(&["git"]).0.contains(&"git-worker".to_owned()), "hidden");
        assert_eq!(words(&["plan", "--cluster-n"]), (list(&["--cluster-name"]), NO_FILES));
        assert_eq!(words(&["completion", "z"]), (list(&["zsh"]), NO_FILES));
        assert_eq!(words(&["validate", "--output", "s"]), (list(&["sarif"]), NO_FILES));
        assert_eq!(words(&["validate", "-o", "s"]), (list(&["sarif"]), NO_FILES));
        assert_eq!(words(&["validate", "--output=s"]), (list(&["--output=sarif"]), NO_FILES));
        assert_eq!(words(&["plan", "--cluster", "/tm"]), (Vec::new(), FILES_TOO));
        assert_eq!(words(&[]).1, NO_FILES);
    }
}
