//! The local engine: containers, exec, logs, networks, images behind one API.
