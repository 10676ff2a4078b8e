//! Leaders that come late, stand still, or find what somebody edited.
//!
//! Deliberately absent: an API server that misbehaves (`away`).
