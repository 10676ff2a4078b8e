//! Gateways that are not there yet, or not there any more.
//!
//! Deliberately absent: a gateway whose link is cut (`outpost`).
