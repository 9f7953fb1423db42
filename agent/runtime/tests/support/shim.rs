//! The binary that this crate's tests start as shims: the dispatch of the real one and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    if pontoon_runtime::is_init(arguments.next().as_deref()) {
        return pontoon_runtime::init_main(arguments);
    }
    let (command, rest) = (arguments.next(), arguments.collect::<Vec<_>>());
    match (command.as_deref().and_then(|c| c.to_str()), rest.as_slice()) {
        (Some("shim"), [dir]) => pontoon_runtime::shim_main(dir),
        (Some("shim-log"), rest) => pontoon_runtime::shim_log_main(rest.iter().cloned()),
        (Some("oci"), rest) => pontoon_runtime::oci_main(rest.iter().cloned()),
        // For a test that has it run inside by another name.
        (Some("init"), rest) => pontoon_runtime::init_main(rest.iter().cloned()),
        _ => ExitCode::FAILURE,
    }
}
