//! `push` to a registry one switch away, whole command, beside a private Docker engine, in turn: an image of 200 MB in five layers that
//! was loaded from an archive (both compress it) to an empty registry, and once more when everything is there.

use anyhow::Result;
use serde_json::json;

use crate::registries::{Scene, compare, large};
use crate::report::{Report, Samples, progress};

/// Runs the figure.
///
/// # Errors
/// When a command fails.
pub fn run(arguments: &[String]) -> Result<Report> {
    crate::check(arguments, 1, &["--no-docker"])?;
    let rounds = crate::number(arguments, 0, 5)?;
    let mut report = Report::start()?;
    report.condition("rounds", json!(rounds));
    let scene = Scene::new(&mut report, arguments)?;
    let contestants = scene.contestants();
    let made = large();
    let address = scene.address();
    let name = format!("{address}/{}:1", made.repository);
    let archive = made.write(scene.fleet.folder(), &name)?;
    for contestant in &contestants {
        contestant.ok(&["load", "--quiet", "--input", &archive.display().to_string()])?;
    }
    let mut all: Vec<(&'static str, Samples)> =
        contestants.iter().map(|c| (c.name, Samples::default())).collect();
    let mut again = all.clone();
    // The first round fills caches and is not counted.
    for round in 0..=rounds {
        for turn in 0..contestants.len() {
            let which = (round + turn) % contestants.len();
            let registry = scene.registry("registry")?;
            let times = [
                contestants[which].timed(&["push", "--quiet", &name])?,
                contestants[which].timed(&["push", "--quiet", &name])?,
            ];
            if round > 0 {
                all[which].1.push(times[0]);
                again[which].1.push(times[1]);
            }
            scene.forget(registry, "registry")?;
        }
        progress(&format!("round {round} of {rounds}"));
    }
    let said = [
        compare(&mut report, &format!("push of {}", made.what), &all, None),
        compare(&mut report, "push of what is there", &again, None),
    ];
    report.summary(said.join("; "));
    Ok(report)
}
