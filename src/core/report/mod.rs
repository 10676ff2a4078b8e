//! Reports: what was found different from what Git asks for, kept so that somebody can read it a year later.
//!
//! [`drift`] compares, [`history`] remembers when it was seen and put right, [`files`] are the files of the reports branch, [`message`] is its
//! commits' first line, [`page`] what people read first.
//! Deliberately absent: Git, clocks (times are passed in), and putting anything right.

pub mod drift;
pub mod files;
pub mod history;
pub mod message;
pub mod page;
mod waiting;

use super::escape::inert_name;
use super::text::short_commit;

/// Names in a list of the page: a forge shows no page of any length.
const NAMES: usize = 12;

/// A commit on the page.
fn short(commit: &str) -> String {
    let hex: String = short_commit(commit).chars().filter(char::is_ascii_alphanumeric).collect();
    format!("`{hex}`")
}

/// Names in a list of the page.
fn names<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let listed: Vec<String> = names.iter().take(NAMES).map(|name| inert_name(name)).collect();
    let more = names.len().saturating_sub(NAMES);
    if more > 0 { format!("{} and {more} more", listed.join(", ")) } else { listed.join(", ") }
}

#[cfg(test)]
mod tests;
