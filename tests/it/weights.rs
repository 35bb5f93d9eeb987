//! Tests of `weights`.
