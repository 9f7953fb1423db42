//! Fuzz targets: bytes made of good ones by seeded mutation, given to a reader that must neither panic nor take memory without bound.
//!
//! ```text
//! FUZZ_SECONDS=60   each target that long, from a random seed (`make fuzz`); without it 2,000 inputs from a fixed one (CI)
//! FUZZ_SEED=n       begin with this seed: replays what a failure has named
//! ```
//! A target is an ordinary test that calls [`fuzz`] beside the code that it is about. Why not libFuzzer: see DESIGN.md. Used only in tests.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Inputs of a run without a budget of time.
const CASES: u64 = 2_000;
/// Memory that one target may take more than it began with, beyond what its inputs are.
const MEMORY: u64 = 512 << 20;

/// A small generator of random numbers (splitmix64): the same on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 when that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        match bound {
            0 => 0,
            bound => (self.number() % bound as u64) as usize,
        }
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        self.number().to_le_bytes()[0]
    }
}

/// Values that readers of lengths and counts stumble over.
const ODD: &[&[u8]] = &[
    &[0],
    &[0xff],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0],
    &[0xff; 8],
    &[0, 0, 0, 0, 0, 0, 0, 0x80],
    // The longest varints, whole and cut.
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80],
    b"-----BEGIN CERTIFICATE-----\n",
    "\u{0}é\u{feff}".as_bytes(),
];

/// Changes a good input in one to eight places.
pub fn mutate(random: &mut Random, good: &[&[u8]]) -> Vec<u8> {
    let mut input = good
        .get(random.below(good.len()))
        .map_or_else(Vec::new, |seed| seed.to_vec());
    for _ in 0..=random.below(8) {
        let at = random.below(input.len() + 1);
        let end = (at + random.below(32)).min(input.len());
        match random.below(8) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..end)),
            2 => {
                let copy = input[at..end].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            3 => {
                let odd = ODD[random.below(ODD.len())];
                let end = (at + odd.len()).min(input.len());
                input.splice(at..end, odd.iter().copied());
            }
            4 => {
                let other = good[random.below(good.len())];
                let from = random.below(other.len() + 1);
                input.splice(at.., other[from..].iter().copied());
            }
            5 => input.extend((0..random.below(64)).map(|_| random.byte())),
            6 if at < input.len() => input[at] = random.byte(),
            _ if at < input.len() => input[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
    input
}

/// Gives a target inputs until its budget is over. `good` are inputs that the reader accepts; the target is to judge them, not to accept them.
///
/// # Panics
/// When the target panics on an input, which is named by its seed and in hexadecimal, or takes too much memory.
pub fn fuzz(name: &str, good: &[&[u8]], mut target: impl FnMut(&[u8])) {
    assert!(!good.is_empty(), "{name}: a target needs an input that is good");
    for seed in good {
        target(seed);
    }
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let budget = number("FUZZ_SECONDS").map(Duration::from_secs);
    let first = number("FUZZ_SEED").unwrap_or_else(|| match budget {
        // Another part of the space at each run.
        Some(_) => std::time::UNIX_EPOCH
            .elapsed()
            .map_or(0, |since| since.as_nanos() as u64),
        None => 0,
    });
    let begin = Instant::now();
    let before = resident();
    let mut count = 0;
    while budget.map_or(count < CASES, |budget| begin.elapsed() < budget) {
        let seed = first.wrapping_add(count);
        let input = mutate(&mut Random::new(seed), good);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
            let hex: String = input
                .iter()
                .take(4096)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            panic!(
                "{name}: FUZZ_SEED={seed} panicked: {}\n{} bytes: {hex}",
                text_of(panic.as_ref()),
                input.len()
            );
        }
        count += 1;
    }
    let taken = resident().saturating_sub(before);
    assert!(
        taken < MEMORY,
        "{name}: took {taken} bytes of memory in {count} inputs from FUZZ_SEED={first}"
    );
    eprintln!(
        "{name}: {count} inputs from FUZZ_SEED={first} in {:?}",
        begin.elapsed()
    );
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}

/// The most memory that this process ever had, in bytes (proc(5), VmHWM); 0 where the kernel does not tell.
pub fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_input() {
        let good: [&[u8]; 2] = [b"hello world", b"0123456789"];
        let of = |seed| mutate(&mut Random::new(seed), &good);
        assert_eq!(of(7), of(7));
        let distinct: std::collections::HashSet<Vec<u8>> = (0..1000).map(of).collect();
        assert!(distinct.len() > 700, "{}", distinct.len());
    }

    #[test]
    fn a_panic_is_named_by_its_seed() {
        let found = catch_unwind(|| {
            fuzz("planted", &[b"aaaaaaaaaaaaaaaa"], |input| {
                assert!(!input.contains(&0xff), "planted");
            });
        });
        let text = text_of(found.unwrap_err().as_ref()).to_owned();
        assert!(
            text.contains("planted: FUZZ_SEED=") && text.contains("panicked: planted"),
            "{text}"
        );
    }
}
