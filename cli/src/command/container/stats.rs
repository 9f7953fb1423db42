//! `stats`: what containers use, as a table that is drawn anew until the user has seen enough, or once.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use pontoon_proto::v1::{ContainerStatsRequest, ContainerStatsResponse};
use serde_json::{Value, json};

use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::human;
use crate::output::listing::{self, Column};

/// Time between two drawings.
const REFRESH: Duration = Duration::from_millis(500);

/// `stats [OPTIONS] [CONTAINER...]`
#[derive(Args, Debug)]
pub struct Arguments {
    /// Show all containers (default shows just running)
    #[arg(short = 'a', long)]
    all: bool,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json' or TEMPLATE
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Disable streaming stats and only pull the first result
    #[arg(long)]
    no_stream: bool,
    /// Do not truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Containers, by name or id
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

const COLUMNS: &[Column] = &[
    ("CONTAINER ID", "ID"),
    ("NAME", "Name"),
    ("CPU %", "CPUPerc"),
    ("MEM USAGE / LIMIT", "MemUsage"),
    ("MEM %", "MemPerc"),
    ("NET I/O", "NetIO"),
    ("BLOCK I/O", "BlockIO"),
    ("PIDS", "PIDs"),
];
const OTHER_HEADINGS: &[Column] = &[("CONTAINER", "Container")];

/// Runs `stats`. Without `--no-stream` it ends when the daemon does, or by a signal.
///
/// # Errors
/// A named container that is not there, a malformed template, or the daemon's.
pub async fn run(host: Option<&str>, arguments: Arguments) -> Outcome {
    let table = Table {
        named: arguments.containers.clone(),
        all: arguments.all,
        full: arguments.no_trunc,
        format: arguments.format,
        samples: Vec::new(),
    };
    // A bad template is told before anything is asked for.
    table.render_with(&[row(&ContainerStatsResponse::default(), "", true)])?;
    let client = Client::connect(host).await?;
    let request = ContainerStatsRequest {
        targets: arguments.containers,
        all: arguments.all,
        stream: !arguments.no_stream,
    };
    let samples = client.engine().container_stats(request).await?.into_inner();
    if arguments.no_stream {
        once(table, samples).await
    } else {
        live(table, samples).await
    }
}

async fn once(mut table: Table, mut samples: tonic::Streaming<ContainerStatsResponse>) -> Outcome {
    while let Some(sample) = samples.message().await? {
        table.take(sample);
    }
    listing::write(&table.render()?);
    Ok(0)
}

async fn live(mut table: Table, mut samples: tonic::Streaming<ContainerStatsResponse>) -> Outcome {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + REFRESH, REFRESH);
    loop {
        tokio::select! {
            sample = samples.message() => match sample? {
                Some(sample) => table.take(sample),
                None => return Ok(0),
            },
            _ = ticks.tick() => draw(&table.render()?),
        }
    }
}

/// Draws over what was drawn before, from the screen's top: what is left of longer lines and of more lines is erased.
fn draw(text: &str) {
    let mut screen = String::from("\x1b[H");
    for line in text.lines() {
        screen.push_str(line);
        screen.push_str("\x1b[K\n");
    }
    screen.push_str("\x1b[J");
    listing::write(&screen);
    // Nothing can be done about a terminal that is gone; the next write ends the program.
    let _ = std::io::stdout().flush();
}

/// The newest sample of each container, in the order in which they came.
struct Table {
    named: Vec<String>,
    all: bool,
    full: bool,
    format: Option<String>,
    samples: Vec<ContainerStatsResponse>,
}

impl Table {
    fn take(&mut self, sample: ContainerStatsResponse) {
        let place = self.samples.iter().position(|known| known.id == sample.id);
        let is_gone = sample.name.is_empty();
        let is_shown = sample.read_at != 0 || self.all || !self.named.is_empty();
        match place {
            Some(place) if is_gone || !is_shown => drop(self.samples.remove(place)),
            Some(place) => self.samples[place] = sample,
            None if is_gone || !is_shown => {}
            None => self.samples.push(sample),
        }
    }

    fn render(&self) -> Result<String, Failure> {
        let rows: Vec<Value> = self
            .samples
            .iter()
            .map(|sample| {
                let asked = self.named.iter().find(|name| {
                    let name = name.trim_start_matches('/');
                    name == sample.name || sample.id.starts_with(name)
                });
                row(
                    sample,
                    asked.map_or(sample.id.as_str(), String::as_str),
                    self.full,
                )
            })
            .collect();
        self.render_with(&rows)
    }

    fn render_with(&self, rows: &[Value]) -> Result<String, Failure> {
        listing::render(self.format.as_deref(), COLUMNS, OTHER_HEADINGS, rows)
    }
}

fn row(sample: &ContainerStatsResponse, asked: &str, full: bool) -> Value {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let binary = |bytes| human::binary_size(signed(bytes));
    let decimal = |bytes| human::short_size(signed(bytes));
    let received = sample.networks.iter().map(|network| network.rx_bytes).sum();
    let sent = sample.networks.iter().map(|network| network.tx_bytes).sum();
    let memory = if sample.memory_limit == 0 {
        0.0
    } else {
        sample.memory_usage as f64 / sample.memory_limit as f64 * 100.0
    };
    let container = if full { asked } else { short(asked, &sample.id) };
    json!({
        "Container": container,
        "ID": if full { &sample.id } else { human::short_id(&sample.id) },
        "Name": sample.name,
        "CPUPerc": format!("{:.2}%", processor_share(sample)),
        "MemUsage": format!("{} / {}", binary(sample.memory_usage), binary(sample.memory_limit)),
        "MemPerc": format!("{memory:.2}%"),
        "NetIO": format!("{} / {}", decimal(received), decimal(sent)),
        "BlockIO": format!("{} / {}", decimal(sample.blkio_read), decimal(sample.blkio_write)),
        "PIDs": sample.pids.to_string(),
    })
}

/// What the user typed, or the short id where nothing was typed.
fn short<'a>(asked: &'a str, id: &str) -> &'a str {
    if asked == id {
        human::short_id(asked)
    } else {
        asked
    }
}

/// The container's share of the host's processor time since the sample before; 100 is one processor.
fn processor_share(sample: &ContainerStatsResponse) -> f64 {
    let used = sample.cpu_total.saturating_sub(sample.previous_cpu_total);
    let passed = sample.system_cpu.saturating_sub(sample.previous_system_cpu);
    if passed == 0 {
        return 0.0;
    }
    used as f64 / passed as f64 * f64::from(sample.online_cpus) * 100.0
}

#[cfg(test)]
mod tests {
    use pontoon_proto::v1::InterfaceStats;

    use super::*;

    fn table(all: bool) -> Table {
        Table {
            named: Vec::new(),
            all,
            full: false,
            format: None,
            samples: Vec::new(),
        }
    }

    fn sample(id: &str, read_at: i64) -> ContainerStatsResponse {
        ContainerStatsResponse {
            id: id.repeat(64),
            name: format!("box-{id}"),
            read_at,
            ..ContainerStatsResponse::default()
        }
    }

    #[test]
    fn figures_are_dockers() {
        let sample = ContainerStatsResponse {
            cpu_total: 3_000,
            previous_cpu_total: 2_000,
            system_cpu: 20_000,
            previous_system_cpu: 10_000,
            online_cpus: 2,
            memory_usage: 576 << 10,
            memory_limit: 64 << 20,
            pids: 1,
            blkio_read: 4_096,
            networks: vec![
                InterfaceStats {
                    rx_bytes: 1_000,
                    ..InterfaceStats::default()
                },
                InterfaceStats {
                    rx_bytes: 170,
                    ..InterfaceStats::default()
                },
            ],
            ..sample("a", 1)
        };
        let mut table = table(false);
        table.take(sample);
        assert_eq!(
            table.render().unwrap(),
            "CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT   MEM %     NET I/O       BLOCK I/O    PIDS\n\
             aaaaaaaaaaaa   box-a     20.00%    576KiB / 64MiB      0.88%     1.17kB / 0B   4.1kB / 0B   1\n"
        );
    }

    #[test]
    fn containers_come_and_go() {
        let mut live = table(false);
        live.take(sample("a", 1));
        live.take(sample("b", 1));
        live.take(sample("a", 0));
        assert_eq!(live.samples.len(), 1);
        let mut all = table(true);
        all.take(sample("a", 1));
        all.take(sample("a", 0));
        assert!(all.render().unwrap().contains("0.00%     0B / 0B"));
        all.take(ContainerStatsResponse {
            name: String::new(),
            ..sample("a", 0)
        });
        assert!(all.samples.is_empty());
    }
}
