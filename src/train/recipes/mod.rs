//! What can be trained.

pub mod joint;

pub(super) mod ridge;
