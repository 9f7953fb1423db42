//! Container names: made-up ones (adjective_surname, as users know them) and what a given one may look like.

use rand::seq::IndexedRandom;

use crate::{Error, Result};

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

/// What a name looks like, in Docker's words.
const PATTERN: &str = "[a-zA-Z0-9][a-zA-Z0-9_.-]";

/// Makes up a name that `taken` does not know. After some tries it gets a number, so that it always ends.
pub(crate) fn generate(taken: impl Fn(&str) -> bool) -> String {
    let mut rng = rand::rng();
    for attempt in 0u32.. {
        let adjective = ADJECTIVES.choose(&mut rng).unwrap_or(&"plain");
        let surname = SURNAMES.choose(&mut rng).unwrap_or(&"name");
        let name = match attempt {
            0..6 => format!("{adjective}_{surname}"),
            _ => format!(
                "{adjective}_{surname}{}",
                rand::random::<u32>() % 10u32.saturating_pow(attempt - 5)
            ),
        };
        if !taken(&name) {
            return name;
        }
    }
    String::new()
}

/// Checks a given name; a leading slash is taken off.
pub(crate) fn validate(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let mut characters = bare.chars();
    let first = characters.next().is_some_and(|c| c.is_ascii_alphanumeric());
    let rest = characters
        .clone()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if first && rest && characters.next().is_some() {
        Ok(bare)
    } else {
        Err(Error::Invalid(format!(
            "Invalid container name ({name}), only {PATTERN} are allowed"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makes_names_until_one_is_free() {
        assert!(validate(&generate(|_| false)).is_ok());
        let numbered = generate(|name| !name.ends_with(|c: char| c.is_ascii_digit()));
        assert!(numbered.ends_with(|c: char| c.is_ascii_digit()));
    }

    #[test]
    fn accepts_what_docker_accepts() {
        for good in ["web", "/web", "a1", "x_y.z-1"] {
            assert!(validate(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "a", "-a", "a/b", "a b", "ä1", ".."] {
            assert!(validate(bad).is_err(), "{bad}");
        }
    }
}
