//! One layer of this machine's files unpacked: by Pontoon's unpacker (digest of the plain stream included), beside the decompressor
//! alone (Pontoon's own and the machine's program, output thrown away) and `tar` with that program. gzip and zstd, all in turn within
//! one run, each in a process of its own. In memory, unless asked otherwise: what a disk's file system takes to make files is the same
//! for all, and hides what is compared. Also what the three steps take that no unpacker is without (decompressor, SHA-256, making the
//! files), spread over this machine's processors without a gap: faster than that nobody can be here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use pontoon_image::Limits;
use pontoon_tests::process::tool;
use serde_json::json;

use crate::report::{Report, Samples, budget, progress, round};
use crate::timing::{Contestant, compete};

/// Run in a process of its own: what the figure times.
pub const UNPACK: &str = "--unpack-layer";
/// The same for the decompressor alone.
pub const DECOMPRESS: &str = "--decompress-layer";
/// The same for the digest of a plain layer.
pub const DIGEST: &str = "--digest-layer";
/// Unpack to the temporary folder's file system instead of memory.
const DISK: &str = "--disk";
/// Two of the steps, by their names in the report.
const SHA256: &str = "pontoon digest of the plain layer";
const FILES: &str = "tar of the plain layer";
/// Where the layer's files come from.
const SOURCES: [&str; 3] = ["/usr/lib", "/usr/bin", "/usr/share"];

/// The timed process.
///
/// # Errors
/// The layer's.
pub fn step(arguments: &[String]) -> Result<()> {
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [UNPACK, layer, folder] => {
            pontoon_image::unpack_layer(Path::new(layer), Path::new(folder), &Limits::default())?;
        }
        [DECOMPRESS, layer] => {
            pontoon_image::decompress_layer(Path::new(layer))?;
        }
        [DIGEST, layer] => {
            pontoon_image::digest_layer(Path::new(layer))?;
        }
        _ => bail!("usage: {UNPACK} LAYER FOLDER, {DECOMPRESS} LAYER or {DIGEST} LAYER"),
    }
    Ok(())
}

/// A layer in one compression.
struct Layer {
    name: &'static str,
    path: PathBuf,
    packed: u64,
}

/// Where the layers are, and what is unpacked of them; goes in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(on_disk: bool) -> Result<Self> {
        let memory = PathBuf::from("/dev/shm");
        let parent = if on_disk || !memory.is_dir() {
            std::env::temp_dir()
        } else {
            memory
        };
        let path = parent.join(format!("pontoon-unpack-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

/// Runs the figure.
///
/// # Errors
/// When a contestant fails.
pub fn run(arguments: &[String]) -> Result<Report> {
    crate::check(arguments, 2, &[DISK])?;
    let rounds = crate::number(arguments, 0, 10)?;
    let megabytes = crate::number(arguments, 1, 200)?;
    let mut report = Report::start()?;
    let folder = Folder::new(crate::option(arguments, DISK))?;
    let kind = pontoon_image::backing_filesystem(&folder.0);
    report.condition("file_system", json!(kind));
    let (plain, files) = collect(&folder.0, megabytes)?;
    let layers = [
        pack(&plain, "gzip", &["gzip", "-6", "--keep", "--stdout"])?,
        pack(&plain, "zstd", &["zstd", "-3", "--quiet", "--stdout"])?,
    ];
    let bytes = fs::metadata(&plain)?.len();
    report.condition("layer_bytes", json!(bytes));
    report.condition("layer_files", json!(files));
    for layer in &layers {
        report.condition(&format!("{}_bytes", layer.name), json!(layer.packed));
        let version = crate::report::first_line(layer.name, &["--version"]);
        report.condition(layer.name, json!(version));
    }
    check_unpacked(&folder.0, &layers)?;
    let out = folder.0.join("out");
    let mut contestants: Vec<Contestant<'_>> =
        layers.iter().flat_map(|layer| contestants(layer, &out)).collect();
    contestants.extend(steps(&plain, &out));
    let all = compete(&contestants, rounds)?;
    judge(&mut report, &contestants, &all, bytes);
    Ok(report)
}

/// Tars files of this machine, in the order of their names, until they are enough. Gives how many there are.
fn collect(folder: &Path, megabytes: usize) -> Result<(PathBuf, usize)> {
    let wanted = u64::try_from(megabytes)? << 20;
    let (mut bytes, mut names) = (0, Vec::new());
    // A third from each, so that programs, libraries and small texts are among them.
    for (share, source) in SOURCES.iter().enumerate() {
        let limit = wanted * (share as u64 + 1) / SOURCES.len() as u64;
        let listed = tool(
            "find",
            &[
                source, "-xdev", "-type", "f", "-size", "-8M", "-printf", "%s %P\n",
            ],
        )?;
        let mut listed: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once(' ')).collect();
        listed.sort_unstable_by_key(|(_, name)| *name);
        for (size, name) in listed {
            if bytes >= limit {
                break;
            }
            bytes += size.parse::<u64>().unwrap_or(0);
            names.push(format!("{}/{name}", source.trim_start_matches('/')));
        }
    }
    progress(&format!("a layer of {} files, {} MB", names.len(), bytes >> 20));
    let (list, plain) = (folder.join("list"), folder.join("layer.tar"));
    fs::write(&list, names.join("\n")).context("cannot write the list")?;
    let paths = [&plain, &list].map(|path| path.display().to_string());
    tool(
        "tar",
        &[
            "--create",
            "--directory",
            "/",
            "--file",
            &paths[0],
            "--files-from",
            &paths[1],
        ],
    )?;
    Ok((plain, names.len()))
}

fn pack(plain: &Path, name: &'static str, command: &[&str]) -> Result<Layer> {
    let path = plain.with_extension(format!("tar.{name}"));
    let output = fs::File::create(&path).context("cannot make the layer")?;
    let status = Command::new(command[0])
        .args(&command[1..])
        .arg(plain)
        .stdout(output)
        .status();
    let status = status.with_context(|| format!("cannot run {name}"))?;
    ensure!(status.success(), "{name} ended with {status}");
    let packed = fs::metadata(&path)?.len();
    Ok(Layer { name, path, packed })
}

/// What is timed does the same: every file is there, equal.
fn check_unpacked(folder: &Path, layers: &[Layer]) -> Result<()> {
    for layer in layers {
        let (ours, theirs) = (folder.join("ours"), folder.join("theirs"));
        let (digest, _) = pontoon_image::unpack_layer(&layer.path, &ours, &Limits::default())?;
        let sum = tool("sha256sum", &[&folder.join("layer.tar").display().to_string()])?;
        ensure!(
            sum.starts_with(&digest.hex()),
            "the digest is {digest}, not {sum}"
        );
        fs::create_dir_all(&theirs)?;
        let paths = [&layer.path, &theirs].map(|path| path.display().to_string());
        tool(
            "tar",
            &["--extract", "--file", &paths[0], "--directory", &paths[1]],
        )?;
        tool(
            "diff",
            &[
                "--recursive",
                "--no-dereference",
                &ours.display().to_string(),
                &paths[1],
            ],
        )?;
        fs::remove_dir_all(&ours)?;
        fs::remove_dir_all(&theirs)?;
    }
    Ok(())
}

/// A step of this program, in a process of its own.
fn this() -> Command {
    Command::new("/proc/self/exe")
}

/// Makes the folder that is unpacked into anew, before each turn, which is not timed.
fn fresh(out: &Path) {
    fs::remove_dir_all(out).ok();
    fs::create_dir_all(out).ok();
}

/// The steps that both layers need besides the decompressor, one process and one processor each.
fn steps<'a>(plain: &'a Path, out: &'a Path) -> [Contestant<'a>; 2] {
    [
        Contestant::new(SHA256, move |_| {
            let mut command = this();
            command.arg(DIGEST).arg(plain);
            command
        }),
        Contestant::new(FILES, move |_| {
            fresh(out);
            let mut command = Command::new("tar");
            command.arg("--extract").arg("--file").arg(plain);
            command.arg("--directory").arg(out);
            command
        }),
    ]
}

fn contestants<'a>(layer: &'a Layer, out: &'a Path) -> Vec<Contestant<'a>> {
    vec![
        Contestant::new(&format!("pontoon unpack {}", layer.name), move |_| {
            fresh(out);
            let mut command = this();
            command.arg(UNPACK).arg(&layer.path).arg(out);
            command
        }),
        Contestant::new(&format!("pontoon decompress {}", layer.name), move |_| {
            let mut command = this();
            command.arg(DECOMPRESS).arg(&layer.path);
            command
        }),
        Contestant::new(&format!("{} -dc", layer.name), move |_| {
            let mut command = Command::new(layer.name);
            command.arg("-dcq").arg(&layer.path);
            command
        }),
        Contestant::new(&format!("tar with {}", layer.name), move |_| {
            fresh(out);
            let mut command = Command::new("tar");
            command.arg(format!("--{}", layer.name)).arg("--extract");
            command.arg("--file").arg(&layer.path).arg("--directory").arg(out);
            command
        }),
    ]
}

fn judge(report: &mut Report, contestants: &[Contestant<'_>], all: &[Samples], bytes: u64) {
    let mut speeds = Vec::new();
    for (contestant, samples) in contestants.iter().zip(all) {
        report.samples(&contestant.name, "ms", samples);
        let speed = bytes as f64 / 1e3 / samples.median();
        report.result(&format!("{} MB/s", contestant.name), json!(round(speed)));
        speeds.push((contestant.name.clone(), speed));
    }
    let of = |name: &str| {
        speeds
            .iter()
            .find(|(other, _)| other == name)
            .map_or(0.0, |(_, speed)| *speed)
    };
    let mut lines = Vec::new();
    for name in ["gzip", "zstd"] {
        let ours = of(&format!("pontoon unpack {name}"));
        let own = ours / of(&format!("pontoon decompress {name}"));
        let program = ours / of(&format!("{name} -dc"));
        let tar = ours / of(&format!("tar with {name}"));
        report.budget(budget(
            &format!("unpack {name} / decompressor's own speed"),
            0.9,
            own,
            false,
        ));
        let bound = ours / bound([of(&format!("pontoon decompress {name}")), of(SHA256), of(FILES)]);
        report.result(
            &format!("{name}: unpack / what these processors can do at best"),
            json!(round(bound)),
        );
        report.result(&format!("{name}: unpack / program -dc"), json!(round(program)));
        report.result(&format!("{name}: unpack / tar"), json!(round(tar)));
        lines.push(format!(
            "{name} {} MB/s: {} of our decompressor, {} of these processors' best, {} of {name} -dc, {} of tar",
            round(ours),
            round(own),
            round(bound),
            round(program),
            round(tar)
        ));
    }
    report.summary(lines.join("; "));
}

/// The best speed of steps of these speeds that share this machine's processors: none is idle, and the decompressor, which comes
/// first, is one thread.
fn bound(steps: [f64; 3]) -> f64 {
    let together: f64 = steps.iter().map(|speed| 1.0 / speed).sum();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors as f64 / together).min(steps[0])
}
