//! One instruction after the other: variables are put in, the stage's state changes, steps and history entries are added.

use pontoon_image::{Healthcheck, HistoryEntry, ImageConfig};

use super::stages::{Planner, empty_config};
use super::{Action, History, Platform, Tree, ports};
use crate::dockerfile::instruction::{Argument, Check, CommandLine, Pair};
use crate::dockerfile::words::{Lexer, Variables};
use crate::dockerfile::{Instruction, Step};
use crate::{Error, Result, quote};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Signals by name (signal(7)).
const SIGNALS: [&str; 32] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH",
];

/// A stage as far as its instructions have been read.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// Its name in progress; empty when there is only one.
    pub(super) shown: String,
    pub(super) platform: Platform,
    pub(super) tree: Tree,
    pub(super) config: ImageConfig,
    /// Variables of instructions: the image's and arguments.
    pub(super) env: Vec<String>,
    /// Arguments so far with their values.
    pub(super) arguments: Vec<(String, Option<String>)>,
    pub(super) base: Option<String>,
    pub(super) base_history: Vec<HistoryEntry>,
    pub(super) history: Vec<History>,
    pub(super) no_cache: bool,
    /// Steps so far and in all, for progress.
    pub(super) index: usize,
    pub(super) total: usize,
    has_cmd: bool,
}

fn lookup(env: &[String], name: &str) -> Option<String> {
    Variables::get(env, name)
}

impl Variables for State {
    fn get(&self, name: &str) -> Option<String> {
        lookup(&self.env, name)
    }
}

impl State {
    pub(super) fn new(shown: String, platform: Platform) -> Self {
        Self {
            shown,
            platform,
            tree: None,
            config: ImageConfig::default(),
            env: Vec::new(),
            arguments: Vec::new(),
            base: None,
            base_history: Vec::new(),
            history: Vec::new(),
            no_cache: false,
            index: 0,
            total: 0,
            has_cmd: false,
        }
    }

    /// From nothing.
    pub(super) fn begin_empty(&mut self) {
        self.config = empty_config(&self.platform);
        self.begin();
    }

    /// The configuration is the base's: the rest follows from it.
    pub(super) fn begin(&mut self) {
        let env = &mut self.config.config.env;
        if lookup(env, "PATH").is_none() {
            env.push(format!("PATH={PATH}"));
        }
        self.env.clone_from(env);
    }

    /// Goes on where another stage ended.
    pub(super) fn inherit(&mut self, other: State) {
        self.tree = other.tree;
        self.config = other.config;
        self.config.config.on_build.clear();
        self.env = other.env;
        self.arguments = other.arguments;
        self.base = other.base;
        self.base_history = other.base_history;
        self.history = other.history;
        self.platform = other.platform;
    }

    /// `[stage 2/5] RUN make`.
    pub(super) fn numbered(&mut self, total: usize, text: &str) -> String {
        if total == 0 {
            return text.to_owned();
        }
        self.index += 1;
        let stage = if self.shown.is_empty() {
            String::new()
        } else {
            format!("{} ", self.shown)
        };
        let width = total.to_string().len();
        format!("[{stage}{:width$}/{total}] {text}", self.index)
    }

    pub(super) fn add_history(&mut self, created_by: String, step: Option<usize>) {
        self.history.push(History {
            created_by,
            author: self.config.author.clone(),
            step,
        });
    }

    /// The working folder.
    pub(super) fn dir(&self) -> &str {
        match self.config.config.working_dir.as_str() {
            "" => "/",
            dir => dir,
        }
    }

    /// A command line with the shell in front of a text.
    pub(super) fn with_shell(&self, line: &[String]) -> Vec<String> {
        let default = || vec!["/bin/sh".to_owned(), "-c".to_owned()];
        let mut words = self
            .config
            .config
            .shell
            .clone()
            .filter(|s| !s.is_empty())
            .unwrap_or_else(default);
        words.push(line.join(" "));
        words
    }
}

/// Sets `name` in a list of variables, in its place if it is there.
pub(super) fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let line = format!("{name}={value}");
    let known = env
        .iter_mut()
        .find(|e| e.split_once('=').map_or(e.as_str(), |(key, _)| key) == name);
    match known {
        Some(old) => *old = line,
        None => env.push(line),
    }
}

impl Planner<'_> {
    pub(super) fn dispatch(&mut self, number: usize, state: &mut State, step: Step) -> Result<()> {
        let lines = step.lines;
        self.instruction(number, state, step).map_err(|e| e.at(lines))
    }

    fn instruction(&mut self, number: usize, state: &mut State, step: Step) -> Result<()> {
        let lexer = self.lexer;
        let expand = |text: &str, state: &State| lexer.word(text, state);
        match &step.instruction {
            Instruction::Maintainer(author) => self.maintainer(state, author, &step),
            Instruction::Env(pairs) => self.env(state, pairs, &step)?,
            Instruction::Label(pairs) => self.label(state, pairs, &step)?,
            Instruction::Arg(arguments) => self.argument(state, arguments)?,
            Instruction::Cmd(line) => {
                self.warn_shell_form("CMD", line, state, &step);
                let words = command(line, state);
                state.add_history(format!("CMD {}", quote::list(&words)), None);
                state.config.config.cmd = Some(words);
                state.config.config.args_escaped = true;
                state.has_cmd = true;
            }
            Instruction::Entrypoint(line) => {
                self.warn_shell_form("ENTRYPOINT", line, state, &step);
                let words = command(line, state);
                state.add_history(format!("ENTRYPOINT {}", quote::list(&words)), None);
                state.config.config.entrypoint = Some(words).filter(|words| !words.is_empty());
                if !state.has_cmd {
                    state.config.config.cmd = None;
                }
            }
            Instruction::Expose(specs) => expose(state, specs, &lexer)?,
            Instruction::Volume(paths) => volume(state, paths, &lexer)?,
            Instruction::Healthcheck(check) => healthcheck(state, check),
            Instruction::Onbuild(expression) => state.config.config.on_build.push(expression.clone()),
            Instruction::Shell(words) => {
                state.config.config.shell = Some(words.clone());
                state.add_history(format!("SHELL [{}]", words.join(" ")), None);
            }
            Instruction::StopSignal(text) => {
                let signal = expand(text, state)?;
                check_signal(&signal)?;
                state.add_history(format!("STOPSIGNAL {signal}"), None);
                state.config.config.stop_signal = Some(signal);
            }
            Instruction::User(text) => {
                let user = expand(text, state)?;
                state.add_history(format!("USER {user}"), None);
                state.config.config.user = user;
            }
            Instruction::Workdir(text) => {
                let path = expand(text, state)?;
                self.workdir(state, &path, &step);
            }
            Instruction::Run(run) => self.run(number, state, run, &step)?,
            Instruction::Copy(copy) | Instruction::Add(copy) => self.copy(number, state, copy, &step)?,
        }
        Ok(())
    }

    fn maintainer(&mut self, state: &mut State, author: &str, step: &Step) {
        state.config.author = Some(author.to_owned());
        state.add_history(format!("MAINTAINER {author}"), None);
        self.plan.warnings.push((
            "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label".into(),
            step.lines,
        ));
    }

    fn env(&mut self, state: &mut State, pairs: &[Pair], step: &Step) -> Result<()> {
        self.warn_legacy("ENV", pairs, step);
        let mut text = "ENV".to_owned();
        for pair in expand_pairs(pairs, state, &self.lexer)? {
            text.push_str(&format!(" {pair}"));
            set_env(&mut state.env, &pair.name, &pair.value);
            set_env(&mut state.config.config.env, &pair.name, &pair.value);
        }
        state.add_history(text, None);
        Ok(())
    }

    fn label(&mut self, state: &mut State, pairs: &[Pair], step: &Step) -> Result<()> {
        self.warn_legacy("LABEL", pairs, step);
        let mut text = "LABEL".to_owned();
        for pair in expand_pairs(pairs, state, &self.lexer)? {
            text.push_str(&format!(" {pair}"));
            state.config.config.labels.insert(pair.name, pair.value);
        }
        state.add_history(text, None);
        Ok(())
    }

    fn argument(&mut self, state: &mut State, arguments: &[Argument]) -> Result<()> {
        let mut shown = Vec::new();
        for argument in arguments {
            let given = self.settings.build_args.get(&argument.name);
            let value = match (given, &argument.value) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.lexer.word(default, state)?),
                (None, None) => self.globals.0.get(&argument.name).cloned(),
            };
            if let Some(value) = &value {
                set_env(&mut state.env, &argument.name, value);
            }
            shown.push(match &value {
                Some(value) => format!("{}={value}", argument.name),
                None => argument.name.clone(),
            });
            state.arguments.push((argument.name.clone(), value));
        }
        state.add_history(format!("ARG {}", shown.join(" ")), None);
        Ok(())
    }

    fn workdir(&mut self, state: &mut State, path: &str, step: &Step) {
        let path = match path {
            "" => state.dir().to_owned(),
            path if path.starts_with('/') => path.to_owned(),
            path => crate::ignore::clean(&format!("{}/{path}", state.dir())),
        };
        state.config.config.working_dir.clone_from(&path);
        let made = (path != "/").then(|| {
            let name = self.name_of(state, step, &step.code);
            let action = Action::Folder {
                base: state.tree,
                path: path.clone(),
                user: state.config.config.user.clone(),
            };
            let made = self.push(name, step.lines, action, state.no_cache);
            state.tree = Some(made);
            made
        });
        if made.is_none() {
            // It is counted all the same.
            state.index += 1;
        }
        state.add_history(format!("WORKDIR {path}"), made);
    }

    /// What progress calls a step: the instruction in capitals, with its variables put in.
    pub(super) fn name_of(&self, state: &mut State, step: &Step, code: &str) -> String {
        let lexer = Lexer {
            raw_quotes: true,
            skip_unset: true,
            ..self.lexer
        };
        let text = lexer.word(code, state).unwrap_or_else(|_| code.to_owned());
        let text = match text.split_once(' ') {
            Some((name, rest)) => format!("{} {rest}", name.to_uppercase()),
            None => text.to_uppercase(),
        };
        let trigger = if step.is_trigger { "ONBUILD " } else { "" };
        state.numbered(state.total, &format!("{trigger}{text}"))
    }

    fn warn_legacy(&mut self, name: &str, pairs: &[Pair], step: &Step) {
        if pairs.iter().any(|pair| pair.legacy) {
            let text = format!(
                "LegacyKeyValueFormat: \"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
            );
            self.plan.warnings.push((text, step.lines));
        }
    }

    fn warn_shell_form(&mut self, name: &str, line: &CommandLine, state: &State, step: &Step) {
        if line.is_shell && state.config.config.shell.is_none() {
            let text = format!(
                "JSONArgsRecommended: JSON arguments recommended for {name} to prevent unintended behavior related to OS signals"
            );
            self.plan.warnings.push((text, step.lines));
        }
    }
}

fn command(line: &CommandLine, state: &State) -> Vec<String> {
    if line.is_shell && !line.words.is_empty() {
        state.with_shell(&line.words)
    } else {
        line.words.clone()
    }
}

fn expand_pairs(pairs: &[Pair], state: &State, lexer: &Lexer) -> Result<Vec<Pair>> {
    let pair = |pair: &Pair| {
        Ok(Pair {
            name: lexer.word(&pair.name, state)?,
            value: lexer.word(&pair.value, state)?,
            legacy: pair.legacy,
        })
    };
    pairs.iter().map(pair).collect()
}

fn expose(state: &mut State, specs: &[String], lexer: &Lexer) -> Result<()> {
    let mut list = Vec::new();
    for spec in specs {
        for word in lexer.words(spec, &*state)? {
            list.extend(ports::parse(&word)?);
        }
    }
    list.sort();
    list.dedup();
    let shown: Vec<String> = list.iter().map(|port| format!("{port}:{{}}")).collect();
    state.config.config.exposed_ports.extend(list);
    state.add_history(format!("EXPOSE map[{}]", shown.join(" ")), None);
    Ok(())
}

fn volume(state: &mut State, paths: &[String], lexer: &Lexer) -> Result<()> {
    let paths = paths.iter().map(|path| lexer.word(path, &*state));
    let paths = paths.collect::<Result<Vec<_>>>()?;
    if paths.iter().any(String::is_empty) {
        return Err("VOLUME specified can not be an empty string".into());
    }
    state.add_history(format!("VOLUME [{}]", paths.join(" ")), None);
    state.config.config.volumes.extend(paths);
    Ok(())
}

fn healthcheck(state: &mut State, check: &Check) {
    let quoted = |n: i64| quote::text(&quote::duration(n));
    let text = format!(
        "HEALTHCHECK &{{{} {} {} {} {} {}}}",
        quote::list(&check.test),
        quoted(check.interval),
        quoted(check.timeout),
        quoted(check.start_period),
        quoted(check.start_interval),
        quote::rune(u32::try_from(check.retries).unwrap_or_default())
    );
    state.config.config.healthcheck = Some(Healthcheck {
        test: check.test.clone(),
        interval: check.interval,
        timeout: check.timeout,
        start_period: check.start_period,
        start_interval: check.start_interval,
        retries: check.retries,
    });
    state.add_history(text, None);
}

fn check_signal(signal: &str) -> Result<()> {
    let upper = signal.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |base: &str, sign: char| {
        name.strip_prefix(base).is_some_and(|rest| {
            rest.is_empty()
                || rest
                    .strip_prefix(sign)
                    .is_some_and(|n| n.parse::<u8>().is_ok_and(|n| n <= 15))
        })
    };
    let number = signal.parse::<u8>().is_ok_and(|n| (1..=64).contains(&n));
    if number || SIGNALS.contains(&name) || real_time("RTMIN", '+') || real_time("RTMAX", '-') {
        return Ok(());
    }
    Err(Error::new(format!("invalid signal: {signal}")))
}
