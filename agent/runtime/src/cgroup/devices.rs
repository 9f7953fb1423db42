//! Device rules: OCI's list into version 1's strings and into version 2's eBPF program.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::bpf::{Instruction, Program};
use crate::Error;

/// `BPF_DEVCG_ACC_*` and `BPF_DEVCG_DEV_*` of linux/bpf.h.
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const DEVICE_BLOCK: i32 = 1;
const DEVICE_CHAR: i32 = 2;

/// What every container needs to build and use its `/dev`, allowed after the specification's own rules
/// (as runc does): mknod of anything, and the default devices.
pub(crate) fn always_allowed() -> Vec<LinuxDeviceCgroup> {
    crate::defaults::device_rules()
        .into_iter()
        .filter(LinuxDeviceCgroup::allow)
        .collect()
}

/// One rule for `devices.allow` or `devices.deny`.
pub(super) fn rule_v1(rule: &LinuxDeviceCgroup) -> Result<String, Error> {
    let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::A => "a",
        LinuxDeviceType::B => "b",
        LinuxDeviceType::C | LinuxDeviceType::U => "c",
        LinuxDeviceType::P => return Err(Error::InvalidSpec("a device rule can't name a fifo".to_owned())),
    };
    let number = |n: Option<i64>| n.filter(|&n| n >= 0).map_or("*".to_owned(), |n| n.to_string());
    let access = access_of(rule)?;
    Ok(format!(
        "{kind} {}:{} {access}",
        number(rule.major()),
        number(rule.minor())
    ))
}

/// The program that decides in the same way as the rules applied in order: the last one that matches wins,
/// so they are tested from the last to the first; nothing matching means denied.
pub(super) fn program_v2(rules: &[LinuxDeviceCgroup]) -> Result<Program, Error> {
    // r2 = type, r3 = access, r4 = major, r5 = minor of struct bpf_cgroup_dev_ctx.
    let mut code = vec![
        Instruction::load_word(2, 1, 0),
        Instruction::and_imm(2, 0xffff),
        Instruction::load_word(3, 1, 0),
        Instruction::shift_right(3, 16),
        Instruction::load_word(4, 1, 4),
        Instruction::load_word(5, 1, 8),
    ];
    for rule in rules.iter().rev() {
        let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::A => None,
            LinuxDeviceType::B => Some(DEVICE_BLOCK),
            LinuxDeviceType::C | LinuxDeviceType::U => Some(DEVICE_CHAR),
            LinuxDeviceType::P => {
                return Err(Error::InvalidSpec("a device rule can't name a fifo".to_owned()));
            }
        };
        let block = rule_block(rule, kind)?;
        let is_final = !block.iter().any(|i| i.is_jump());
        code.extend(block);
        if is_final {
            // The verifier refuses instructions that can't be reached.
            return Ok(Program(code));
        }
    }
    code.extend([Instruction::move_imm(0, 0), Instruction::exit()]);
    Ok(Program(code))
}

fn rule_block(rule: &LinuxDeviceCgroup, kind: Option<i32>) -> Result<Vec<Instruction>, Error> {
    let mut tests = Vec::new();
    if let Some(kind) = kind {
        tests.push(vec![Instruction::jump_not_equal(2, kind)]);
    }
    let access = access_mask(&access_of(rule)?);
    if access != ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE {
        // Allowing: every wanted access must be in the rule. Denying: any of it is enough.
        let mut block = vec![Instruction::move_reg(1, 3)];
        if rule.allow() {
            block.extend([
                Instruction::and_imm(1, access),
                Instruction::jump_not_equal_reg(1, 3),
            ]);
        } else {
            block.extend([Instruction::and_imm(1, access), Instruction::jump_equal(1, 0)]);
        }
        tests.push(block);
    }
    for (register, number) in [(4, rule.major()), (5, rule.minor())] {
        if let Some(number) = number.filter(|&n| n >= 0) {
            let number = i32::try_from(number)
                .map_err(|_| Error::InvalidSpec(format!("device number {number} is out of range")))?;
            tests.push(vec![Instruction::jump_not_equal(register, number)]);
        }
    }
    let mut block: Vec<Instruction> = tests.into_iter().flatten().collect();
    block.extend([
        Instruction::move_imm(0, i32::from(rule.allow())),
        Instruction::exit(),
    ]);
    let length = block.len();
    for (index, instruction) in block.iter_mut().enumerate() {
        if instruction.is_jump() {
            // Over the rest of this rule's block.
            instruction.set_offset(i16::try_from(length - index - 1).unwrap_or(i16::MAX));
        }
    }
    Ok(block)
}

fn access_of(rule: &LinuxDeviceCgroup) -> Result<String, Error> {
    let access = rule
        .access()
        .clone()
        .filter(|a| !a.is_empty())
        .unwrap_or_else(|| "rwm".to_owned());
    if access.chars().all(|c| "rwm".contains(c)) {
        return Ok(access);
    }
    Err(Error::InvalidSpec(format!(
        "device access {access} is not made of r, w and m"
    )))
}

fn access_mask(access: &str) -> i32 {
    access.chars().fold(0, |mask, c| {
        mask | match c {
            'r' => ACCESS_READ,
            'w' => ACCESS_WRITE,
            _ => ACCESS_MKNOD,
        }
    })
}
