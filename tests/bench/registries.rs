//! What the figures `pull` and `push` stand on: a registry on a host of its own, our engine and a private Docker engine at the same
//! distance from it, and images made here, so that nothing is fetched from elsewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use pontoon_image::{Digest, Platform};
use pontoon_tests::process::{self, tool};
use pontoon_tests::registry::{Registry, Settings};
use pontoon_tests::{Fleet, wire};
use serde_json::json;

use crate::docker;
use crate::report::{Report, Samples, budget, progress, round};
use crate::timing::timed;

/// The host with the registry, and the one with our engine.
const KEEPER: usize = 2;
const OURS: usize = 1;
/// Words of the images' content.
const WORDS: u64 = 256;

/// An image to move.
pub struct Made {
    /// For the report.
    pub what: &'static str,
    /// Repository in the registry.
    pub repository: &'static str,
    /// By layer: how many files of how many bytes.
    layers: Vec<Vec<(usize, usize)>>,
}

/// 200 MB unpacked in five equal layers of large, middle and small files.
pub fn large() -> Made {
    let layer = vec![(8, 4 << 20), (75, 64 << 10), (400, 4 << 10)];
    Made {
        what: "200 MB in 5 layers",
        repository: "bench/large",
        layers: vec![layer; 5],
    }
}

/// A thousand files of 4 KB in one layer.
pub fn small() -> Made {
    Made {
        what: "1,000 files of 4 KB",
        repository: "bench/small",
        layers: vec![vec![(1000, 4 << 10)]],
    }
}

/// Bytes that gzip makes 40 % as many, as programs are: a word of twelve bytes that comes often, then four that are never the same.
fn content(length: usize, state: &mut u64) -> Vec<u8> {
    let mut next = || {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    };
    let mut bytes = Vec::with_capacity(length + 16);
    while bytes.len() < length {
        let random = next();
        let word = random % WORDS;
        bytes.extend(word.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        bytes.extend(&word.wrapping_mul(0x85EB_CA77).to_le_bytes()[..4]);
        bytes.extend(&random.to_be_bytes()[..4]);
    }
    bytes.truncate(length);
    bytes
}

impl Made {
    /// Writes it as a `docker load` archive below `folder`.
    ///
    /// # Errors
    /// When the disk or `tar` fails.
    pub fn write(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        let folder = folder.join(self.repository.replace('/', "-"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let shown = folder.display().to_string();
        let (mut parts, mut diff_ids) = (Vec::new(), Vec::new());
        let mut state = 0x2545_F491_4F6C_DD1D;
        for (number, files) in self.layers.iter().enumerate() {
            let (root, archive) = (folder.join(format!("l{number}")), format!("l{number}.tar"));
            let sizes = files
                .iter()
                .flat_map(|(count, size)| std::iter::repeat_n(*size, *count));
            for (index, size) in sizes.enumerate() {
                let place = root.join(format!("usr/share/part{number}/d{}", index % 50));
                fs::create_dir_all(&place).context("cannot make a folder of an image")?;
                fs::write(place.join(format!("f{index}")), content(size, &mut state))
                    .context("cannot write a file of an image")?;
            }
            let path = folder.join(&archive).display().to_string();
            let root = root.display().to_string();
            tool(
                "tar",
                &[
                    "--sort=name",
                    "--mtime=@0",
                    "--owner=0",
                    "--group=0",
                    "--numeric-owner",
                    "-C",
                    &root,
                    "-cf",
                    &path,
                    "usr",
                ],
            )?;
            diff_ids.push(Digest::of(&fs::read(&path).context("cannot read a layer")?).to_string());
            fs::remove_dir_all(&root).context("cannot remove a layer's files")?;
            parts.push(archive);
        }
        let config = json!({
            "architecture": Platform::host().architecture, "os": "linux", "config": { "Cmd": ["true"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let manifest = json!([{ "Config": "config.json", "RepoTags": [name], "Layers": parts }]);
        fs::write(folder.join("config.json"), config.to_string()).context("cannot write a configuration")?;
        fs::write(folder.join("manifest.json"), manifest.to_string()).context("cannot write a manifest")?;
        let archive = folder.with_extension("tar");
        let path = archive.display().to_string();
        let mut arguments = vec!["-C", &shown, "-cf", &path, "manifest.json", "config.json"];
        arguments.extend(parts.iter().map(String::as_str));
        tool("tar", &arguments)?;
        fs::remove_dir_all(&folder).context("cannot remove what went into an archive")?;
        Ok(archive)
    }
}

/// Makes a command line of a contestant's client.
type MakeCommand<'a> = Box<dyn Fn(&[&str]) -> Command + 'a>;

/// An engine.
pub struct Contestant<'a> {
    /// Its name in the report.
    pub name: &'static str,
    command: MakeCommand<'a>,
}

impl Contestant<'_> {
    /// Runs a command that must succeed; its trimmed output.
    ///
    /// # Errors
    /// When it fails.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        process::run((self.command)(arguments))?.ok()
    }

    /// Seconds of a command, with all that was written before on the disk, so that nobody pays for another one's writes.
    ///
    /// # Errors
    /// When it fails.
    pub fn timed(&self, arguments: &[&str]) -> Result<f64> {
        rustix::fs::sync();
        Ok(timed((self.command)(arguments))?.as_secs_f64())
    }
}

/// The hosts of a figure.
pub struct Scene {
    /// The fleet.
    pub fleet: Fleet,
    engines: Vec<docker::Engine>,
}

impl Scene {
    /// Starts the hosts and, unless `--no-docker` is given or there is none, a Docker engine.
    ///
    /// # Errors
    /// When something does not start.
    pub fn new(report: &mut Report, arguments: &[String]) -> Result<Self> {
        let fleet = Fleet::new(KEEPER)?;
        fleet.host(KEEPER).stop()?;
        let ours = fleet.host(OURS);
        ours.stop()?;
        ours.start_flagged(&["--insecure-registry", &format!("{}.0/24", wire::SUBNET)])?;
        let version = docker::installed().filter(|_| !crate::option(arguments, "--no-docker"));
        report.condition("docker", json!(version));
        let engines = match version {
            Some(_) => docker::start_empty(&fleet, 1)?,
            None => Vec::new(),
        };
        Ok(Self { fleet, engines })
    }

    /// `host:port` of the registry.
    pub fn address(&self) -> String {
        format!("{}:5000", self.fleet.host(KEEPER).address())
    }

    /// A fresh registry; its content goes with [`Scene::forget`].
    ///
    /// # Errors
    /// When it does not start.
    pub fn registry(&self, name: &str) -> Result<Registry> {
        let host = self.fleet.host(KEEPER);
        let settings = Settings {
            address: self.address(),
            ..Settings::default()
        };
        Registry::start(host, name, &settings)
    }

    /// Ends a registry and removes what it has.
    ///
    /// # Errors
    /// When its folder can't be removed.
    pub fn forget(&self, registry: Registry, name: &str) -> Result<()> {
        drop(registry);
        let folder = self.fleet.host(KEEPER).folder().join(name);
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))
    }

    /// Who competes: we, then Docker if it is there.
    pub fn contestants(&self) -> Vec<Contestant<'_>> {
        let ours = Contestant {
            name: "pontoon",
            command: Box::new(|arguments| self.fleet.host(OURS).command(arguments)),
        };
        let theirs = self.engines.iter().map(|engine| Contestant {
            name: "docker",
            command: Box::new(move |arguments| engine.command(arguments)),
        });
        std::iter::once(ours).chain(theirs).collect()
    }
}

/// Adds the samples of both and how many times as fast we are; `at_least` is the budget for that.
pub fn compare(
    report: &mut Report,
    what: &str,
    all: &[(&'static str, Samples)],
    at_least: Option<f64>,
) -> String {
    let mut words = Vec::new();
    for (name, samples) in all {
        report.samples(&format!("{name} {what}"), "s", samples);
        words.push(format!("{name} {} s", round(samples.median())));
    }
    if let [(_, ours), (_, theirs)] = all
        && ours.median() > 0.0
    {
        let ratio = theirs.median() / ours.median();
        report.result(&format!("{what}: docker's time / pontoon's"), json!(round(ratio)));
        words.push(format!("{}x as fast", round(ratio)));
        if let Some(limit) = at_least {
            let what = format!("{what}: docker's time / pontoon's");
            report.budget(budget(&what, limit, ratio, false));
        }
    }
    let said = format!("{what}: {}", words.join(", "));
    progress(&said);
    said
}

/// All contestants must have the same image by a name.
///
/// # Errors
/// When they differ, or one has none.
pub fn same(contestants: &[Contestant<'_>], name: &str) -> Result<()> {
    let mut ids = Vec::new();
    for contestant in contestants {
        let id = contestant.ok(&["image", "inspect", "--format", "{{.Id}}", name])?;
        ensure!(
            id.starts_with("sha256:"),
            "{} has no {name}: {id}",
            contestant.name
        );
        ids.push(id);
    }
    ids.dedup();
    ensure!(ids.len() == 1, "{name} is not the same image everywhere: {ids:?}");
    Ok(())
}
