//! Tests of `splits`.
