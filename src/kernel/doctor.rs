//! Doctor
/// sev
pub enum Severity {
    /// ok
    Ok,
}
