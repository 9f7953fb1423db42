//! `pull` from a registry one switch away, whole command, beside a private Docker engine, in turn: 200 MB in five layers, and a thousand
//! small files. The image is removed after each pull, and both have it by the same id.

use anyhow::Result;
use serde_json::json;

use crate::registries::{Contestant, Made, Scene, compare, large, same, small};
use crate::report::{Report, Samples, progress};

/// Times as fast as Docker, of each image.
const BUDGET: f64 = 2.0;

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
    let registry = scene.registry("registry")?;
    let contestants = scene.contestants();
    let mut said = Vec::new();
    for made in [large(), small()] {
        let name = registry.name(&format!("{}:1", made.repository));
        seed(&scene, &contestants, &made, &name)?;
        let mut all: Vec<(&'static str, Samples)> =
            contestants.iter().map(|c| (c.name, Samples::default())).collect();
        // The first round fills caches and is not counted.
        for round in 0..=rounds {
            for turn in 0..contestants.len() {
                let which = (round + turn) % contestants.len();
                let time = contestants[which].timed(&["pull", "--quiet", &name])?;
                if round > 0 {
                    all[which].1.push(time);
                }
            }
            same(&contestants, &name)?;
            for contestant in &contestants {
                contestant.ok(&["rmi", "--force", &name])?;
            }
            progress(&format!("{}: round {round} of {rounds}", made.what));
        }
        said.push(compare(
            &mut report,
            &format!("pull of {}", made.what),
            &all,
            Some(BUDGET),
        ));
    }
    report.summary(said.join("; "));
    Ok(report)
}

/// Puts an image into the registry and forgets it here.
fn seed(scene: &Scene, contestants: &[Contestant<'_>], made: &Made, name: &str) -> Result<()> {
    let archive = made.write(scene.fleet.folder(), name)?;
    let first = &contestants[0];
    first.ok(&["load", "--quiet", "--input", &archive.display().to_string()])?;
    first.ok(&["push", "--quiet", name])?;
    first.ok(&["rmi", "--force", name])?;
    std::fs::remove_file(&archive)?;
    Ok(())
}
