//! The `odradek` program; everything is in the library.

fn main() -> std::process::ExitCode {
    odradek_cli::run(std::env::args_os())
}
