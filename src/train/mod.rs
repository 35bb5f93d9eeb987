//! Fitting the fusion head on cached feature columns.
