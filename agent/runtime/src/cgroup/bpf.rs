//! The few eBPF instructions that a device filter needs, and loading it onto a cgroup. Encodings: the
//! kernel's Documentation/bpf/standardization/instruction-set.rst.

use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::Error;
use crate::error::IoContext;
use crate::sys;

/// One instruction, as the kernel's `struct bpf_insn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A whole program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program(pub(super) Vec<Instruction>);

const LDX_MEM_W: u8 = 0x61;
const ALU_AND_K: u8 = 0x54;
const ALU_RSH_K: u8 = 0x74;
const ALU_MOV_X: u8 = 0xbc;
const ALU64_MOV_K: u8 = 0xb7;
const JMP_JEQ_K: u8 = 0x15;
const JMP_JNE_K: u8 = 0x55;
const JMP_JNE_X: u8 = 0x5d;
const JMP_EXIT: u8 = 0x95;

impl Instruction {
    fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Self {
        Self {
            code,
            registers: destination | (source << 4),
            offset,
            immediate,
        }
    }
    pub(super) fn load_word(destination: u8, source: u8, offset: i16) -> Self {
        Self::new(LDX_MEM_W, destination, source, offset, 0)
    }
    pub(super) fn and_imm(destination: u8, value: i32) -> Self {
        Self::new(ALU_AND_K, destination, 0, 0, value)
    }
    pub(super) fn shift_right(destination: u8, bits: i32) -> Self {
        Self::new(ALU_RSH_K, destination, 0, 0, bits)
    }
    pub(super) fn move_reg(destination: u8, source: u8) -> Self {
        Self::new(ALU_MOV_X, destination, source, 0, 0)
    }
    pub(super) fn move_imm(destination: u8, value: i32) -> Self {
        Self::new(ALU64_MOV_K, destination, 0, 0, value)
    }
    pub(super) fn jump_equal(register: u8, value: i32) -> Self {
        Self::new(JMP_JEQ_K, register, 0, 0, value)
    }
    pub(super) fn jump_not_equal(register: u8, value: i32) -> Self {
        Self::new(JMP_JNE_K, register, 0, 0, value)
    }
    pub(super) fn jump_not_equal_reg(left: u8, right: u8) -> Self {
        Self::new(JMP_JNE_X, left, right, 0, 0)
    }
    pub(super) fn exit() -> Self {
        Self::new(JMP_EXIT, 0, 0, 0, 0)
    }
    pub(super) fn is_jump(self) -> bool {
        matches!(self.code, JMP_JEQ_K | JMP_JNE_K | JMP_JNE_X)
    }
    pub(super) fn set_offset(&mut self, offset: i16) {
        self.offset = offset;
    }

    /// Little-endian bytes, as the syscall takes them.
    pub(super) fn bytes(self) -> [u8; 8] {
        let [o0, o1] = self.offset.to_ne_bytes();
        let [i0, i1, i2, i3] = self.immediate.to_ne_bytes();
        [self.code, self.registers, o0, o1, i0, i1, i2, i3]
    }
}

/// Loads a device program and attaches it to a cgroup, in place of the one attached before by us.
pub(super) fn attach(directory: &Path, program: &Program) -> Result<(), Error> {
    let code: Vec<u8> = program.0.iter().flat_map(|i| i.bytes()).collect();
    let loaded = sys::bpf::load_device_program(&code).context(|| "load the device filter (bpf)")?;
    let cgroup = rustix::fs::open(
        directory,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .context(|| format!("open {}", directory.display()))?;
    sys::bpf::replace_device_program(&cgroup, &loaded)
        .context(|| format!("attach the device filter to {}", directory.display()))
}
