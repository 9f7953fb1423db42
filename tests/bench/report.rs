//! Samples, ratios, the conditions under which they were taken, and how a figure is printed. Made by every figure, printed by `main`.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use pontoon_tests::programs;
use serde_json::{Map, Value, json};

/// Repeated measurements of one thing.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    values: Vec<f64>,
}

impl Samples {
    /// Adds one.
    pub fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.values.len()
    }

    /// The value below which `share` (0 to 1) of them lie, by nearest rank; 0 when there is none.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil().max(1.0) as usize;
        sorted
            .get(rank.min(sorted.len()).saturating_sub(1))
            .copied()
            .unwrap_or_default()
    }

    /// The median: of an even number the mean of the middle two.
    pub fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => 0.0,
            odd if odd % 2 == 1 => sorted[odd / 2],
            even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
        }
    }

    /// The mean.
    pub fn mean(&self) -> f64 {
        if self.values.is_empty() {
            return 0.0;
        }
        self.values.iter().sum::<f64>() / self.values.len() as f64
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    /// Everything about them as JSON.
    pub fn json(&self, unit: &str) -> Value {
        json!({
            "unit": unit,
            "n": self.count(),
            "median": round(self.median()),
            "mean": round(self.mean()),
            "min": round(self.min()),
            "max": round(self.max()),
            "p99": round(self.quantile(0.99)),
            "values": self.values.iter().copied().map(round).collect::<Vec<f64>>(),
        })
    }

    /// `median [min .. max] n` for people.
    pub fn line(&self, unit: &str) -> String {
        format!(
            "{} {unit} [{} .. {}] n={}",
            round(self.median()),
            round(self.min()),
            round(self.max()),
            self.count()
        )
    }
}

/// Four significant digits are more than any figure here holds.
pub fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let digits = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * digits).round() / digits
}

/// A budget of the design and whether this run keeps it.
pub fn budget(what: &str, limit: f64, value: f64, at_most: bool) -> Value {
    let kept = if at_most { value <= limit } else { value >= limit };
    json!({
        "what": what,
        if at_most { "at_most" } else { "at_least" }: round(limit),
        "value": round(value),
        "kept": kept,
    })
}

/// A figure's result.
#[derive(Debug)]
pub struct Report {
    conditions: Map<String, Value>,
    results: Map<String, Value>,
    budgets: Vec<Value>,
    summary: String,
}

impl Report {
    /// Starts a figure: notes the conditions before it.
    ///
    /// # Errors
    /// When there is no pontoon binary.
    pub fn start() -> Result<Self> {
        let program = programs::pontoon()?;
        let mut conditions = Map::new();
        let size = fs::metadata(&program).context("cannot look at the binary")?.len();
        conditions.insert("load_before".into(), json!(load()));
        conditions.insert("cpus".into(), json!(cpus()));
        conditions.insert("cpu".into(), json!(cpu_model()));
        conditions.insert("memory_mib".into(), json!(memory_mib()));
        conditions.insert("kernel".into(), json!(read("/proc/sys/kernel/osrelease")));
        conditions.insert("cgroups".into(), json!(cgroup_version()));
        conditions.insert(
            "time".into(),
            json!(first_line("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"])),
        );
        conditions.insert("pontoon".into(), json!(program.display().to_string()));
        conditions.insert("pontoon_bytes".into(), json!(size));
        let version = first_line(&program.display().to_string(), &["--version"]);
        conditions.insert("pontoon_version".into(), json!(version));
        let debug = program.components().any(|part| part.as_os_str() == "debug");
        if debug {
            progress("the binary is a debug build: its figures mean nothing");
        }
        conditions.insert("debug_build".into(), json!(debug));
        Ok(Self {
            conditions,
            results: Map::new(),
            budgets: Vec::new(),
            summary: String::new(),
        })
    }

    /// Notes a further condition.
    pub fn condition(&mut self, name: &str, value: Value) {
        self.conditions.insert(name.into(), value);
    }

    /// Adds a result.
    pub fn result(&mut self, name: &str, value: Value) {
        self.results.insert(name.into(), value);
    }

    /// Adds samples and tells them on standard error.
    pub fn samples(&mut self, name: &str, unit: &str, samples: &Samples) {
        progress(&format!("{name}: {}", samples.line(unit)));
        self.result(name, samples.json(unit));
    }

    /// Adds a budget's comparison.
    pub fn budget(&mut self, comparison: Value) {
        self.budgets.push(comparison);
    }

    /// Sets the last line.
    pub fn summary(&mut self, text: String) {
        self.summary = text;
    }

    /// Prints the JSON document and the summary.
    ///
    /// # Errors
    /// When it can't be written as JSON.
    pub fn print(mut self, figure: &str) -> Result<()> {
        self.condition("load_after", json!(load()));
        let document = json!({
            "figure": figure,
            "conditions": self.conditions,
            "results": self.results,
            "budgets": self.budgets,
            "summary": self.summary,
        });
        println!("{}", serde_json::to_string_pretty(&document)?);
        println!("{figure}: {}", self.summary);
        Ok(())
    }
}

/// Tells what is going on.
pub fn progress(text: &str) {
    eprintln!("bench: {text}");
}

/// The load averages of 1, 5 and 15 minutes. They count the bench itself.
pub fn load() -> Vec<f64> {
    let text = read("/proc/loadavg");
    text.split(' ')
        .take(3)
        .filter_map(|word| word.parse().ok())
        .collect()
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

fn cpu_model() -> String {
    let text = read("/proc/cpuinfo");
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split(": ").nth(1))
        .unwrap_or_default()
        .to_owned()
}

fn memory_mib() -> u64 {
    let text = read("/proc/meminfo");
    let words = text.lines().next().map(|line| line.split_whitespace());
    let kib: u64 = words
        .and_then(|mut words| words.nth(1)?.parse().ok())
        .unwrap_or_default();
    kib / 1024
}

fn cgroup_version() -> &'static str {
    if fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false) {
        "v2"
    } else {
        "v1"
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The first line of what a program says; empty when it can't be run.
pub fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output
        .ok()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .and_then(|text| text.lines().next().map(str::to_owned))
        .unwrap_or_default()
}
