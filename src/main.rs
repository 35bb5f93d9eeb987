//! The `agiqa` program: parses the command line, runs one command, exits with its code.

use std::process::ExitCode;

fn main() -> ExitCode {
    agiqa::cli::main()
}
