//! netd alone, run as `pontoon-netd netd <run dir>` by the integration tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().collect::<Vec<_>>().as_slice() {
        [_, verb, run_dir] if verb == "netd" => pontoon_dataplane::netd_main(run_dir),
        _ => ExitCode::from(2),
    }
}
