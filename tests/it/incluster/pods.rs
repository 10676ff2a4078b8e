//! TBD. Deliberately absent: TBD.
