//! The `barman` command.

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use barman::cli;

fn main() -> ExitCode {
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(code) => return code,
    };
    let failure = invocation.failure_code();
    // A panic's own exit code would be taken for the end of the archive by PostgreSQL.
    std::panic::catch_unwind(AssertUnwindSafe(|| run(invocation)))
        .unwrap_or(ExitCode::from(failure))
}

fn run(invocation: cli::Invocation) -> ExitCode {
    let failure = invocation.failure_code();
    // It fails only when a provider is installed already, and then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(cli::run(invocation));
            // A thread that hangs in a store that does not answer must not keep the process.
            runtime.shutdown_background();
            code
        }
        Err(error) => cli::cannot_start(&error, failure),
    }
}
