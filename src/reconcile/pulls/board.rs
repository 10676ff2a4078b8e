//! Stand-in until `forge` is there. Deliberately absent: everything.
use jiff::Timestamp;
#[derive(Debug, Clone)]
pub struct Pull {
    pub number: u64,
    pub title: String,
    pub base: String,
    pub head_sha: String,
    pub from_fork: bool,
    pub draft: bool,
    pub updated: Timestamp,
}
#[derive(Debug, Clone, Copy)]
pub enum Verdict {
    Failed,
    Changes,
    NoChanges,
}
#[derive(Debug, Clone)]
pub struct Post {
    pub cluster: String,
    pub body: String,
    pub title: String,
    pub verdict: Verdict,
    pub summary: String,
}
#[derive(Debug, Clone, Copy)]
pub struct Posted {
    pub changed: bool,
}
#[derive(Debug, thiserror::Error)]
#[error("forge")]
pub struct Error;
impl Error {
    pub fn hint(&self) -> Option<String> {
        None
    }
    pub fn wait(&self) -> Option<std::time::Duration> {
        None
    }
    pub fn concerns_all(&self) -> bool {
        true
    }
}
#[derive(Debug)]
pub struct Forge;
impl Forge {
    pub fn open_pulls(&self, _base: &str) -> Result<Vec<Pull>, Error> {
        Ok(vec![])
    }
    pub fn post(&self, _pull: u64, _head_sha: &str, _post: &Post) -> Result<Posted, Error> {
        Ok(Posted { changed: true })
    }
    pub fn head_ref(&self, number: u64) -> String {
        format!("refs/pull/{number}/head")
    }
}
