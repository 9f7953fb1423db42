//! RUN: its command line, variables and mounts.

use super::dispatch::State;
use super::stages::Planner;
use super::{Action, MountOf, Network, Rights, Run, RunMount, Tree};
use crate::dockerfile::instruction;
use crate::dockerfile::words::Variables;
use crate::dockerfile::{Mount, MountKind, Step};
use crate::{Error, Result};

/// Proxies need not be declared by ARG (Docker's predefined arguments).
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];
/// Where a here-document that is a program is mounted.
const SCRIPTS: &str = "/dev/pipes/";

impl Planner<'_> {
    pub(super) fn run(
        &mut self,
        number: usize,
        state: &mut State,
        run: &instruction::Run,
        step: &Step,
    ) -> Result<()> {
        let mut mounts = self.mounts(number, state, run, step)?;
        let mut words = run.line.words.clone();
        let mut code = step.code.clone();
        if let Some(first) = run.line.files.first() {
            let text = words.first().cloned().unwrap_or_default();
            if crate::dockerfile::Heredoc::parse(&text)?.is_some() {
                let data = first.text();
                code.push_str(&format!(" ({})", summary(&first.content)));
                words = if data.starts_with("#!") {
                    let script = MountOf::Script {
                        name: first.name.clone(),
                        data,
                    };
                    mounts.push(RunMount {
                        target: SCRIPTS.into(),
                        what: script,
                    });
                    vec![format!("{SCRIPTS}{}", first.name)]
                } else {
                    vec![data]
                };
            } else {
                let files = run
                    .line
                    .files
                    .iter()
                    .map(|file| format!("\n{}{}", file.content, file.name));
                words = vec![text + &files.collect::<String>()];
            }
        }
        if words.is_empty() {
            return Err("RUN requires at least one argument".into());
        }
        let args = if run.line.is_shell {
            state.with_shell(&words)
        } else {
            words
        };
        let shown = with_arguments(&args, state);
        let network = match run.network.as_str() {
            "none" => Network::None,
            "host" => Network::Host,
            _ => self.settings.network,
        };
        let name = self.name_of(state, step, &code);
        let action = Action::Run(Box::new(Run {
            base: state.tree,
            args,
            env: state.env.clone(),
            proxy: self.proxies(state),
            dir: state.dir().to_owned(),
            user: state.config.config.user.clone(),
            mounts,
            network,
            is_insecure: run.security == "insecure",
        }));
        let made = self.push(name, step.lines, action, state.no_cache);
        state.tree = Some(made);
        state.add_history(format!("RUN {shown} # buildkit"), Some(made));
        Ok(())
    }

    /// `http_proxy` and its like as given by `--build-arg`, in both cases.
    fn proxies(&self, state: &State) -> Vec<String> {
        let mut env = Vec::new();
        for (name, value) in &self.settings.build_args {
            let lower = name.to_ascii_lowercase();
            if !PROXIES.contains(&lower.as_str()) {
                continue;
            }
            for name in [lower.clone(), lower.to_ascii_uppercase()] {
                if state.get(&name).is_none() {
                    env.push(format!("{name}={value}"));
                }
            }
        }
        env
    }

    fn mounts(
        &mut self,
        number: usize,
        state: &State,
        run: &instruction::Run,
        step: &Step,
    ) -> Result<Vec<RunMount>> {
        let mut mounts = Vec::new();
        for text in &run.mounts {
            let lexer = self.lexer;
            let mount = Mount::parse(text, &mut |value| lexer.word(value, state))?;
            mounts.push(self.mount(number, state, mount, step)?);
        }
        Ok(mounts)
    }

    fn mount(&mut self, number: usize, state: &State, mount: Mount, step: &Step) -> Result<RunMount> {
        let rights = Rights {
            uid: mount.uid.unwrap_or_default(),
            gid: mount.gid.unwrap_or_default(),
            mode: mount.mode,
        };
        let (id, is_required) = (mount.id.clone(), mount.required);
        match mount.kind {
            MountKind::Secret => return secret(&mount, rights),
            MountKind::Ssh if !mount.source.is_empty() => return Err("ssh does not support source".into()),
            MountKind::Ssh => {
                let id = if id.is_empty() { "default".to_owned() } else { id };
                let what = MountOf::Ssh {
                    id,
                    is_required,
                    rights,
                };
                return Ok(RunMount {
                    target: mount.target,
                    what,
                });
            }
            MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => {}
        }
        let target = match mount.target.as_str() {
            path if path.starts_with('/') => crate::ignore::clean(path),
            path => crate::ignore::clean(&format!("{}/{path}", state.dir())),
        };
        if mount.target.is_empty() || target == "/" {
            return Err(Error::new(format!(
                "invalid mount target {}",
                crate::quote::text(&target)
            )));
        }
        let source = super::stages::dockerfile_path(&mount.source);
        let what = match mount.kind {
            MountKind::Tmpfs => MountOf::Tmpfs { size: mount.size },
            MountKind::Cache => {
                let from = match mount.from.as_str() {
                    "" => None,
                    from => self.mount_from(number, from, &mount, &source, step)?,
                };
                let given = mount.uid.is_some() || mount.gid.is_some() || mount.mode.is_some();
                MountOf::Cache {
                    id: if id.is_empty() {
                        crate::ignore::clean(&mount.target)
                    } else {
                        id
                    },
                    sharing: mount.sharing,
                    read_only: mount.read_only,
                    from,
                    source,
                    rights: given.then_some(rights),
                }
            }
            _ => MountOf::Bind {
                tree: match mount.from.as_str() {
                    "" => {
                        self.take_path("", &source);
                        Some(self.context("", step.lines))
                    }
                    from => self.mount_from(number, from, &mount, &source, step)?,
                },
                source,
                read_only: mount.read_only,
            },
        };
        Ok(RunMount { target, what })
    }

    fn mount_from(
        &mut self,
        number: usize,
        from: &str,
        mount: &Mount,
        source: &str,
        step: &Step,
    ) -> Result<Tree> {
        let found = self.from(number, from, "mount", step.lines).map_err(|e| {
            if e.message.starts_with("cannot mount from stage") {
                return Error::new(format!(
                    "cannot mount from stage \"{from}\" to \"{}\", stage needs to be defined before current command",
                    mount.target
                ));
            }
            e
        })?;
        if let (_, Some(context)) = &found {
            self.take_path(context, source);
        }
        Ok(found.0)
    }
}

fn secret(mount: &Mount, rights: Rights) -> Result<RunMount> {
    let base = |path: &str| {
        path.rsplit('/')
            .find(|part| !part.is_empty())
            .unwrap_or_default()
            .to_owned()
    };
    let id = match (mount.source.as_str(), mount.id.as_str()) {
        ("", "") => base(&mount.target),
        ("", id) => id.to_owned(),
        (source, _) => source.to_owned(),
    };
    let target = match (mount.target.as_str(), &mount.env) {
        // As a variable only.
        ("", Some(_)) => String::new(),
        ("", None) => format!("/run/secrets/{}", base(&id)),
        (target, _) => target.to_owned(),
    };
    Ok(RunMount {
        target,
        what: MountOf::Secret {
            id,
            env: mount.env.clone(),
            is_required: mount.required,
            rights,
        },
    })
}

/// `|1 A=x /bin/sh -c make`: arguments that were declared, then the command line.
fn with_arguments(args: &[String], state: &State) -> String {
    let mut shown: Vec<(String, String)> = Vec::new();
    for (name, value) in &state.arguments {
        let value = state.get(name).or_else(|| value.clone()).unwrap_or_default();
        match shown.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value,
            None => shown.push((name.clone(), value)),
        }
    }
    let mut words = Vec::new();
    if !shown.is_empty() {
        words.push(format!("|{}", shown.len()));
        words.extend(shown.into_iter().map(|(name, value)| format!("{name}={value}")));
    }
    words.extend(args.iter().cloned());
    words.join(" ")
}

fn summary(content: &str) -> String {
    let mut lines = content.trim().lines();
    let first = lines.next().unwrap_or_default();
    match lines.next() {
        Some(_) => format!("{first}..."),
        None => first.to_owned(),
    }
}
