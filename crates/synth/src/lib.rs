//! What tests, examples and benches are made of, and nothing of the program: invented weights and pictures that follow
//! from their names, checkpoints of them, and what a test does without the material that it needs.
//!
//! The rules are those of `tests/reference/rule.py`, where the tests' reference values come from.

mod checkpoint;
mod material;
mod rule;

pub use checkpoint::{Float, Invented};
pub use material::{reference, reference_file, required_or_skipped, shared};
pub use rule::{Rule, picture, picture_of_case, values};
