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

#[cfg(test)]
mod tests;
