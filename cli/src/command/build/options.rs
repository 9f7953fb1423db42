//! The flags of `build`: those of `docker build` and `docker buildx build` that a builder without other builders can honour.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use clap::{ArgAction, Args};
use pontoon_build::dockerfile::{Dockerfile, Instruction};
use pontoon_image::Reference;
use pontoon_proto::v1::{BuildOption, BuildSecret, BuildStart, RegistryAuth, Ulimit};

use super::context::{Named, Source};
use super::refused::Refused;
use super::{annotations, caches, lists, ssh};
use crate::command::container::options::values::{integer, memory_swap, ulimit, unsigned};
use crate::error::Failure;
use crate::output::human::parse_size;

/// `build [OPTIONS] PATH | URL | -`
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    refused: Refused,
    /// Add a custom host-to-IP mapping (format: "host:ip")
    #[arg(long, value_name = "strings")]
    add_host: Vec<String>,
    /// Allow extra privileged entitlement (e.g., "network.host", "security.insecure")
    #[arg(long, value_name = "stringArray")]
    allow: Vec<String>,
    /// Add annotation to the image
    #[arg(long, value_name = "stringArray")]
    annotation: Vec<String>,
    /// Set build-time variables
    #[arg(long, value_name = "stringArray")]
    build_arg: Vec<String>,
    /// Additional build contexts (e.g., name=path)
    #[arg(long, value_name = "stringArray")]
    pub build_context: Vec<String>,
    /// External cache sources (e.g., "user/app:cache", "type=local,src=path/to/dir")
    #[arg(long, value_name = "stringArray")]
    cache_from: Vec<String>,
    /// Cache export destinations (e.g., "user/app:cache", "type=local,dest=path/to/dir")
    #[arg(long, value_name = "stringArray")]
    cache_to: Vec<String>,
    /// Set the parent cgroup for the "RUN" instructions during build
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    cgroup_parent: String,
    /// Compress the build context using gzip
    #[arg(long)]
    pub compress: bool,
    /// Limit the CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "int", value_parser = integer, default_value = "0", hide_default_value = true)]
    cpu_period: i64,
    /// Limit the CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "int", value_parser = integer, default_value = "0", hide_default_value = true)]
    cpu_quota: i64,
    /// CPU shares (relative weight)
    #[arg(short = 'c', long, value_name = "int", value_parser = unsigned, default_value = "0", hide_default_value = true)]
    cpu_shares: u64,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    cpuset_cpus: String,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    cpuset_mems: String,
    /// Name of the Dockerfile (default: "PATH/Dockerfile")
    #[arg(short = 'f', long, value_name = "string")]
    pub file: Option<String>,
    /// Always remove intermediate containers
    #[arg(long)]
    force_rm: bool,
    /// Write the image ID to a file
    #[arg(long, value_name = "string")]
    pub iidfile: Option<PathBuf>,
    /// Set metadata for an image
    #[arg(long, value_name = "stringArray")]
    label: Vec<String>,
    /// Shorthand for "--output=type=docker"
    #[arg(long)]
    pub load: bool,
    /// Memory limit
    #[arg(short = 'm', long, value_name = "bytes", value_parser = parse_size, default_value = "0", hide_default_value = true)]
    memory: i64,
    /// Swap limit equal to memory plus swap: -1 to enable unlimited swap
    #[arg(long, value_name = "bytes", value_parser = memory_swap, default_value = "0", hide_default_value = true)]
    memory_swap: i64,
    /// Write build result metadata to a file
    #[arg(long, value_name = "string")]
    pub metadata_file: Option<PathBuf>,
    /// Set the networking mode for the "RUN" instructions during build
    #[arg(long, value_name = "string", default_value = "default")]
    network: String,
    /// Do not use cache when building the image
    #[arg(long)]
    no_cache: bool,
    /// Do not cache specified stages
    #[arg(long, value_name = "stringArray")]
    no_cache_filter: Vec<String>,
    /// Output destination (format: "type=local,dest=path")
    #[arg(short = 'o', long, value_name = "stringArray")]
    pub output: Vec<String>,
    /// Set target platform for build
    #[arg(long, value_name = "stringArray")]
    platform: Vec<String>,
    /// Set type of progress output ("auto", "quiet", "plain", "tty", "rawjson"). Use plain to show container output
    #[arg(long, value_name = "string", default_value = "auto")]
    pub progress: String,
    /// Always attempt to pull all referenced images
    #[arg(long)]
    pull: bool,
    /// Shorthand for "--output=type=registry"
    #[arg(long)]
    pub push: bool,
    /// Suppress the build output and print image ID on success
    #[arg(short = 'q', long)]
    pub quiet: bool,
    /// Remove intermediate containers after a successful build
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true")]
    rm: bool,
    /// Secret to expose to the build (format: "id=mysecret[,src=/local/secret]")
    #[arg(long, value_name = "stringArray")]
    secret: Vec<String>,
    /// Shared memory size for build containers
    #[arg(long, value_name = "bytes", value_parser = parse_size, default_value = "0", hide_default_value = true)]
    shm_size: i64,
    /// SSH agent socket or keys to expose to the build (format: "default|<id>[=<socket>]")
    #[arg(long, value_name = "stringArray")]
    ssh: Vec<String>,
    /// Name and optionally a tag (format: "name:tag")
    #[arg(short = 't', long, value_name = "stringArray")]
    pub tag: Vec<String>,
    /// Set the target build stage to build
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    target: String,
    /// Ulimit options
    #[arg(long, value_name = "ulimit", value_parser = ulimit)]
    ulimit: Vec<Ulimit>,
    /// Where the files are
    #[arg(value_name = "PATH | URL | -")]
    pub context: String,
}

impl Arguments {
    /// The request that starts the build.
    pub fn start(
        &self,
        source: &Source,
        contexts: &HashMap<String, Named>,
        outputs: Vec<BuildOption>,
        cache_from: Vec<BuildOption>,
        agents: Vec<String>,
    ) -> Result<BuildStart, Failure> {
        if !self.rm {
            return Err(Failure::new(
                "ERROR: --rm=false: this builder has no intermediate containers to keep",
            ));
        }
        self.refused.check()?;
        // Nothing is left of a step in any case.
        let _ = self.force_rm;
        let platform = match self.platform.as_slice() {
            [] => String::new(),
            [one] if !one.contains(',') => one.clone(),
            _ => {
                return Err(Failure::new(
                    "ERROR: Multi-platform build is not supported by this builder: build one image for each platform",
                ));
            }
        };
        let mut build_args = pairs(&self.build_arg);
        // As buildx: reproducible builds need no flag.
        if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
            build_args.entry("SOURCE_DATE_EPOCH".into()).or_insert(epoch);
        }
        let named = contexts
            .iter()
            .map(|(name, context)| (name.clone(), context.said()));
        let cache_to = self.cache_targets()?;
        let caches = cache_from.iter().chain(&cache_to);
        let caches = caches.filter_map(|cache| cache.attributes.get("ref"));
        let names = self.tag.iter().chain(caches).cloned().collect();
        Ok(BuildStart {
            dockerfile: source.dockerfile().to_vec().into(),
            dockerfile_name: source.dockerfile_name().to_owned(),
            target: self.target.clone(),
            tags: self.tag.clone(),
            build_args,
            labels: labels(&self.label),
            platform,
            no_cache: self.no_cache,
            no_cache_filter: split(&self.no_cache_filter),
            contexts: named.collect(),
            network: self.network.clone(),
            secrets: self
                .secret
                .iter()
                .map(|text| secret(text))
                .collect::<Result<_, _>>()?,
            ssh: agents,
            cache_from,
            cache_to,
            outputs,
            hosts: self
                .add_host
                .iter()
                .map(|host| host.replacen('=', ":", 1))
                .collect(),
            shm_size: self.shm_size,
            ulimits: self.ulimit.clone(),
            cgroup_parent: self.cgroup_parent.clone(),
            memory: self.memory,
            memory_swap: self.memory_swap,
            cpu_shares: self.cpu_shares,
            cpu_period: self.cpu_period,
            cpu_quota: self.cpu_quota,
            cpuset_cpus: self.cpuset_cpus.clone(),
            cpuset_mems: self.cpuset_mems.clone(),
            allow: split(&self.allow),
            pull: self.pull,
            annotations: annotations::parse(&self.annotation)?,
            no_context: source.folder().is_none(),
            registry_auth: credentials(source, contexts, names),
        })
    }

    /// `--cache-from`.
    pub fn cache_sources(&self) -> Result<caches::Sources, Failure> {
        caches::sources(&self.cache_from)
    }

    /// `--cache-to`.
    pub fn cache_targets(&self) -> Result<Vec<BuildOption>, Failure> {
        caches::targets(&self.cache_to)
    }

    /// SSH agents by id.
    pub fn agents(&self) -> Result<Vec<(String, ssh::Lent)>, Failure> {
        self.ssh.iter().map(|text| ssh::agent(text)).collect()
    }
}

/// What the user has for the registries that the Dockerfile and `names` name. A helper that fails says so when it matters: the
/// registry will refuse.
fn credentials(
    source: &Source,
    contexts: &HashMap<String, Named>,
    mut names: Vec<String>,
) -> HashMap<String, RegistryAuth> {
    names.extend(
        contexts
            .values()
            .filter_map(|context| context.said().strip_prefix("docker-image://").map(str::to_owned)),
    );
    if let Ok(file) = Dockerfile::parse(&String::from_utf8_lossy(source.dockerfile())) {
        for stage in file.stages {
            names.push(stage.base);
            names.extend(stage.steps.into_iter().filter_map(|step| match step.instruction {
                Instruction::Copy(copy) => Some(copy.from),
                _ => None,
            }));
        }
    }
    let domains: BTreeSet<String> = names
        .iter()
        .filter_map(|name| Reference::parse(name).ok())
        .map(|reference| reference.domain().to_owned())
        .collect();
    let auth = |domain: String| {
        crate::credentials::for_registry(&domain)
            .ok()
            .map(|auth| (domain, auth))
    };
    domains
        .into_iter()
        .filter_map(auth)
        .filter(|(_, auth)| *auth != RegistryAuth::default())
        .collect()
}

fn split(values: &[String]) -> Vec<String> {
    let words = values.iter().flat_map(|value| value.split(','));
    words
        .map(|word| word.trim().to_owned())
        .filter(|word| !word.is_empty())
        .collect()
}

/// `NAME=value`, or `NAME` of the client's environment; one that is not set there is left out.
fn pairs(values: &[String]) -> HashMap<String, String> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => std::env::var(text).ok().map(|value| (text.clone(), value)),
    };
    values.iter().filter_map(pair).collect()
}

fn labels(values: &[String]) -> HashMap<String, String> {
    let label = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    };
    values.iter().map(label).collect()
}

/// `id=x,src=file`, `id=x,env=VAR`, `id=x`: a variable of this name, else a file.
fn secret(text: &str) -> Result<BuildSecret, Failure> {
    let (mut id, mut source, mut env, mut kind) = (String::new(), None, None, String::new());
    for (key, value) in lists::fields(text) {
        match key.as_str() {
            "type" if matches!(value.as_str(), "file" | "env") => kind = value,
            "type" => return Err(Failure::new(format!("ERROR: unsupported secret type {value:?}"))),
            "id" => id = value,
            "source" | "src" => source = Some(value),
            "env" => env = Some(value),
            "" => {
                return Err(Failure::new(format!(
                    "ERROR: invalid field '{value}' must be a key=value pair"
                )));
            }
            _ => {
                return Err(Failure::new(format!(
                    "ERROR: unexpected key '{key}' in '{key}={value}'"
                )));
            }
        }
    }
    if id.is_empty() {
        return Err(Failure::new(format!("ERROR: secret id is missing: {text}")));
    }
    if kind == "env" && env.is_none() {
        env = source.take();
    }
    let variable = env
        .clone()
        .or_else(|| (source.is_none() && kind != "file").then(|| id.clone()));
    let found = variable.as_ref().and_then(std::env::var_os);
    let data = match (found, env, source) {
        (Some(value), _, _) => value.into_encoded_bytes(),
        (None, Some(name), None) => {
            return Err(Failure::new(format!(
                "ERROR: secret {id}: environment variable {name} is not set"
            )));
        }
        (None, _, source) => {
            let path = source.unwrap_or_else(|| id.clone());
            std::fs::read(&path).map_err(|error| {
                Failure::new(format!("ERROR: failed to read secret {id}: {path}: {error}"))
            })?
        }
    };
    if data.len() > 500 << 10 {
        return Err(Failure::new(format!(
            "ERROR: invalid secret {id}: larger than 500 KB"
        )));
    }
    Ok(BuildSecret {
        id,
        data: data.into(),
    })
}
