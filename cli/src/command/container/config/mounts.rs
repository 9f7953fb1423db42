//! `-v`, `--mount` and `--tmpfs` as the engine's mounts. Called by [`config`](super) and, for `--mount`, by service flags.

use pontoon_proto::v1::{Mount, MountType};

use crate::command::container::options::ContainerOptions;
use crate::error::Failure;
use crate::output::human;

pub(super) fn mounts(options: &ContainerOptions) -> Result<Vec<Mount>, Failure> {
    let mut mounts = Vec::new();
    for text in &options.volume {
        mounts.push(volume(text)?);
    }
    for text in &options.mount {
        mounts.push(mount(text)?);
    }
    for text in &options.tmpfs {
        mounts.push(tmpfs(text)?);
    }
    if let Some(mount) = mounts.iter().find(|mount| !mount.target.starts_with('/')) {
        return Err(Failure::new(format!(
            "invalid mount path: '{}' mount path must be absolute",
            mount.target
        )));
    }
    Ok(mounts)
}

/// `-v SOURCE:TARGET[:options]`
pub(super) fn volume(text: &str) -> Result<Mount, Failure> {
    let mut parts = text.splitn(3, ':');
    let (source, target) = match (parts.next(), parts.next()) {
        (Some(source), Some(target)) if source.starts_with(['/', '.']) => (source, target),
        _ => {
            return Err(Failure::new(format!(
                "invalid volume specification: '{text}': this version mounts host paths only (-v /host/path:/container/path[:ro])"
            )));
        }
    };
    let source = std::path::absolute(source).map_err(|error| Failure::new(format!("{source}: {error}")))?;
    let mut mount = Mount {
        source: source.display().to_string(),
        target: target.to_owned(),
        create_source: true,
        ..Default::default()
    };
    for option in parts
        .next()
        .unwrap_or("")
        .split(',')
        .filter(|option| !option.is_empty())
    {
        match option {
            "ro" => mount.read_only = true,
            "rw" => {}
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                mount.propagation = option.to_owned()
            }
            other => {
                return Err(Failure::new(format!(
                    "invalid volume specification: '{text}': unknown mode: {other}"
                )));
            }
        }
    }
    Ok(mount)
}

/// `--mount type=bind|tmpfs,source=…,target=…[,…]`
pub(crate) fn mount(text: &str) -> Result<Mount, Failure> {
    let bad = |why: String| Failure::new(format!("invalid argument {text:?} for \"--mount\" flag: {why}"));
    let mut mount = Mount::default();
    let mut kind = None;
    for field in text.split(',') {
        let (key, value) = field
            .split_once('=')
            .map_or((field, None), |(key, value)| (key, Some(value)));
        let needed = || value.ok_or_else(|| bad(format!("invalid field '{field}' must be a key=value pair")));
        match key {
            "type" => kind = Some(needed()?),
            "source" | "src" => mount.source = needed()?.to_owned(),
            "target" | "dst" | "destination" => mount.target = needed()?.to_owned(),
            "readonly" | "ro" => mount.read_only = matches!(value, None | Some("true" | "1")),
            "bind-propagation" => mount.propagation = needed()?.to_owned(),
            "tmpfs-size" => mount.tmpfs_size = human::parse_size(needed()?).map_err(bad)?,
            "tmpfs-mode" => {
                mount.tmpfs_mode = u32::from_str_radix(needed()?, 8)
                    .map_err(|_| bad(format!("invalid mode in '{field}'")))?;
            }
            _ => return Err(bad(format!("unexpected key '{key}' in '{field}'"))),
        }
    }
    match kind {
        Some("bind") if mount.source.is_empty() => {
            return Err(bad("source is required for type=bind".to_owned()));
        }
        Some("bind") => {}
        Some("tmpfs") if !mount.source.is_empty() => {
            return Err(bad("type=tmpfs takes no source".to_owned()));
        }
        Some("tmpfs") => mount.r#type = MountType::Tmpfs.into(),
        other => {
            let kind = other.unwrap_or("volume");
            return Err(bad(format!(
                "this version mounts type=bind and type=tmpfs, not type={kind}"
            )));
        }
    }
    if mount.target.is_empty() {
        return Err(bad("target is required".to_owned()));
    }
    Ok(mount)
}

/// `--tmpfs TARGET[:size=…,mode=…]`
pub(crate) fn tmpfs(text: &str) -> Result<Mount, Failure> {
    let (target, rest) = text.split_once(':').unwrap_or((text, ""));
    let mut mount = Mount {
        r#type: MountType::Tmpfs.into(),
        target: target.to_owned(),
        ..Default::default()
    };
    for option in rest.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=').unwrap_or((option, "")) {
            ("size", size) => mount.tmpfs_size = human::parse_size(size).map_err(Failure::new)?,
            ("mode", mode) => {
                mount.tmpfs_mode = u32::from_str_radix(mode, 8)
                    .map_err(|_| Failure::new(format!("invalid tmpfs mode {mode:?} in {text:?}")))?;
            }
            ("ro", "") => mount.read_only = true,
            ("rw", "") => {}
            _ => {
                return Err(Failure::new(format!(
                    "invalid tmpfs option {option:?}: this version knows size, mode, ro and rw"
                )));
            }
        }
    }
    Ok(mount)
}
