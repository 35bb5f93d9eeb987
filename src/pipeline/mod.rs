//! One TOML file, its stages, and the plan of what is missing.
