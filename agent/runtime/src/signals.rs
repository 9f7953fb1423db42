//! Signals by name, as command lines spell them. Called by `oci kill`.

use crate::Error;

const NAMES: [(&str, i32); 33] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGIOT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGPOLL),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// A number up to 64, or a name with or without `SIG`.
pub(crate) fn parse(word: &str) -> Result<i32, Error> {
    if let Some(number) = word.parse::<i32>().ok().filter(|n| (0..=64).contains(n)) {
        return Ok(number);
    }
    let upper = word.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|&(_, number)| number)
        .ok_or_else(|| Error::InvalidSpec(format!("unknown signal {word:?}")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_and_numbers() {
        for word in ["9", "KILL", "SIGKILL", "sigkill", "kill"] {
            assert_eq!(super::parse(word).unwrap(), 9);
        }
        assert_eq!(super::parse("64").unwrap(), 64);
        for word in ["65", "-1", "SIG", "NOPE", ""] {
            assert!(super::parse(word).is_err(), "{word}");
        }
    }
}
