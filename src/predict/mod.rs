//! Scoring images with a trained head: the `predictions` table.
