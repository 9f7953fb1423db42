//! `pontoon volume …`: this host's volumes. What Docker has for cluster volumes (CSI) is refused by name.

use clap::{Args, Subcommand};
use pontoon_proto::v1::{
    CreateVolumeRequest, FilterValues, ListVolumesRequest, PruneRequest, RemoveVolumeRequest, Volume,
};
use serde_json::{Value, json};

use super::container::config::label;
use super::filters;
use super::system::prune::is_confirmed;
use crate::client::Client;
use crate::error::{Failure, Outcome, for_each_target};
use crate::output::listing::{self, Column};

/// `pontoon volume …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a volume
    Create(Box<CreateArguments>),
    /// Display detailed information on one or more volumes
    Inspect(InspectArguments),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ListArguments),
    /// Remove unused local volumes
    Prune(PruneArguments),
    /// Remove one or more volumes. You cannot remove a volume that is in use by a container.
    #[command(visible_alias = "remove")]
    Rm(RemoveArguments),
    /// Update a volume (cluster volumes only)
    Update(UpdateArguments),
}

/// `volume create [OPTIONS] [VOLUME]`
#[derive(Args, Debug)]
pub struct CreateArguments {
    /// Cluster Volume availability ("active", "pause", "drain")
    #[arg(long, value_name = "string", default_value = "active")]
    availability: String,
    /// Specify volume driver name
    #[arg(short = 'd', long, value_name = "string", default_value = "local")]
    driver: String,
    /// Cluster Volume group (cluster volumes)
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    group: String,
    /// Set metadata for a volume
    #[arg(long, value_name = "list")]
    label: Vec<String>,
    /// Minimum size of the Cluster Volume in bytes
    #[arg(long, value_name = "bytes")]
    limit_bytes: Option<String>,
    /// Its name, as it was given once
    #[arg(long, value_name = "string", hide = true)]
    name: Option<String>,
    /// Set driver specific options
    #[arg(short = 'o', long = "opt", value_name = "map")]
    options: Vec<String>,
    /// Maximum size of the Cluster Volume in bytes
    #[arg(long, value_name = "bytes")]
    required_bytes: Option<String>,
    /// Cluster Volume access scope ("single", "multi")
    #[arg(long, value_name = "string", default_value = "single")]
    scope: String,
    /// Cluster Volume secrets
    #[arg(long, value_name = "map")]
    secret: Vec<String>,
    /// Cluster Volume access sharing ("none", "readonly", "onewriter", "all")
    #[arg(long, value_name = "string", default_value = "none")]
    sharing: String,
    /// A topology that the Cluster Volume would be preferred in
    #[arg(long, value_name = "list")]
    topology_preferred: Vec<String>,
    /// A topology that the Cluster Volume must be accessible from
    #[arg(long, value_name = "list")]
    topology_required: Vec<String>,
    /// Cluster Volume access type ("mount", "block")
    #[arg(long, value_name = "string", default_value = "block")]
    r#type: String,
    /// Its name; made up when there is none
    #[arg(value_name = "VOLUME")]
    volume: Option<String>,
}

/// `volume inspect [OPTIONS] VOLUME [VOLUME...]`
#[derive(Args, Debug)]
pub struct InspectArguments {
    /// Format output using a custom template: 'json' or TEMPLATE
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
    /// Volumes, by name
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// `volume ls [OPTIONS]`
#[derive(Args, Debug)]
pub struct ListArguments {
    /// Display only cluster volumes, and use cluster volume list formatting
    #[arg(long)]
    cluster: bool,
    /// Provide filter values (e.g. "dangling=true")
    #[arg(short = 'f', long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Only display volume names
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// `volume prune [OPTIONS]`
#[derive(Args, Debug)]
pub struct PruneArguments {
    /// Remove all unused volumes, not just anonymous ones
    #[arg(short = 'a', long)]
    all: bool,
    /// Provide filter values (e.g. "label=<label>")
    #[arg(long, value_name = "filter")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short = 'f', long)]
    force: bool,
}

/// `volume rm [OPTIONS] VOLUME [VOLUME...]`
#[derive(Args, Debug)]
pub struct RemoveArguments {
    /// Force the removal of one or more volumes
    #[arg(short = 'f', long)]
    force: bool,
    /// Volumes, by name
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// `volume update [OPTIONS] VOLUME`
#[derive(Args, Debug)]
pub struct UpdateArguments {
    /// Cluster Volume availability ("active", "pause", "drain")
    #[arg(long, value_name = "string", default_value = "active")]
    availability: String,
    /// The volume
    #[arg(value_name = "VOLUME")]
    volume: String,
}

/// Runs a `volume` command.
///
/// # Errors
/// The daemon's.
pub async fn dispatch(host: Option<&str>, command: Command) -> Outcome {
    match command {
        Command::Create(arguments) => create(host, *arguments).await,
        Command::Inspect(arguments) => {
            let arguments = super::inspect::KindArguments {
                format: arguments.format,
                names: arguments.volumes,
            };
            super::inspect::one_kind(host, super::inspect::Kind::Volume, arguments).await
        }
        Command::Ls(arguments) => list(host, arguments).await,
        Command::Prune(arguments) => prune(host, arguments).await,
        Command::Rm(arguments) => remove(host, arguments).await,
        Command::Update(arguments) => Err(Failure::new(format!(
            "volume {} can't be updated to {:?}: only cluster volumes can, and they are not supported",
            arguments.volume, arguments.availability
        ))),
    }
}

/// Cluster volumes need CSI plugins: what is only for them is not taken as if it meant something.
fn refuse_cluster(arguments: &CreateArguments) -> Result<(), Failure> {
    for (name, given) in [
        ("availability", arguments.availability != "active"),
        ("group", !arguments.group.is_empty()),
        ("limit-bytes", arguments.limit_bytes.is_some()),
        ("required-bytes", arguments.required_bytes.is_some()),
        ("scope", arguments.scope != "single"),
        ("secret", !arguments.secret.is_empty()),
        ("sharing", arguments.sharing != "none"),
        ("topology-preferred", !arguments.topology_preferred.is_empty()),
        ("topology-required", !arguments.topology_required.is_empty()),
        ("type", arguments.r#type != "block"),
    ] {
        if given {
            return Err(Failure::new(format!(
                "--{name} is for cluster volumes, which are not supported"
            )));
        }
    }
    Ok(())
}

async fn create(host: Option<&str>, arguments: CreateArguments) -> Outcome {
    refuse_cluster(&arguments)?;
    if arguments.name.is_some() && arguments.volume.is_some() {
        return Err(Failure::new(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg",
        ));
    }
    let request = CreateVolumeRequest {
        name: arguments.volume.or(arguments.name).unwrap_or_default(),
        driver: arguments.driver,
        // As labels: Docker takes an option without a value.
        options: arguments.options.iter().map(|text| label(text)).collect(),
        labels: arguments.label.iter().map(|text| label(text)).collect(),
    };
    let created = Client::connect(host)
        .await?
        .engine()
        .create_volume(request)
        .await?;
    listing::write(&format!("{}\n", created.into_inner().name));
    Ok(0)
}

const COLUMNS: &[Column] = &[("DRIVER", "Driver"), ("VOLUME NAME", "Name")];
const HEADINGS: &[Column] = &[
    ("SCOPE", "Scope"),
    ("MOUNTPOINT", "Mountpoint"),
    ("LABELS", "Labels"),
    ("LINKS", "Links"),
    ("SIZE", "Size"),
    ("AVAILABILITY", "Availability"),
    ("GROUP", "Group"),
    ("STATUS", "Status"),
];

async fn list(host: Option<&str>, arguments: ListArguments) -> Outcome {
    if arguments.cluster {
        return Err(Failure::new("--cluster: cluster volumes are not supported"));
    }
    let request = ListVolumesRequest {
        filters: filters(&arguments.filter)?,
    };
    let listed = Client::connect(host)
        .await?
        .engine()
        .list_volumes(request)
        .await?
        .into_inner();
    for warning in &listed.warnings {
        eprintln!("WARNING: {warning}");
    }
    let mut volumes = listed.volumes;
    volumes.sort_by(|a, b| natural(&a.name, &b.name));
    let rows: Vec<Value> = volumes.iter().map(row).collect();
    let quiet = arguments.quiet.then_some("{{.Name}}");
    let format = match arguments.format.as_deref() {
        // Docker: `-q` counts with the default table only.
        None | Some("" | "table") if arguments.quiet => quiet,
        format => format,
    };
    listing::print(format, COLUMNS, HEADINGS, &rows)?;
    Ok(0)
}

fn row(volume: &Volume) -> Value {
    let mut labels: Vec<String> = volume
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    labels.sort();
    json!({
        "Name": volume.name, "Driver": volume.driver, "Scope": volume.scope, "Mountpoint": volume.mountpoint,
        "Labels": labels.join(","), "Links": "N/A", "Size": "N/A", "Availability": "N/A", "Group": "N/A",
        "Status": "N/A",
    })
}

/// Docker's order: numbers in names by their value.
fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let chunks = |text: &str| {
        let mut chunks: Vec<(bool, String)> = Vec::new();
        for c in text.chars() {
            let digit = c.is_ascii_digit();
            match chunks.last_mut() {
                Some((kind, chunk)) if *kind == digit => chunk.push(c),
                _ => chunks.push((digit, c.to_string())),
            }
        }
        chunks
    };
    for ((a_digits, a), (b_digits, b)) in chunks(a).iter().zip(&chunks(b)) {
        let order = if *a_digits && *b_digits {
            let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
            a.len().cmp(&b.len()).then_with(|| a.cmp(b))
        } else {
            a.cmp(b)
        };
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

async fn remove(host: Option<&str>, arguments: RemoveArguments) -> Outcome {
    let client = Client::connect(host).await?;
    for_each_target(&arguments.volumes, |name| {
        let client = client.clone();
        let force = arguments.force;
        async move {
            let request = RemoveVolumeRequest {
                name: name.clone(),
                force,
            };
            client.engine().remove_volume(request).await?;
            Ok(name)
        }
    })
    .await
}

async fn prune(host: Option<&str>, arguments: PruneArguments) -> Outcome {
    let mut filters = filters(&arguments.filter)?;
    let mut what = "anonymous local volumes";
    if arguments.all {
        if filters.contains_key("all") {
            return Err(Failure::new(
                "conflicting options: cannot specify both --all and --filter all=1",
            ));
        }
        what = "all local volumes";
        let yes = vec!["true".to_owned()];
        filters.insert("all".to_owned(), FilterValues { values: yes });
    }
    let warning = format!("WARNING! This will remove {what} not used by at least one container.");
    if !arguments.force && !is_confirmed(&warning) {
        return Ok(0);
    }
    let request = PruneRequest { filters };
    let pruned = Client::connect(host)
        .await?
        .engine()
        .prune_volumes(request)
        .await?
        .into_inner();
    crate::command::system::prune::tell("Deleted Volumes:", &pruned);
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::natural;

    #[test]
    fn names_sort_as_people_count() {
        let mut names = ["v10", "v9", "a", "v", "v09", "b2c10", "b2c9"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a", "b2c9", "b2c10", "v", "v9", "v09", "v10"]);
    }
}
