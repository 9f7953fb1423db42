//! The netd process by itself, as tests of this crate start it: `netd netd <run dir>`.
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    match arguments.as_slice() {
        [_, verb, run_dir] if verb == "netd" => pontoon_dataplane::netd_main(run_dir),
        _ => ExitCode::from(2),
    }
}
