//! Which image of an index is for a machine: containerd's order of preference (`platforms.Only`), so that an older variant is taken
//! where the newer is missing, but never the other way round.

use crate::Platform;

/// How well an image for `other` fits: 0 is best, `None` not at all.
pub(super) fn rank(wanted: &Platform, other: &Platform) -> Option<usize> {
    if other.os != wanted.os {
        return None;
    }
    let other = normal(&other.architecture, other.variant.as_deref().unwrap_or_default());
    accepted(wanted)
        .iter()
        .position(|(architecture, variant)| (architecture.as_str(), variant.as_str()) == other)
}

/// Architectures and variants that run on a machine, best first.
fn accepted(wanted: &Platform) -> Vec<(String, String)> {
    let (architecture, variant) = normal(
        &wanted.architecture,
        wanted.variant.as_deref().unwrap_or_default(),
    );
    let number: u32 = variant.trim_start_matches('v').parse().unwrap_or(0);
    // What nobody builds is not counted down from.
    let number = number.min(9);
    let down = |from: u32, to: u32, name: &str| -> Vec<(String, String)> {
        (to..=from)
            .rev()
            .map(|n| {
                let variant = format!("v{n}");
                let (architecture, variant) = normal(name, &variant);
                (architecture.to_owned(), variant.to_owned())
            })
            .collect()
    };
    match architecture {
        "amd64" => {
            let mut all = down(number.max(1), 1, "amd64");
            all.push(("386".to_owned(), String::new()));
            all
        }
        "arm64" => {
            let mut all = down(number.max(8), 8, "arm64");
            all.extend(down(8, 5, "arm"));
            all
        }
        "arm" if number >= 5 => down(number, 5, "arm"),
        _ => vec![(architecture.to_owned(), variant.to_owned())],
    }
}

/// One name for each architecture, and no variant where it is the usual one.
fn normal<'a>(architecture: &'a str, variant: &'a str) -> (&'a str, &'a str) {
    match (architecture, variant) {
        ("i386" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8" | "") => ("arm64", ""),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "7" | "") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(ToOwned::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform {
            os: next(),
            architecture: next(),
            variant: Some(next()).filter(|v| !v.is_empty()),
        }
    }

    #[test]
    fn older_variants_run_and_newer_do_not() {
        let ranks = |wanted: &str, offered: &[&str]| -> Vec<Option<usize>> {
            let wanted = platform(wanted);
            offered
                .iter()
                .map(|text| rank(&wanted, &platform(text)))
                .collect()
        };
        assert_eq!(
            ranks(
                "linux/amd64",
                &["linux/amd64", "linux/amd64/v1", "linux/amd64/v3", "linux/386"]
            ),
            [Some(0), Some(0), None, Some(1)]
        );
        assert_eq!(
            ranks(
                "linux/amd64/v3",
                &["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"]
            ),
            [Some(0), Some(1), Some(2)]
        );
        assert_eq!(
            ranks(
                "linux/arm64",
                &[
                    "linux/arm64/v8",
                    "linux/arm64",
                    "linux/arm/v7",
                    "linux/arm",
                    "windows/arm64"
                ]
            ),
            [Some(0), Some(0), Some(2), Some(2), None]
        );
        assert_eq!(
            ranks("linux/arm/v6", &["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"]),
            [None, Some(0), Some(1)]
        );
        assert_eq!(
            ranks("linux/riscv64", &["linux/riscv64", "linux/amd64"]),
            [Some(0), None]
        );
    }
}
