//! Material for tests, examples and benches: weights and pictures invented from their names, and checkpoints of such
//! weights. The crate also defines how a test behaves if its material is absent. It uses no other part of the program.
//!
//! The rules are the same as in `tests/reference/rule.py`, which gives the tests' reference values.

mod checkpoint;
mod material;
mod rule;

pub use checkpoint::{Float, Invented};
pub use material::{reference, reference_file, required_or_skipped, shared};
pub use rule::{Rule, picture, picture_of_case, values};
