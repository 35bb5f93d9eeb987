//! The networks, each beside its configuration and nothing else: no flags, no files, no tables.
