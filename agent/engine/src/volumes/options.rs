//! Options of the local driver: what is mounted on a volume's folder when a container first uses it. Texts are Docker's
//! (moby `volume/local`), mount words those of mount(8).

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change, mount_remount,
};

/// A file system that is mounted for a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// What: a device, `host:/path` for NFS, a folder for a bind.
    pub device: String,
    /// File system type; `none` for a bind.
    pub typ: String,
    /// Comma separated.
    pub o: String,
}

/// Mount words, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Words {
    flags: MountFlags,
    bind: Option<bool>,
    propagation: Option<MountPropagationFlags>,
    data: String,
}

impl Options {
    /// Checks the options; `None`: a plain folder.
    pub(super) fn parse(options: &HashMap<String, String>) -> Result<Option<Self>, String> {
        let mut names: Vec<&str> = options.keys().map(String::as_str).collect();
        names.sort_unstable();
        if let Some(name) = names
            .iter()
            .find(|name| !["device", "o", "size", "type"].contains(name))
        {
            return Err(format!("invalid option: {name:?}"));
        }
        for (name, needed) in [
            ("device", &["type"][..]),
            ("o", &["device", "type"]),
            ("type", &["device"]),
        ] {
            if let Some(missing) = needed
                .iter()
                .find(|needed| options.contains_key(name) && !options.contains_key(**needed))
            {
                return Err(format!("missing required option: {missing:?}"));
            }
        }
        let get = |name: &str| options.get(name).cloned().unwrap_or_default();
        if options.contains_key("size") {
            return Err("quota size requested but no quota support".to_owned());
        }
        if !options.contains_key("type") {
            return Ok(None);
        }
        Ok(Some(Self {
            device: get("device"),
            typ: get("type"),
            o: get("o"),
        }))
    }

    /// Mounts it on a folder.
    ///
    /// # Errors
    /// Docker's text, in which a password is hidden.
    pub(super) fn mount(&self, target: &Path) -> Result<(), String> {
        if self.device.is_empty() {
            return Err("missing device in volume options".to_owned());
        }
        let o = self.resolved(|host| {
            let found = (host, 0).to_socket_addrs()?.next();
            found
                .map(|address| address.ip())
                .ok_or_else(|| io::Error::other("no address"))
        })?;
        let words = Words::parse(&o);
        words.mount(&self.device, target, &self.typ).map_err(|errno| {
            let mut text = format!(
                "failed to mount local volume: mount {}:{}",
                self.device,
                target.display()
            );
            let flags = words.shown();
            if flags != 0 {
                text.push_str(&format!(", flags: {flags:#x}"));
            }
            if !words.data.is_empty() {
                text.push_str(&format!(", data: {}", hide_password(&words.data)));
            }
            format!("{text}: {}", reason(errno, &self.typ))
        })
    }

    /// The mount words with the server's name replaced by its address, as the kernel knows no names.
    fn resolved(&self, resolve: impl Fn(&str) -> io::Result<IpAddr>) -> Result<String, String> {
        if !matches!(self.typ.as_str(), "nfs" | "nfs4" | "cifs") {
            return Ok(self.o.clone());
        }
        let words: Result<Vec<String>, String> = self
            .o
            .split(',')
            .map(|word| match word.strip_prefix("addr=") {
                Some(host) if !host.is_empty() && host.parse::<IpAddr>().is_err() => {
                    let address = resolve(host).map_err(|error| {
                        format!("error resolving passed in network volume address: lookup {host}: {error}")
                    })?;
                    Ok(format!("addr={address}"))
                }
                _ => Ok(word.to_owned()),
            })
            .collect();
        let mut words = words?;
        // What mount.cifs would find in the device: //host/share.
        if self.typ == "cifs" && !words.iter().any(|word| word.starts_with("addr=")) {
            let host = self
                .device
                .trim_start_matches('/')
                .split('/')
                .next()
                .unwrap_or_default();
            if !host.is_empty() {
                let address = resolve(host).map_err(|error| {
                    format!("error resolving passed in network volume address: lookup {host}: {error}")
                })?;
                words.push(format!("addr={address}"));
            }
        }
        words.retain(|word| !word.is_empty());
        Ok(words.join(","))
    }
}

impl Words {
    fn parse(text: &str) -> Self {
        let mut words = Self {
            flags: MountFlags::empty(),
            bind: None,
            propagation: None,
            data: String::new(),
        };
        for word in text.split(',').filter(|word| !word.is_empty()) {
            if let Some((flag, set)) = flag(word) {
                words.flags.set(flag, set);
            } else if let Some(propagation) = propagation(word) {
                words.propagation = Some(propagation);
            } else {
                match word {
                    "defaults" => {}
                    "bind" => words.bind = Some(false),
                    "rbind" => words.bind = Some(true),
                    other => {
                        if !words.data.is_empty() {
                            words.data.push(',');
                        }
                        words.data.push_str(other);
                    }
                }
            }
        }
        words
    }

    /// The flags as the kernel's numbers (linux/mount.h), for messages.
    fn shown(&self) -> u32 {
        let bind = match self.bind {
            None => MountFlags::empty(),
            Some(false) => MountFlags::BIND,
            Some(true) => MountFlags::BIND | MountFlags::REC,
        };
        (self.flags | bind).bits()
    }

    fn mount(&self, device: &str, target: &Path, typ: &str) -> Result<(), Errno> {
        let data = CString::new(self.data.as_str()).map_err(|_| Errno::INVAL)?;
        match self.bind {
            Some(recursive) => {
                if recursive {
                    mount_bind_recursive(device, target)?;
                } else {
                    mount_bind(device, target)?;
                }
                // A bind takes no flags at first (mount(2)).
                if !self.flags.is_empty()
                    && let Err(errno) = mount_remount(target, self.flags | MountFlags::BIND, c"")
                {
                    let _ = super::mounting::unmount(target);
                    return Err(errno);
                }
            }
            None => mount(device, target, typ, self.flags, data.as_c_str())?,
        }
        if let Some(propagation) = self.propagation
            && let Err(errno) = mount_change(target, propagation)
        {
            let _ = super::mounting::unmount(target);
            return Err(errno);
        }
        Ok(())
    }
}

fn flag(word: &str) -> Option<(MountFlags, bool)> {
    Some(match word {
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "mand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, true),
        "nomand" => (MountFlags::PERMIT_MANDATORY_FILE_LOCKING, false),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "nostrictatime" => (MountFlags::STRICTATIME, false),
        _ => return None,
    })
}

fn propagation(word: &str) -> Option<MountPropagationFlags> {
    let flag = match word.strip_prefix('r').unwrap_or(word) {
        "private" => MountPropagationFlags::PRIVATE,
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    let recursive = word.starts_with('r').then_some(MountPropagationFlags::REC);
    Some(flag | recursive.unwrap_or(MountPropagationFlags::empty()))
}

fn hide_password(data: &str) -> String {
    let hide = |word: &str| match word.split_once('=') {
        Some(("password" | "pass", _)) => "password=********".to_owned(),
        _ => word.to_owned(),
    };
    data.split(',').map(hide).collect::<Vec<_>>().join(",")
}

fn reason(errno: Errno, typ: &str) -> String {
    let text = super::check::go_text(&errno.into());
    match errno {
        Errno::NODEV => format!("{text} (this kernel has no file system {typ:?})"),
        Errno::NOTBLK => format!("{text} (a file has to be attached to a loop device first: losetup(8))"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(options: &[(&str, &str)]) -> HashMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        options.iter().map(owned).collect()
    }

    #[test]
    fn options_are_checked() {
        for (options, text) in [
            (&[("colour", "x")][..], "invalid option: \"colour\""),
            (&[("type", "nfs")], "missing required option: \"device\""),
            (&[("device", "x")], "missing required option: \"type\""),
            (&[("o", "ro")], "missing required option: \"device\""),
            (&[("size", "1G")], "quota size requested but no quota support"),
        ] {
            assert_eq!(Options::parse(&map(options)).unwrap_err(), text);
        }
        assert_eq!(Options::parse(&map(&[])).unwrap(), None);
    }

    #[test]
    fn words_become_flags_and_data() {
        let words = Words::parse("rbind,ro,nosuid,suid,rshared,size=1m,defaults,uid=1000");
        assert_eq!(words.flags, MountFlags::RDONLY);
        assert_eq!(words.bind, Some(true));
        assert_eq!(words.data, "size=1m,uid=1000");
        assert_eq!(
            words.propagation,
            Some(MountPropagationFlags::SHARED | MountPropagationFlags::REC)
        );
        assert_eq!(words.shown(), 0x5001);
    }

    #[test]
    fn servers_become_addresses() {
        let options = |typ: &str, device: &str, o: &str| Options {
            device: device.into(),
            typ: typ.into(),
            o: o.into(),
        };
        let known = |host: &str| match host {
            "files.example" => Ok("192.0.2.7".parse().unwrap()),
            _ => Err(io::Error::other("no such host")),
        };
        let nfs = options("nfs", ":/export", "addr=files.example,nolock,soft,rw");
        assert_eq!(nfs.resolved(known).unwrap(), "addr=192.0.2.7,nolock,soft,rw");
        let already = options("nfs4", ":/export", "addr=2001:db8::1,rw");
        assert_eq!(already.resolved(known).unwrap(), "addr=2001:db8::1,rw");
        let cifs = options("cifs", "//files.example/share", "username=u");
        assert_eq!(cifs.resolved(known).unwrap(), "username=u,addr=192.0.2.7");
        let error = options("nfs", ":/export", "addr=nobody")
            .resolved(known)
            .unwrap_err();
        assert_eq!(
            error,
            "error resolving passed in network volume address: lookup nobody: no such host"
        );
    }

    #[test]
    fn failures_hide_passwords() {
        let temp = tempfile::tempdir().unwrap();
        let options = Options {
            device: "//x/y".into(),
            typ: "no-such-fs".into(),
            o: "password=secret,ro,addr=192.0.2.1".into(),
        };
        let error = options.mount(temp.path()).unwrap_err();
        assert!(!error.contains("secret"), "{error}");
        if rustix::process::geteuid().is_root() {
            assert!(
                error.contains("flags: 0x1, data: password=********,addr=192.0.2.1"),
                "{error}"
            );
            assert!(
                error.contains("no such device (this kernel has no file system"),
                "{error}"
            );
        }
    }
}
