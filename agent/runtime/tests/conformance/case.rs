//! What a case is: a sentence of the specification, a change to a good configuration, and what must come of it.

use serde_json::Value;

use crate::bed::Bed;

/// How a case ended on one runtime.
#[derive(Debug)]
pub enum Verdict {
    Passed,
    Failed(String),
    /// The machine can't run it.
    Skipped(String),
}

impl Verdict {
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "pass",
            Self::Failed(_) => "FAIL",
            Self::Skipped(_) => "skip",
        }
    }
}

/// Panic payload of a case that the machine can't run.
pub struct Skip(pub String);

/// Ends a case that this machine can't run.
pub fn skip(reason: &str) -> ! {
    std::panic::panic_any(Skip(reason.to_owned()))
}

/// One case.
pub struct Case {
    pub chapter: &'static str,
    pub name: &'static str,
    /// The sentence that it checks, shortened.
    pub says: &'static str,
    edit: fn(&mut Value),
    act: Act,
}

enum Act {
    /// Run a script; its output must be this.
    Prints(&'static str, &'static str),
    /// Creating (or at the latest starting) must fail, with this in the message, and leave nothing.
    Refused(&'static str),
    /// Anything else.
    Code(fn(&mut Bed)),
}

fn no_edit(_: &mut Value) {}

/// A case whose container runs `script` and must print `expected`.
pub fn prints(
    name: &'static str,
    says: &'static str,
    edit: fn(&mut Value),
    script: &'static str,
    expected: &'static str,
) -> Case {
    Case {
        chapter: "",
        name,
        says,
        edit,
        act: Act::Prints(script, expected),
    }
}

/// A case whose configuration must be refused.
pub fn refused(name: &'static str, says: &'static str, edit: fn(&mut Value), message: &'static str) -> Case {
    Case {
        chapter: "",
        name,
        says,
        edit,
        act: Act::Refused(message),
    }
}

/// Any other case.
pub fn code(name: &'static str, says: &'static str, run: fn(&mut Bed)) -> Case {
    Case {
        chapter: "",
        name,
        says,
        edit: no_edit,
        act: Act::Code(run),
    }
}

impl Case {
    pub fn run(&self, bed: &mut Bed) {
        (self.edit)(&mut bed.spec);
        match &self.act {
            Act::Prints(script, expected) => {
                let done = bed.run(script);
                assert!(
                    done.stdout == *expected,
                    "expected {expected:?}, printed {:?}, exit {}, stderr {:?}",
                    done.stdout,
                    done.code,
                    done.stderr
                );
            }
            Act::Refused(message) => {
                let error = bed.refusal();
                assert!(error.contains(message), "expected {message:?} in: {error}");
            }
            Act::Code(run) => run(bed),
        }
    }
}
