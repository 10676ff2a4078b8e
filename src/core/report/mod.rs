//! Drift reports: how each node differed from what Git asks for, kept in a branch so that it can be audited a year
//! later.
//!
//! [`drift`] compares, [`history`] records when drift was seen and corrected, [`files`] are the files of the reports
//! branch, [`message`] is the first line of its commits, and [`page`] is the overview for readers. Not here: Git and
//! correcting drift (see `git` and `kernel`); times are passed in.

pub mod drift;
pub mod files;
pub mod history;
pub mod message;
pub mod page;
mod waiting;

use super::escape::inert_name;
use super::text::short_commit;

/// The most names in a list of the page: forges limit the length of a page.
const NAMES: usize = 12;

/// A commit as the page shows it.
fn short(commit: &str) -> String {
    let hex: String = short_commit(commit).chars().filter(char::is_ascii_alphanumeric).collect();
    format!("`{hex}`")
}

/// The first names of a list.
fn names<'n>(names: impl IntoIterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    let listed: Vec<String> = names.iter().take(NAMES).map(|name| inert_name(name)).collect();
    let more = names.len().saturating_sub(NAMES);
    if more > 0 { format!("{} and {more} more", listed.join(", ")) } else { listed.join(", ") }
}

#[cfg(test)]
mod tests;
