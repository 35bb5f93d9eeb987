//! Tests of `features`.
