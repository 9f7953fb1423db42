//! The process of a container or exec in the OCI's form: command line, environment, user, privileges, limits.

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, User};
use pontoon_proto::v1::{ExecStart, Ulimit};

use super::{Inputs, capabilities, security::SecurityOptions};
use crate::container::merge::key;
use crate::{Error, Result};

/// Where programs are looked for unless the image says otherwise.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const RLIMITS: [(&str, PosixRlimitType); 15] = [
    ("core", PosixRlimitType::RlimitCore),
    ("cpu", PosixRlimitType::RlimitCpu),
    ("data", PosixRlimitType::RlimitData),
    ("fsize", PosixRlimitType::RlimitFsize),
    ("locks", PosixRlimitType::RlimitLocks),
    ("memlock", PosixRlimitType::RlimitMemlock),
    ("msgqueue", PosixRlimitType::RlimitMsgqueue),
    ("nice", PosixRlimitType::RlimitNice),
    ("nofile", PosixRlimitType::RlimitNofile),
    ("nproc", PosixRlimitType::RlimitNproc),
    ("rss", PosixRlimitType::RlimitRss),
    ("rtprio", PosixRlimitType::RlimitRtprio),
    ("rttime", PosixRlimitType::RlimitRttime),
    ("sigpending", PosixRlimitType::RlimitSigpending),
    ("stack", PosixRlimitType::RlimitStack),
];

/// Ulimits in the OCI's form; -1 is no limit.
pub(crate) fn rlimits(ulimits: &[Ulimit]) -> Result<Vec<PosixRlimit>> {
    ulimits
        .iter()
        .map(|ulimit| {
            let invalid = |text: String| Error::Invalid(text);
            let (_, typ) = RLIMITS
                .iter()
                .find(|(name, _)| *name == ulimit.name)
                .ok_or_else(|| invalid(format!("invalid ulimit type: {}", ulimit.name)))?;
            let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
            if number(ulimit.soft) > number(ulimit.hard) {
                return Err(invalid(format!(
                    "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                    ulimit.soft, ulimit.hard
                )));
            }
            PosixRlimitBuilder::default()
                .typ(*typ)
                .hard(number(ulimit.hard))
                .soft(number(ulimit.soft))
                .build()
                .map_err(|error| invalid(error.to_string()))
        })
        .collect()
}

/// The container's ulimits, and the daemon's for the names that it does not set.
pub(crate) fn merged_ulimits(own: &[Ulimit], defaults: &[Ulimit]) -> Vec<Ulimit> {
    let mut merged: Vec<Ulimit> = Vec::new();
    // Of one that is given twice the last holds.
    for ulimit in defaults.iter().chain(own) {
        merged.retain(|known| known.name != ulimit.name);
        merged.push(ulimit.clone());
    }
    merged
}

/// The container's own process.
pub(super) fn build(inputs: &Inputs<'_>, security: &SecurityOptions) -> Result<Process> {
    let config = inputs.config;
    let mut process = Process::default();
    let cwd = if config.dir.is_empty() { "/" } else { &config.dir };
    process
        .set_terminal(Some(config.tty))
        .set_args(Some([config.command.as_slice(), config.args.as_slice()].concat()))
        .set_env(Some(environment(inputs, config.tty, &[], &inputs.user.home)))
        .set_cwd(cwd.into())
        .set_user(user(inputs.user))
        .set_no_new_privileges(Some(
            security
                .no_new_privileges
                .unwrap_or(inputs.defaults.no_new_privileges),
        ))
        .set_apparmor_profile(security.apparmor_profile())
        .set_capabilities(Some(capabilities::linux(
            &capabilities::resolve(config, inputs.host)?,
            inputs.user.uid,
        )))
        .set_rlimits(Some(rlimits(&merged_ulimits(
            &config.ulimits,
            &inputs.defaults.ulimits,
        ))?));
    if inputs.host.oom_score_adj != 0 {
        process.set_oom_score_adj(Some(inputs.host.oom_score_adj));
    }
    Ok(process)
}

/// A further process in a running container.
pub(crate) fn exec(inputs: &Inputs<'_>, start: &ExecStart) -> Result<Process> {
    let security = SecurityOptions::parse(&inputs.host.security_opt)?;
    let mut process = build(inputs, &security)?;
    let mut host = inputs.host.clone();
    host.privileged |= start.privileged;
    process
        .set_terminal(Some(start.tty))
        .set_args(Some(start.command.clone()))
        .set_env(Some(environment(
            inputs,
            start.tty,
            &start.env,
            &inputs.user.home,
        )))
        .set_capabilities(Some(capabilities::linux(
            &capabilities::resolve(inputs.config, &host)?,
            inputs.user.uid,
        )));
    if !start.dir.is_empty() {
        process.set_cwd((&start.dir).into());
    }
    Ok(process)
}

fn user(user: &pontoon_image::User) -> User {
    let mut oci = User::default();
    oci.set_uid(user.uid)
        .set_gid(user.gid)
        .set_additional_gids(Some(user.additional_gids.clone()));
    oci
}

/// Docker's defaults, the container's variables, then `more`. A name without `=` takes a variable away.
fn environment(inputs: &Inputs<'_>, tty: bool, more: &[String], home: &str) -> Vec<String> {
    let mut variables = vec![PATH.to_owned(), format!("HOSTNAME={}", inputs.hostname)];
    if tty {
        variables.push("TERM=xterm".to_owned());
    }
    for entry in inputs.config.env.iter().chain(more) {
        let place = variables.iter().position(|known| key(known) == key(entry));
        match (entry.contains('='), place) {
            (true, Some(place)) => variables[place].clone_from(entry),
            (true, None) => variables.push(entry.clone()),
            (false, Some(place)) => drop(variables.remove(place)),
            (false, None) => {}
        }
    }
    if !variables.iter().any(|known| key(known) == "HOME") {
        let home = if home.is_empty() { "/" } else { home };
        variables.push(format!("HOME={home}"));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulimits_are_checked() {
        let limit = |name: &str, soft, hard| Ulimit {
            name: name.to_owned(),
            soft,
            hard,
        };
        assert!(rlimits(&[limit("nofile", 10, 20)]).is_ok());
        assert!(rlimits(&[limit("nofile", 10, -1)]).is_ok());
        assert!(rlimits(&[limit("nofile", 20, 10)]).is_err());
        assert!(rlimits(&[limit("files", 1, 1)]).is_err());
        let merged = merged_ulimits(
            &[limit("nofile", 1, 2), limit("nofile", 3, 4)],
            &[limit("nofile", 5, 6), limit("core", 0, 0)],
        );
        assert_eq!(merged, [limit("core", 0, 0), limit("nofile", 3, 4)]);
    }
}
