//! Tests of compile.
