//! Tests of `evaluate`.
