//! Made-up names (adjective_surname, as users know them) for what is created without one: containers by the engine, services
//! by the controller.

const ADJECTIVES: &[&str] = &[
    "able", "amber", "bold", "brave", "bright", "brisk", "busy", "calm", "candid", "careful", "clear",
    "clever", "cosmic", "crisp", "curious", "daring", "deft", "eager", "early", "earnest", "fair",
    "fearless", "fine", "firm", "fluent", "fond", "frank", "gentle", "glad", "golden", "grand", "happy",
    "hardy", "honest", "humble", "jolly", "keen", "kind", "lively", "lucid", "lucky", "merry", "mighty",
    "modest", "neat", "nimble", "noble", "patient", "placid", "polite", "proud", "quick", "quiet", "rapid",
    "ready", "serene", "sharp", "silent", "sincere", "sleek", "smart", "solid", "stellar", "steady", "sunny",
    "swift", "tidy", "upbeat", "vivid", "warm", "wise", "witty", "zealous", "zesty",
];

const SURNAMES: &[&str] = &[
    "abel",
    "agnesi",
    "ampere",
    "babbage",
    "banach",
    "bardeen",
    "bernoulli",
    "bohr",
    "boole",
    "born",
    "bose",
    "cantor",
    "cauchy",
    "cayley",
    "cerf",
    "chandra",
    "church",
    "codd",
    "curie",
    "dijkstra",
    "dirac",
    "einstein",
    "erdos",
    "euclid",
    "euler",
    "faraday",
    "fermat",
    "fermi",
    "feynman",
    "floyd",
    "fourier",
    "franklin",
    "galileo",
    "galois",
    "gauss",
    "germain",
    "goodall",
    "hamming",
    "hawking",
    "hilbert",
    "hoare",
    "hopper",
    "huygens",
    "hypatia",
    "kepler",
    "knuth",
    "kolmogorov",
    "lagrange",
    "lamarr",
    "lamport",
    "laplace",
    "leibniz",
    "liskov",
    "lovelace",
    "maxwell",
    "meitner",
    "mendel",
    "milner",
    "minsky",
    "moore",
    "napier",
    "nash",
    "newton",
    "noether",
    "pascal",
    "pasteur",
    "perlman",
    "planck",
    "poincare",
    "ramanujan",
    "ride",
    "riemann",
    "ritchie",
    "shannon",
    "tesla",
    "thompson",
    "torvalds",
    "turing",
    "volta",
    "wiles",
    "wirth",
    "wozniak",
];

/// A name that `taken` does not know, from random numbers. After some tries it gets a number, so that it always ends.
pub fn free(mut random: impl FnMut() -> u32, taken: impl Fn(&str) -> bool) -> String {
    let mut range = 0;
    loop {
        let number = random() as usize;
        let adjective = ADJECTIVES[number % ADJECTIVES.len()];
        let surname = SURNAMES[number / ADJECTIVES.len() % SURNAMES.len()];
        let name = match range {
            0..6 => format!("{adjective}_{surname}"),
            _ => format!(
                "{adjective}_{surname}{}",
                random() % 10u32.saturating_pow(range - 5)
            ),
        };
        if !taken(&name) {
            return name;
        }
        range += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter() -> impl FnMut() -> u32 {
        let mut next = 0u32;
        move || {
            next = next.wrapping_add(2_654_435_761);
            next
        }
    }

    #[test]
    fn names_get_a_number_when_the_plain_ones_are_taken() {
        let plain = free(counter(), |_| false);
        assert!(
            plain
                .split_once('_')
                .is_some_and(|(a, b)| !a.is_empty() && !b.is_empty())
        );
        let numbered = free(counter(), |name| !name.ends_with(|c: char| c.is_ascii_digit()));
        assert!(numbered.ends_with(|c: char| c.is_ascii_digit()));
    }
}
