//! A container's `/dev`: device nodes, links, and the pseudo terminal.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, fstatfs, major, makedev, minor,
    mknodat, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use super::mounts::{attach, copy_handle};
use super::options::inside;
use super::resolve::{Kind, Root, stat_handle};
use super::rootfs::Scratch;
use super::userns::Mappings;
use crate::Error;
use crate::error::IoContext;
use crate::sys::mount::set_attributes;

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// One device node.
#[derive(Debug, Clone)]
pub(crate) struct DevicePlan {
    path: PathBuf,
    kind: FileType,
    device: u64,
    mode: u32,
    owner: (u32, u32),
}

/// Devices that every container has: null, zero, full, random, urandom, tty.
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// The specification's devices and the default ones.
pub(crate) fn plans(devices: &[LinuxDevice]) -> Result<Vec<DevicePlan>, Error> {
    let mut result = Vec::with_capacity(devices.len() + DEFAULT_DEVICES.len());
    for device in devices {
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => {
                return Err(Error::InvalidSpec(format!(
                    "device {} has no type",
                    device.path().display()
                )));
            }
        };
        let number = |n: i64| {
            u32::try_from(n)
                .map_err(|_| Error::InvalidSpec(format!("device {} has number {n}", device.path().display())))
        };
        result.push(DevicePlan {
            path: inside(device.path())?,
            kind,
            device: makedev(number(device.major())?, number(device.minor())?),
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
        });
    }
    for (path, major, minor) in DEFAULT_DEVICES {
        if !result.iter().any(|d: &DevicePlan| d.path == Path::new(path)) {
            result.push(DevicePlan {
                path: path.into(),
                kind: FileType::CharacterDevice,
                device: makedev(major, minor),
                mode: 0o666,
                owner: (0, 0),
            });
        }
    }
    Ok(result)
}

/// Makes nodes for a container in a user namespace, which may not make them itself: on a tmpfs of the host's,
/// each as a mount that is attached nowhere. The caller's umask must be 0.
pub(super) fn outside(
    scratch: &Scratch,
    devices: &[DevicePlan],
    mappings: &Mappings,
) -> Result<Vec<OwnedFd>, Error> {
    let make = |(index, device): (usize, &DevicePlan)| -> Result<OwnedFd, Error> {
        let what = || format!("create device {}", device.path.display());
        let name = format!("device{index}");
        let mode = Mode::from_raw_mode(device.mode);
        mknodat(&scratch.tree, &name, device.kind, mode, device.device).context(what)?;
        let (uid, gid) = device.owner;
        let unmapped = || {
            Error::InvalidSpec(format!(
                "the owner of device {} is not mapped",
                device.path.display()
            ))
        };
        let uid = Uid::from_raw(mappings.outside_uid(uid).ok_or_else(unmapped)?);
        let gid = Gid::from_raw(mappings.outside_gid(gid).ok_or_else(unmapped)?);
        chownat(
            &scratch.tree,
            &name,
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .context(what)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(&scratch.tree, &name, flags).context(what)?;
        set_attributes(&tree, false, 0, 0, libc::MS_PRIVATE).context(what)?;
        Ok(tree)
    };
    devices.iter().enumerate().map(make).collect()
}

/// Attaches nodes that were made by [`outside`].
pub(super) fn attach_nodes(root: &Root, devices: &[DevicePlan], nodes: &[OwnedFd]) -> Result<(), Error> {
    for (device, node) in devices.iter().zip(nodes) {
        let target = root.ensure(&device.path, Kind::File)?;
        attach(node, target).context(|| format!("mount device {}", device.path.display()))?;
    }
    let dev = root.ensure(Path::new("/dev"), Kind::Directory)?;
    links(&dev)
}

/// Makes nodes and links. The caller's umask must be 0.
pub(super) fn populate(root: &Root, devices: &[DevicePlan]) -> Result<(), Error> {
    let dev = root.ensure(Path::new("/dev"), Kind::Directory)?;
    for device in devices {
        let what = || format!("create device {}", device.path.display());
        let (Some(parent), Some(name)) = (device.path.parent(), device.path.file_name()) else {
            continue;
        };
        let other;
        let parent = if parent == Path::new("/dev") {
            &dev
        } else {
            other = root.ensure(parent, Kind::Directory)?;
            &other
        };
        match mknodat(
            parent,
            name,
            device.kind,
            Mode::from_raw_mode(device.mode),
            device.device,
        ) {
            Ok(()) => {}
            Err(Errno::EXIST) => continue,
            Err(e) => return Err(e).context(what),
        }
        if device.owner != (0, 0) {
            let (uid, gid) = device.owner;
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).context(what)?;
        }
    }
    links(&dev)
}

fn links(dev: &OwnedFd) -> Result<(), Error> {
    for (target, name) in LINKS {
        match symlinkat(target, dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e).context(|| format!("create /dev/{name}")),
        }
    }
    Ok(())
}

/// A pseudo terminal of the container's own devpts.
#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

impl Terminal {
    /// Opens a pair. No path that the container may have changed is trusted: the multiplexer is checked, and
    /// the slave comes from the master's descriptor (CVE-2025-52565).
    pub(super) fn open(root: &Root, size: Option<(u16, u16)>) -> Result<Self, Error> {
        let what = || "open a terminal in the container's /dev/pts";
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let master = root
            .open(Path::new("/dev/pts/ptmx"), flags, ResolveFlags::NO_SYMLINKS)
            .context(what)?;
        let stat = rustix::fs::fstat(&master).context(what)?;
        let fs = fstatfs(&master).context(what)?;
        if fs.f_type != DEVPTS_SUPER_MAGIC || (major(stat.st_rdev), minor(stat.st_rdev)) != (5, 2) {
            return Err(Error::Create(
                "the container's /dev/pts/ptmx is not a terminal multiplexer".to_owned(),
            ));
        }
        unlockpt(&master).context(what)?;
        let slave = ioctl_tiocgptpeer(
            &master,
            OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
        )
        .context(what)?;
        if let Some((rows, cols)) = size {
            let size = rustix::termios::Winsize {
                ws_row: rows,
                ws_col: cols,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            rustix::termios::tcsetwinsize(&master, size).context(|| "set the terminal's size")?;
        }
        Ok(Self { master, slave })
    }

    /// Shows the terminal as `/dev/console`.
    pub(super) fn mount_console(&self, root: &Root) -> Result<(), Error> {
        let path = Path::new("/dev/console");
        // Made where it is missing; a link of the image is not followed (CVE-2025-52565).
        let target = match root.open(path, OFlags::PATH | OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS) {
            Err(Errno::NOENT) => root.ensure(path, Kind::File)?,
            result => result.context(|| "open /dev/console inside the container")?,
        };
        if FileType::from_raw_mode(stat_handle(&target).context(|| "stat /dev/console")?.st_mode)
            == FileType::Symlink
        {
            return Err(Error::Create("the image's /dev/console is a link".to_owned()));
        }
        let tree = copy_handle(&self.slave, false).context(|| "copy the terminal's mount")?;
        attach(tree, target).context(|| "mount /dev/console")
    }
}

/// Gives streams to the root of the container's user namespace, as far as they are the host root's: inside,
/// nobody could make them its own otherwise.
pub(super) fn own_outside(stdio: &super::child::Stdio, mappings: &Mappings) {
    let (uid, gid) = (mappings.outside_uid(0), mappings.outside_gid(0));
    for fd in [&stdio.stdin, &stdio.stdout, &stdio.stderr] {
        let Ok(stat) = stat_handle(fd) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if stat.st_uid == 0 && matches!(kind, FileType::Fifo | FileType::Socket) {
            let _ = rustix::fs::fchown(fd, uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        }
    }
}

/// Gives stdio to the container's user, so that it can open `/dev/stdout` again; the null device is everyone's.
pub(super) fn own_stdio(uid: u32) {
    for fd in [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ] {
        let Ok(stat) = stat_handle(fd.as_fd()) else {
            continue;
        };
        let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3);
        if !is_null && stat.st_uid != uid {
            // Some descriptors can't change hands; the program then uses what it has inherited.
            let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(uid)), None);
        }
    }
}
