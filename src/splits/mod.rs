//! Assigning a dataset's images to training, validation and test parts.
