//! From predictions to the `metrics` table.
