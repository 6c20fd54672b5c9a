//! The `jsbench` command: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    jsbench::cli::main()
}
