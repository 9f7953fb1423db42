//! What compiled filters answer, by interpreting them, and the cache.

use std::collections::HashSet;

use oci_spec::runtime::Capability;

use super::*;
use crate::defaults;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;

/// Runs classic BPF over a `struct seccomp_data` (seccomp(2)).
fn decide(program: &[u8], arch: u32, number: i64, first_argument: u64) -> u32 {
    let mut data = [0_u8; 64];
    data[..4].copy_from_slice(&(number as u32).to_ne_bytes());
    data[4..8].copy_from_slice(&arch.to_ne_bytes());
    data[16..24].copy_from_slice(&first_argument.to_ne_bytes());
    let word = |at: u32| u32::from_ne_bytes(data[at as usize..at as usize + 4].try_into().unwrap());
    let (mut a, mut memory, mut pc) = (0_u32, [0_u32; 16], 0_usize);
    loop {
        let i: [u8; 8] = program[pc * 8..pc * 8 + 8].try_into().unwrap();
        let (code, k) = (
            u16::from_ne_bytes([i[0], i[1]]),
            u32::from_ne_bytes([i[4], i[5], i[6], i[7]]),
        );
        let jump = |yes: bool| usize::from(if yes { i[2] } else { i[3] });
        pc += 1;
        match code {
            0x20 => a = word(k),
            0x60 => a = memory[k as usize],
            0x02 => memory[k as usize] = a,
            0x54 => a &= k,
            0x05 => pc += k as usize,
            0x15 => pc += jump(a == k),
            0x25 => pc += jump(a > k),
            0x35 => pc += jump(a >= k),
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn default_program(extra: &[Capability]) -> Vec<u8> {
    let capabilities: HashSet<_> = defaults::CAPABILITIES.iter().chain(extra).copied().collect();
    compile(&defaults::seccomp_profile(&capabilities)).unwrap()
}

#[cfg(target_arch = "x86_64")]
#[test]
fn default_profile_answers_as_dockers() {
    let program = default_program(&[]);
    let native = |number, argument| decide(&program, AUDIT_ARCH, number, argument);
    assert_eq!(native(libc::SYS_read, 0), ALLOW);
    assert_eq!(native(libc::SYS_mount, 0), EPERM);
    assert_eq!(native(libc::SYS_clone, libc::SIGCHLD as u64), ALLOW);
    assert_eq!(native(libc::SYS_clone, libc::CLONE_NEWUSER as u64), EPERM);
    assert_eq!(
        native(libc::SYS_clone3, 0),
        ENOSYS,
        "so that C libraries fall back to clone"
    );
    assert_eq!(native(libc::SYS_socket, libc::AF_INET as u64), ALLOW);
    assert_eq!(
        native(libc::SYS_socket, libc::AF_ALG as u64),
        EPERM,
        "CVE-2026-31431"
    );
    assert_eq!(native(libc::SYS_socket, libc::AF_VSOCK as u64), EPERM);
    assert_eq!(native(libc::SYS_io_uring_setup, 0), EPERM);
    assert_eq!(native(452, 0), ALLOW, "fchmodat2, newer than libseccomp");
    assert_eq!(native(459, 0), EPERM, "lsm_get_self_attr without CAP_SYS_ADMIN");
    assert_eq!(native(467, 0), ENOSYS, "newer than this source");
    assert_eq!(native(0x4000_0000 | 165, 0), EPERM, "mount by its x32 number");
    const I386: u32 = 0x4000_0003;
    assert_eq!(decide(&program, I386, 3, 0), ALLOW, "read");
    assert_eq!(decide(&program, I386, 21, 0), EPERM, "mount");
    let program = default_program(&[Capability::SysAdmin]);
    for number in [libc::SYS_mount, libc::SYS_clone3, 459] {
        assert_eq!(
            decide(&program, AUDIT_ARCH, number, 0),
            ALLOW,
            "{number} with CAP_SYS_ADMIN"
        );
    }
    assert_eq!(
        decide(&program, AUDIT_ARCH, libc::SYS_clone, libc::CLONE_NEWUSER as u64),
        ALLOW
    );
}

#[cfg(target_arch = "x86_64")]
#[test]
fn prelude_without_newer_calls() {
    let mut program = prelude(&[]);
    program.extend([0x06, 0, 0, 0, 7, 0, 0, 0]);
    assert_eq!(decide(&program, AUDIT_ARCH, 1, 0), 7);
    assert_eq!(decide(&program, AUDIT_ARCH, 500, 0), ENOSYS);
    assert_eq!(decide(&program, AUDIT_ARCH, 0x4000_0001, 0), 7);
    assert_eq!(decide(&program, 3, 500, 0), 7);
}

#[test]
fn a_damaged_cache_entry_is_compiled_anew() {
    let cache = tempfile::tempdir().unwrap();
    let profile = defaults::seccomp_profile(&HashSet::new());
    let first = Filter::of(&profile, cache.path()).unwrap();
    let entries: Vec<_> = std::fs::read_dir(cache.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    let whole = std::fs::read(&entries[0]).unwrap();
    assert_eq!(whole[32..], first.program);
    std::fs::write(&entries[0], &whole[..whole.len() - 8]).unwrap();
    assert_eq!(Filter::of(&profile, cache.path()).unwrap().program, first.program);
    assert_eq!(std::fs::read(&entries[0]).unwrap(), whole);
}
