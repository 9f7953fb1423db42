//! Seccomp filters: compiled by libseccomp once per profile, kept on disk as BPF, loaded by the processes of
//! containers. Compiling costs some 12 ms, loading microseconds.

#[cfg(test)]
mod tests;

use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::error::IoContext;

/// Changes whenever the same profile compiles to something else.
const FORMAT: &str = "1";
/// `BPF_MAXINSNS` instructions of 8 bytes.
const MAX_PROGRAM: usize = 4096 * 8;

/// System calls newer than the oldest libseccomp that we link (2.5.4, Linux 5.17). Since 424 all processors
/// share the numbers.
const NEWER: &[(&str, u32)] = &[
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
];
/// The last number that [`NEWER`] knows.
const LAST_KNOWN: u32 = 466;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// A compiled filter with its load flags.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    program: Vec<u8>,
    flags: u64,
}

impl Filter {
    /// The filter of a profile, from the cache if it is there and intact.
    pub(crate) fn of(profile: &LinuxSeccomp, cache: &Path) -> Result<Self, Error> {
        let flags = flags_of(profile)?;
        let json = serde_json::to_vec(profile).map_err(|source| Error::Json {
            what: "encode the seccomp profile".to_owned(),
            source,
        })?;
        let library = libseccomp::ScmpVersion::current()
            .map(|v| v.to_string())
            .unwrap_or_default();
        let key = Sha256::new()
            .chain_update(FORMAT)
            .chain_update(library)
            .chain_update(json)
            .finalize();
        let path = cache.join(hex(&key));
        if let Some(program) = read_cached(&path) {
            return Ok(Self { program, flags });
        }
        let program = compile(profile)?;
        if let Err(error) = write_cached(&path, &program) {
            // Without a cache everything still works, slower.
            eprintln!("seccomp cache: {}", error.chain());
        }
        Ok(Self { program, flags })
    }

    /// Applies the filter to the calling process.
    pub(crate) fn load(&self) -> std::io::Result<()> {
        crate::sys::process::load_seccomp(&self.program, self.flags)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A cached program is preceded by its own digest: the file is not synced, a crash may cut it.
fn read_cached(path: &Path) -> Option<Vec<u8>> {
    let bytes = fs::read(path).ok()?;
    let (digest, program) = bytes.split_at_checked(32)?;
    let whole = !program.is_empty() && program.len() % 8 == 0 && program.len() <= MAX_PROGRAM;
    (whole && Sha256::digest(program).as_slice() == digest).then(|| program.to_vec())
}

fn write_cached(path: &Path, program: &[u8]) -> Result<(), Error> {
    let Some(directory) = path.parent() else {
        return Ok(());
    };
    fs::create_dir_all(directory).context(|| format!("create {}", directory.display()))?;
    // Several shims may compile the same profile at once: each writes its own file, the last rename stays.
    let temporary = path.with_extension(std::process::id().to_string());
    let write = || -> std::io::Result<()> {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&Sha256::digest(program))?;
        file.write_all(program)?;
        fs::rename(&temporary, path)
    };
    write().context(|| format!("write {}", path.display()))
}

fn flags_of(profile: &LinuxSeccomp) -> Result<u64, Error> {
    let mut flags = 0;
    for flag in profile.flags().iter().flatten() {
        flags |= match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            // One thread: there is nobody to synchronise with.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => 1 << 5,
        };
    }
    Ok(flags)
}

fn compile(profile: &LinuxSeccomp) -> Result<Vec<u8>, Error> {
    let failed = |e: libseccomp::error::SeccompError| Error::InvalidSpec(format!("seccomp profile: {e}"));
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default).map_err(failed)?;
    for &arch in profile.architectures().iter().flatten() {
        context.add_arch(architecture(arch)?).map_err(failed)?;
    }
    let mut newer = Vec::new();
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        if action == default {
            continue;
        }
        let arguments = rule.args().clone().unwrap_or_default();
        for name in rule.names() {
            let Ok(syscall) = ScmpSyscall::from_name(name) else {
                let number = NEWER.iter().find(|(n, _)| n == name).map(|&(_, number)| number);
                if let (Some(number), ScmpAction::Allow, []) = (number, action, arguments.as_slice()) {
                    newer.push(number);
                }
                continue;
            };
            add_rule(&mut context, action, syscall, &arguments).map_err(failed)?;
        }
    }
    let compiled = export(&context)?;
    let mut program = match default {
        ScmpAction::Errno(_) => prelude(&newer),
        _ => Vec::new(),
    };
    program.extend(compiled);
    if program.len() > MAX_PROGRAM {
        return Err(Error::InvalidSpec(
            "seccomp profile: the filter is larger than the kernel accepts".to_owned(),
        ));
    }
    Ok(program)
}

/// The older libseccomp only writes to descriptors.
fn export(context: &ScmpFilterContext) -> Result<Vec<u8>, Error> {
    let memory = rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC)
        .context(|| "make a memory file for the seccomp filter")?;
    context
        .export_bpf(&memory)
        .map_err(|e| Error::InvalidSpec(format!("seccomp profile: {e}")))?;
    let mut file = fs::File::from(memory);
    let mut program = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut program))
        .context(|| "read the seccomp filter")?;
    Ok(program)
}

/// Arguments on the same register are alternatives in Docker's profiles but contradictions to libseccomp: each
/// becomes a rule of its own then, as in runc.
fn add_rule(
    context: &mut ScmpFilterContext,
    action: ScmpAction,
    syscall: ScmpSyscall,
    arguments: &[LinuxSeccompArg],
) -> Result<(), libseccomp::error::SeccompError> {
    let compares: Vec<ScmpArgCompare> = arguments.iter().map(compare).collect();
    let repeated = arguments
        .iter()
        .enumerate()
        .any(|(i, a)| arguments[..i].iter().any(|b| a.index() == b.index()));
    if repeated {
        for one in compares {
            context.add_rule_conditional(action, syscall, &[one])?;
        }
    } else if compares.is_empty() {
        context.add_rule(action, syscall)?;
    } else {
        context.add_rule_conditional(action, syscall, &compares)?;
    }
    Ok(())
}

/// Runs before libseccomp's code: allows the newer calls that the profile names, and answers ENOSYS instead
/// of the default error to calls that did not exist when this was written, so that C libraries fall back.
fn prelude(newer: &[u32]) -> Vec<u8> {
    const LOAD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_GREATER: u16 = 0x25;
    const RETURN: u16 = 0x06;
    const X32_BIT: u32 = 0x4000_0000;
    let instruction = |code: u16, yes: usize, no: usize, value: u32| {
        let offset = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
        let mut bytes = [0; 8];
        bytes[..2].copy_from_slice(&code.to_ne_bytes());
        bytes[2] = offset(yes);
        bytes[3] = offset(no);
        bytes[4..].copy_from_slice(&value.to_ne_bytes());
        bytes
    };
    let count = newer.len();
    // After the comparisons: ENOSYS, then ALLOW, then libseccomp's program.
    let mut code = vec![
        instruction(LOAD, 0, 0, 4),
        instruction(JUMP_EQUAL, 0, count + 5, AUDIT_ARCH),
        instruction(LOAD, 0, 0, 0),
        instruction(JUMP_GREATER, count + 3, 0, X32_BIT - 1),
        instruction(JUMP_GREATER, count, 0, LAST_KNOWN),
    ];
    for (index, &number) in newer.iter().enumerate() {
        let last = index + 1 == count;
        code.push(instruction(
            JUMP_EQUAL,
            count - index,
            if last { 2 } else { 0 },
            number,
        ));
    }
    if count == 0 {
        // Nothing to allow: step over both returns.
        code.push(instruction(0x05, 0, 0, 2));
        code[1] = instruction(JUMP_EQUAL, 0, 6, AUDIT_ARCH);
        code[3] = instruction(JUMP_GREATER, 4, 0, X32_BIT - 1);
        code[4] = instruction(JUMP_GREATER, 1, 0, LAST_KNOWN);
    }
    code.push(instruction(
        RETURN,
        0,
        0,
        libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs(),
    ));
    code.push(instruction(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    code.concat()
}

fn compare(argument: &LinuxSeccompArg) -> ScmpArgCompare {
    let index = u32::try_from(argument.index()).unwrap_or(u32::MAX);
    let (value, two) = (argument.value(), argument.value_two().unwrap_or(0));
    let (operator, datum) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        // `value` is the mask, `valueTwo` what must remain (runc's reading, which Docker's profile relies on).
        LinuxSeccompOperator::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(value), two),
    };
    ScmpArgCompare::new(index, operator, datum)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, Error> {
    let errno = errno.and_then(|e| i32::try_from(e).ok()).unwrap_or(libc::EPERM);
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(u16::try_from(errno).unwrap_or(0)),
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(Error::Unsupported("seccomp action SCMP_ACT_NOTIFY".to_owned()));
        }
    })
}

fn architecture(arch: Arch) -> Result<ScmpArch, Error> {
    Ok(match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        other => return Err(Error::Unsupported(format!("seccomp architecture {other:?}"))),
    })
}
