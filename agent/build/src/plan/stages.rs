//! Which stages a target needs, in which order they are made, and what each begins with.

use std::collections::{BTreeMap, HashMap};

use pontoon_image::{ContainerConfig, ImageConfig};

use super::dispatch::State;
use super::{Action, Images, NamedContext, Plan, Platform, Settings, Step, Tree};
use crate::dockerfile::words::{Lexer, Variables};
use crate::dockerfile::{Dockerfile, Instruction, Stage, trigger};
use crate::{Error, Lines, Result, suggest};

/// The name of no image.
pub(super) const SCRATCH: &str = "scratch";

/// Variables that every build has before the first `FROM`.
#[derive(Debug, Clone, Default)]
pub(super) struct Globals(pub(super) BTreeMap<String, String>);

impl Variables for Globals {
    fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }
}

/// Makes the plan.
pub(super) struct Planner<'p> {
    pub(super) file: &'p Dockerfile,
    pub(super) settings: &'p Settings,
    pub(super) images: &'p mut dyn Images,
    pub(super) globals: Globals,
    pub(super) lexer: Lexer,
    pub(super) platform: Platform,
    pub(super) plan: Plan,
    /// Finished stages.
    pub(super) done: HashMap<usize, State>,
    /// Steps that take an image or a context, by what they take.
    sources: HashMap<(String, String), usize>,
}

impl Plan {
    /// Plans a build.
    ///
    /// # Errors
    /// The first mistake, with its lines; a base image that is not found.
    pub fn make(file: &Dockerfile, settings: &Settings, images: &mut dyn Images) -> Result<Self> {
        let host = Platform::host();
        let platform = settings.platform.clone().unwrap_or_else(|| host.clone());
        let lexer = Lexer::new(file.escape);
        let globals = globals(file, settings, (&host, &platform), &lexer)?;
        let epoch = match settings.build_args.get("SOURCE_DATE_EPOCH").map(String::as_str) {
            None | Some("") => None,
            Some(text) => Some(text.parse().map_err(|_| {
                Error::new(format!(
                    "invalid SOURCE_DATE_EPOCH: {text}: seconds since 1970 are expected"
                ))
            })?),
        };
        let target = target(file, &settings.target)?;
        let mut planner = Planner {
            file,
            settings,
            images,
            globals,
            lexer,
            platform,
            plan: Plan {
                steps: Vec::new(),
                result: None,
                config: ImageConfig::default(),
                base_history: Vec::new(),
                history: Vec::new(),
                base: None,
                epoch,
                context_paths: BTreeMap::new(),
                warnings: file.warnings.clone(),
            },
            done: HashMap::new(),
            sources: HashMap::new(),
        };
        let mut state = planner.stage(target)?.clone();
        state.config.config.labels.extend(settings.labels.clone());
        let mut plan = planner.plan;
        plan.result = state.tree;
        plan.config = state.config;
        plan.base_history = state.base_history;
        plan.history = state.history;
        plan.base = state.base;
        plan.warnings.sort_by_key(|(_, lines)| lines.first);
        plan.warnings.dedup();
        Ok(plan)
    }
}

fn globals(
    file: &Dockerfile,
    settings: &Settings,
    (host, platform): (&Platform, &Platform),
    lexer: &Lexer,
) -> Result<Globals> {
    let target = match settings.target.as_str() {
        "" => file.stages.last().map_or("", |stage| stage.name.as_str()),
        target => target,
    };
    let mut globals = Globals::default();
    for (name, value) in [
        ("BUILDPLATFORM", host.to_string()),
        ("BUILDOS", host.os.clone()),
        ("BUILDOSVERSION", String::new()),
        ("BUILDARCH", host.architecture.clone()),
        ("BUILDVARIANT", host.variant.clone()),
        ("TARGETPLATFORM", platform.to_string()),
        ("TARGETOS", platform.os.clone()),
        ("TARGETOSVERSION", String::new()),
        ("TARGETARCH", platform.architecture.clone()),
        ("TARGETVARIANT", platform.variant.clone()),
        (
            "TARGETSTAGE",
            if target.is_empty() {
                "default".into()
            } else {
                target.to_owned()
            },
        ),
    ] {
        let value = settings.build_args.get(name).cloned().unwrap_or(value);
        globals.0.insert(name.into(), value);
    }
    for (arguments, lines) in &file.arguments {
        for argument in arguments {
            let value = match (settings.build_args.get(&argument.name), &argument.value) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(lexer.word(default, &globals).map_err(|e| e.at(*lines))?),
                (None, None) => None,
            };
            if let Some(value) = value {
                globals.0.insert(argument.name.clone(), value);
            }
        }
    }
    Ok(globals)
}

/// The stage to build, by name or number.
fn target(file: &Dockerfile, name: &str) -> Result<usize> {
    if name.is_empty() {
        return Ok(file.stages.len() - 1);
    }
    let lower = name.to_lowercase();
    if let Some(found) = file.stages.iter().rposition(|stage| stage.name == lower) {
        return Ok(found);
    }
    if let Ok(number) = name.parse::<usize>()
        && number < file.stages.len()
    {
        return Ok(number);
    }
    let known = file
        .stages
        .iter()
        .map(|stage| stage.name.as_str())
        .filter(|n| !n.is_empty());
    let message = format!("target stage {} could not be found", crate::quote::text(name));
    Err(suggest::with(message, name, known).into())
}

impl Planner<'_> {
    /// Plans a stage and all that it needs; done once for each.
    pub(super) fn stage(&mut self, number: usize) -> Result<&State> {
        if !self.done.contains_key(&number) {
            let state = self.plan_stage(number)?;
            self.done.insert(number, state);
        }
        Ok(&self.done[&number])
    }

    fn plan_stage(&mut self, number: usize) -> Result<State> {
        let file = self.file;
        let stage = &file.stages[number];
        let (mut state, triggers) = self.begin(number, stage).map_err(|e| e.at(stage.lines))?;
        let mut steps = Vec::new();
        for expression in triggers {
            steps.push(trigger(&expression, '\\', stage.lines)?);
        }
        steps.extend(stage.steps.iter().cloned());
        state.total += steps.iter().filter(|step| counts(&step.instruction)).count();
        for step in steps {
            self.dispatch(number, &mut state, step)?;
        }
        Ok(state)
    }

    /// A stage's state before its first instruction, and the triggers of what it begins with.
    fn begin(&mut self, number: usize, stage: &Stage) -> Result<(State, Vec<String>)> {
        let shown = match stage.name.as_str() {
            _ if self.file.stages.len() == 1 => String::new(),
            "" => format!("stage-{number}"),
            name => name.to_owned(),
        };
        let named = self.settings.contexts.get(&stage.name).cloned();
        let platform = self.stage_platform(stage)?;
        let base = match self.lexer.word(&stage.base, &self.globals)? {
            base if base.is_empty() => {
                let text = format!("base name ({}) should not be blank", stage.base);
                return Err(Error::new(text));
            }
            base => base,
        };
        let mut state = State::new(shown, platform.clone());
        state.no_cache = self.settings.no_cache || self.settings.no_cache_filter.contains(&stage.name);
        if let Some(context) = named.filter(|_| !stage.name.is_empty()) {
            self.begin_with_context(&mut state, &stage.name, context, stage.lines)?;
            return Ok((state, Vec::new()));
        }
        let earlier = self.file.stages[..number]
            .iter()
            .rposition(|s| s.name == base.to_lowercase() && !s.name.is_empty());
        if let Some(earlier) = earlier {
            let other = self.stage(earlier)?.clone();
            let mut triggers = other.config.config.on_build.clone();
            state.inherit(other);
            let own = &self.file.stages[earlier].steps;
            triggers.extend(own.iter().filter_map(|step| match &step.instruction {
                Instruction::Onbuild(expression) => Some(expression.clone()),
                _ => None,
            }));
            triggers.dedup();
            return Ok((state, triggers));
        }
        if base == SCRATCH {
            state.begin_empty();
            return Ok((state, Vec::new()));
        }
        if let Some(context) = self.settings.contexts.get(&base).cloned() {
            state.total += 1;
            self.begin_with_context(&mut state, &base, context, stage.lines)?;
            return Ok((state, Vec::new()));
        }
        state.total += 1;
        let triggers = self.begin_with_image(&mut state, &base, stage)?;
        Ok((state, triggers))
    }

    fn stage_platform(&mut self, stage: &Stage) -> Result<Platform> {
        if stage.platform.is_empty() {
            return Ok(self.platform.clone());
        }
        let text = self.lexer.word(&stage.platform, &self.globals)?;
        if text.is_empty() {
            let text = format!("empty platform value from expression {}", stage.platform);
            return Err(Error::new(text));
        }
        Platform::parse(&text).map_err(|e| {
            Error::new(format!(
                "failed to parse platform {}: {}",
                stage.platform, e.message
            ))
        })
    }

    fn begin_with_image(&mut self, state: &mut State, name: &str, stage: &Stage) -> Result<Vec<String>> {
        let base = self.images.image(name, &state.platform).map_err(Error::new)?;
        let mut config = base.config;
        config.created = None;
        let triggers = std::mem::take(&mut config.config.on_build);
        state.base_history = std::mem::take(&mut config.history);
        state.base = Some(base.id.clone());
        state.config = config;
        // The total is known when the stage's instructions are counted, which this one comes before.
        let total = state.total
            + stage.steps.iter().filter(|s| counts(&s.instruction)).count()
            + triggers
                .iter()
                .filter(|t| trigger(t, '\\', stage.lines).is_ok_and(|s| counts(&s.instruction)))
                .count();
        let shown = state.numbered(total, &format!("FROM {}", base.name));
        state.tree = Some(
            self.source(("image", &base.id), shown, stage.lines, || Action::Image {
                name: base.name.clone(),
                id: base.id.clone(),
            }),
        );
        state.begin();
        Ok(triggers)
    }

    /// A named context as a stage's beginning.
    fn begin_with_context(
        &mut self,
        state: &mut State,
        name: &str,
        context: NamedContext,
        lines: Lines,
    ) -> Result<()> {
        match context {
            NamedContext::Image(image) => {
                let base = self.images.image(&image, &state.platform).map_err(Error::new)?;
                let mut config = base.config;
                config.created = None;
                config.config.on_build.clear();
                state.base_history = std::mem::take(&mut config.history);
                state.base = Some(base.id.clone());
                state.config = config;
                let shown = format!("[context {name}] {}", base.name);
                state.tree = Some(self.source(("image", &base.id), shown, lines, || Action::Image {
                    name: base.name.clone(),
                    id: base.id.clone(),
                }));
                state.begin();
            }
            NamedContext::Files => {
                state.begin_empty();
                state.tree = Some(self.context(name, lines));
                self.take_path(name, "/");
            }
        }
        Ok(())
    }

    /// The step that takes a context.
    pub(super) fn context(&mut self, name: &str, lines: Lines) -> usize {
        let shown = match name {
            "" => "[internal] load build context".to_owned(),
            name => format!("[context {name}] load from client"),
        };
        self.source(("context", name), shown, lines, || Action::Context {
            name: name.to_owned(),
        })
    }

    /// Notes that a path of a context is needed.
    pub(super) fn take_path(&mut self, context: &str, path: &str) {
        let path = dockerfile_path(path);
        self.plan
            .context_paths
            .entry(context.to_owned())
            .or_default()
            .insert(path);
    }

    fn source(
        &mut self,
        key: (&str, &str),
        name: String,
        lines: Lines,
        action: impl FnOnce() -> Action,
    ) -> usize {
        let key = (key.0.to_owned(), key.1.to_owned());
        if let Some(known) = self.sources.get(&key) {
            return *known;
        }
        let number = self.push(name, lines, action(), false);
        self.sources.insert(key, number);
        number
    }

    /// Adds a step.
    pub(super) fn push(&mut self, name: String, lines: Lines, action: Action, no_cache: bool) -> usize {
        self.plan.steps.push(Step {
            name,
            lines,
            action,
            no_cache,
        });
        self.plan.steps.len() - 1
    }

    /// What `--from` names: an earlier stage by name or number, a named context, or an image. True: it is a context.
    pub(super) fn from(
        &mut self,
        number: usize,
        name: &str,
        what: &str,
        lines: Lines,
    ) -> Result<(Tree, Option<String>)> {
        if let Some(context) = self.settings.contexts.get(name).cloned() {
            return match context {
                NamedContext::Files => Ok((Some(self.context(name, lines)), Some(name.to_owned()))),
                NamedContext::Image(image) => Ok((self.image_tree(&image, lines)?, None)),
            };
        }
        if name == SCRATCH {
            return Ok((None, None));
        }
        let lower = name.to_lowercase();
        let stages = &self.file.stages;
        let by_name = stages[..number].iter().rposition(|s| s.name == lower);
        let found = by_name.or_else(|| stages.iter().position(|s| s.name == lower));
        let found = match (found, name.parse::<usize>()) {
            (None, Ok(index)) if index >= stages.len() => {
                return Err(Error::new(format!("invalid stage index {index}")));
            }
            (None, Ok(index)) => Some(index),
            (found, _) => found,
        };
        match found {
            Some(same) if same == number => {
                let own = match stages[number].name.as_str() {
                    "" => format!("stage-{number}"),
                    own => own.to_owned(),
                };
                Err(Error::new(format!(
                    "circular dependency detected on stage: {own}"
                )))
            }
            Some(later) if later > number => {
                let own = match stages[number].name.as_str() {
                    "" => format!("stage-{number}"),
                    own => own.to_owned(),
                };
                Err(Error::new(format!(
                    "cannot {what} from stage \"{name}\", it needs to be defined before current stage \"{own}\""
                )))
            }
            Some(earlier) => Ok((self.stage(earlier)?.tree, None)),
            None => Ok((self.image_tree(name, lines)?, None)),
        }
    }

    fn image_tree(&mut self, name: &str, lines: Lines) -> Result<Tree> {
        let platform = self.platform.clone();
        let base = self.images.image(name, &platform).map_err(Error::new)?;
        let shown = format!("FROM {}", base.name);
        Ok(Some(self.source(("image", &base.id), shown, lines, || {
            Action::Image {
                name: base.name.clone(),
                id: base.id.clone(),
            }
        })))
    }
}

/// Instructions that progress counts.
fn counts(instruction: &Instruction) -> bool {
    matches!(
        instruction,
        Instruction::Add(_) | Instruction::Copy(_) | Instruction::Run(_) | Instruction::Workdir(_)
    )
}

/// An absolute, clean path.
pub(super) fn dockerfile_path(path: &str) -> String {
    crate::ignore::clean(&format!("/{path}"))
}

/// The configuration of an image from nothing.
pub(super) fn empty_config(platform: &Platform) -> ImageConfig {
    ImageConfig {
        architecture: platform.architecture.clone(),
        variant: Some(platform.variant.clone()).filter(|v| !v.is_empty()),
        os: platform.os.clone(),
        config: ContainerConfig {
            working_dir: "/".into(),
            ..ContainerConfig::default()
        },
        ..ImageConfig::default()
    }
}
