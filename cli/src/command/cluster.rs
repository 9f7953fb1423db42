//! `pontoon cluster …`: the cluster's state in a file, and a cluster made of such a file.

use std::io::{BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use pontoon_proto::v1::{
    BackupKey, SwarmBackupRequest, SwarmRestoreOptions, SwarmRestoreRequest, backup_key::Key,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::client::Client;
use crate::daemon::keep_file;
use crate::error::{Failure, Outcome};
use crate::output::listing;
use crate::terminal::Hidden;

/// Bytes of one message.
const CHUNK: usize = 256 << 10;

/// `pontoon cluster …`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write the cluster's state to an encrypted file
    Backup(BackupArguments),
    /// Make this node the manager of a cluster from a backup
    Restore(RestoreArguments),
}

/// Who may read a backup.
#[derive(Args, Debug)]
pub struct KeyArguments {
    /// File whose contents are the key, at least 32 bytes
    #[arg(long, value_name = "file", conflicts_with = "passphrase_file")]
    key_file: Option<PathBuf>,
    /// File whose first line is the passphrase (default: ask for it)
    #[arg(long, value_name = "file")]
    passphrase_file: Option<PathBuf>,
}

/// `cluster backup [OPTIONS] FILE`
#[derive(Args, Debug)]
pub struct BackupArguments {
    #[command(flatten)]
    key: KeyArguments,
    /// The file to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// `cluster restore [OPTIONS] FILE`
#[derive(Args, Debug)]
pub struct RestoreArguments {
    /// Advertised address (format: "<ip|interface>[:port]")
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    advertise_addr: String,
    /// Address or interface to use for data path traffic (format: "<ip|interface>")
    #[arg(long, value_name = "string", default_value = "", hide_default_value = true)]
    data_path_addr: String,
    #[command(flatten)]
    key: KeyArguments,
    /// Listen address (format: "<ip|interface>[:port]")
    #[arg(long, value_name = "node-addr", default_value = "0.0.0.0:2377")]
    listen_addr: String,
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Runs a `cluster` command.
///
/// # Errors
/// The daemon's, or the file's.
pub async fn dispatch(host: Option<&str>, command: Command) -> Outcome {
    match command {
        Command::Backup(arguments) => backup(host, arguments).await,
        Command::Restore(arguments) => restore(host, arguments).await,
    }
}

async fn backup(host: Option<&str>, arguments: BackupArguments) -> Outcome {
    let path = arguments.file;
    let failed = |error: std::io::Error| Failure::new(format!("write {}: {error}", path.display()));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let client = Client::connect(host).await?;
    let key = key(&arguments.key, true)?;
    // Gone when anything fails: only a whole backup gets the name.
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(failed)?;
    let request = SwarmBackupRequest { key: Some(key) };
    let mut chunks = client.swarm().backup(request).await?.into_inner();
    let mut written = 0;
    let info = loop {
        let Some(chunk) = chunks.message().await? else {
            return Err(Failure::new("the daemon ended before the backup was whole"));
        };
        file.write_all(&chunk.data).map_err(failed)?;
        written += chunk.data.len();
        if let Some(info) = chunk.info {
            break info;
        }
    };
    keep_file(file, &path).map_err(Failure::new)?;
    listing::write(&format!(
        "Backed up swarm {} to {} ({written} bytes).\n",
        info.cluster_id,
        path.display()
    ));
    Ok(0)
}

async fn restore(host: Option<&str>, arguments: RestoreArguments) -> Outcome {
    let path = arguments.file;
    let failed = |error: std::io::Error| Failure::new(format!("read {}: {error}", path.display()));
    let file = std::fs::File::open(&path).map_err(failed)?;
    let client = Client::connect(host).await?;
    let options = SwarmRestoreOptions {
        key: Some(key(&arguments.key, false)?),
        advertise_addr: arguments.advertise_addr,
        listen_addr: arguments.listen_addr,
        data_path_addr: arguments.data_path_addr,
    };
    let (send, messages) = mpsc::channel(4);
    let first = SwarmRestoreRequest {
        options: Some(options),
        ..SwarmRestoreRequest::default()
    };
    let read = tokio::task::spawn_blocking(move || feed(first, file, &send));
    let restored = client.swarm().restore(ReceiverStream::new(messages)).await;
    // Whoever failed first knows why: the file, or else the daemon.
    if let Ok(Err(error)) = read.await {
        return Err(failed(error));
    }
    let made = restored?.into_inner();
    listing::write(&format!(
        "Swarm restored: current node ({}) is now its only manager.\n\n\
         To add a worker to this swarm, run the following command:\n\n    \
         pontoon swarm join --token {} {}\n\n\
         To add a manager to this swarm, run 'pontoon swarm join-token manager' and follow the instructions.\n\n",
        made.node_id, made.worker_token, made.addr
    ));
    Ok(0)
}

/// Sends the file until its end, or until nobody wants more of it.
fn feed(
    first: SwarmRestoreRequest,
    mut file: std::fs::File,
    send: &mpsc::Sender<SwarmRestoreRequest>,
) -> std::io::Result<()> {
    let mut message = first;
    loop {
        if send.blocking_send(message).is_err() {
            return Ok(());
        }
        let mut data = vec![0; CHUNK];
        let count = file.read(&mut data)?;
        if count == 0 {
            return Ok(());
        }
        data.truncate(count);
        message = SwarmRestoreRequest {
            data: data.into(),
            ..SwarmRestoreRequest::default()
        };
    }
}

/// The key as the flags say, else by asking; a new one is asked for twice.
fn key(arguments: &KeyArguments, is_new: bool) -> Result<BackupKey, Failure> {
    let unreadable = |path: &Path, error| Failure::new(format!("read {}: {error}", path.display()));
    let key = match (&arguments.key_file, &arguments.passphrase_file) {
        (Some(path), _) => {
            let bytes = std::fs::read(path).map_err(|error| unreadable(path, error))?;
            Key::File(bytes.into())
        }
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
            Key::Passphrase(text.lines().next().unwrap_or_default().to_owned())
        }
        (None, None) => Key::Passphrase(ask(is_new)?),
    };
    Ok(BackupKey { key: Some(key) })
}

fn ask(is_new: bool) -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "no terminal to ask for the passphrase on: use --passphrase-file or --key-file",
        ));
    }
    let hidden = Hidden::enter()?;
    let passphrase = prompt("Passphrase: ")?;
    if is_new && prompt("Repeat the passphrase: ")? != passphrase {
        return Err(Failure::new("the passphrases differ"));
    }
    drop(hidden);
    Ok(passphrase)
}

fn prompt(words: &str) -> Result<String, Failure> {
    eprint!("{words}");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    eprintln!();
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
