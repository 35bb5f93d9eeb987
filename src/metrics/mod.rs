//! Agreement between scores and mean opinion scores.
