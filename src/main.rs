//! The `barman` command.

use std::process::ExitCode;

use barman::cli;

fn main() -> ExitCode {
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(code) => return code,
    };
    // It fails only when a provider is installed already, and then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(cli::run(invocation));
            // A thread that hangs in a store that does not answer must not keep the process.
            runtime.shutdown_background();
            code
        }
        Err(error) => cli::cannot_start(&error),
    }
}
