//! Waits until services have converged, and shows how far they are: a live display on a terminal, plain lines otherwise.
//! Used by `service create|update|scale|rollback` and `stack deploy`.
//!
//! A service has converged when every task that it should have runs its newest spec, no update is under way, and all of that
//! stayed so for the service's monitor period. A job is waited for until all of its tasks have completed. What is shown is worked out
//! by [`view`] from the watched objects alone.

mod job;
mod view;

use std::collections::{HashMap, HashSet};
use std::io::{IsTerminal, Write};
use std::time::Duration;

use pontoon_proto::v1::{Service, Task, WatchRequest, change::Change as Object};
use tokio::time::Instant;

use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::human;
use view::{Standing, View};

/// A service to wait for.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Its id.
    pub id: String,
    /// Its name, for messages.
    pub name: String,
    /// When the change that is waited for was written: what an update came to before that is an old story.
    pub since: i64,
    /// The change is a rollback: then one that completes is no failure.
    pub rollback: bool,
    /// Its tasks have to end with exit code 0: others wait for that.
    pub completes: bool,
}

impl Waiting {
    /// Waits for the change that a call has answered with.
    pub fn on(service: &Service, name: impl Into<String>, rollback: bool) -> Self {
        let since = service.meta.unwrap_or_default().updated_at;
        Self {
            id: service.id.clone(),
            name: name.into(),
            since,
            rollback,
            completes: false,
        }
    }
}

/// So long may all missing tasks be refused by every node before waiting is given up.
const UNPLACEABLE_PATIENCE: Duration = Duration::from_secs(10);
/// So much longer than its restart delay may an ended task be without a successor before waiting is given up.
const SUCCESSOR_PATIENCE: Duration = Duration::from_secs(3);
/// How often a display on a terminal is drawn at the most.
const DRAW_PERIOD: Duration = Duration::from_millis(50);

/// Waits for the services.
///
/// # Errors
/// When an update was paused or rolled back, when the tasks fit on no node or fail again and again, or when a service went away; the
/// message has the reason of the tasks concerned.
pub async fn wait(client: &Client, services: &[Waiting], quiet: bool) -> Outcome {
    tokio::select! {
        outcome = follow(client, services, quiet) => outcome,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("\nOperation continuing in background.");
            if let Some(first) = services.first() {
                eprintln!("Use `pontoon service ps {}` to check progress.", first.name);
            }
            Ok(0)
        }
    }
}

#[derive(Default)]
struct Objects {
    services: HashMap<String, Service>,
    tasks: HashMap<String, Task>,
}

impl Objects {
    fn apply(&mut self, object: Object) {
        match object {
            Object::PutService(service) => {
                self.services.insert(service.id.clone(), service);
            }
            Object::PutTask(task) => {
                self.tasks.insert(task.id.clone(), task);
            }
            Object::DeleteService(id) => {
                self.services.remove(&id);
            }
            Object::DeleteTask(id) => {
                self.tasks.remove(&id);
            }
            _ => {}
        }
    }
}

async fn follow(client: &Client, services: &[Waiting], quiet: bool) -> Outcome {
    let request = WatchRequest {
        kinds: vec!["service".to_owned(), "task".to_owned()],
        since: 0,
        exact: false,
    };
    let mut changes = client.control().watch(request).await?.into_inner();
    let mut objects = Objects::default();
    let mut display = Display::new(quiet);
    let mut waiting: Vec<Progress> = services.iter().cloned().map(Progress::new).collect();
    loop {
        let deadline = waiting.iter().filter_map(|progress| progress.deadline).min();
        tokio::select! {
            message = changes.message() => {
                let Some(message) = message? else {
                    return Err(Failure::new("the manager ended the watch: check with `pontoon service ps`"));
                };
                if message.resync {
                    objects = Objects::default();
                }
                message.changes.into_iter().filter_map(|change| change.change).for_each(|change| objects.apply(change));
            }
            () = sleep_until(deadline) => {}
        }
        for progress in &mut waiting {
            if let Err(failure) = progress.advance(&objects) {
                return Err(with_output(progress.failed_task(&objects), failure));
            }
        }
        display.draw(&waiting);
        if waiting.iter().all(|progress| progress.done) {
            display.finish(&waiting);
            return Ok(0);
        }
    }
}

/// Adds what a failed task has said last.
fn with_output(task: Option<&Task>, mut failure: Failure) -> Failure {
    let Some((task, status)) = task.and_then(|task| Some((task, task.status.as_ref()?))) else {
        return failure;
    };
    if !status.output.is_empty() {
        let (id, lines) = (human::short_id(&task.id), status.output.join("\n  "));
        failure.message = format!("{}\nlast output of task {id}:\n  {lines}", failure.message);
    }
    failure
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

struct Progress {
    waiting: Waiting,
    view: View,
    seen: bool,
    done: bool,
    /// The tasks that have failed since the change; the managers forget them sooner.
    failed: HashSet<String>,
    /// When the present standing will have lasted long enough to count.
    deadline: Option<Instant>,
}

impl Progress {
    fn new(waiting: Waiting) -> Self {
        Self {
            waiting,
            view: View::default(),
            seen: false,
            done: false,
            failed: HashSet::new(),
            deadline: None,
        }
    }

    /// The task whose failure is to be told.
    fn failed_task<'a>(&self, objects: &'a Objects) -> Option<&'a Task> {
        let of_service = |task: &&Task| task.service_id == self.waiting.id;
        let tasks: Vec<&Task> = objects.tasks.values().filter(of_service).collect();
        view::newest_failed(
            objects.services.get(&self.waiting.id)?,
            &tasks,
            self.waiting.since,
        )
    }

    fn advance(&mut self, objects: &Objects) -> Result<(), Failure> {
        if self.done {
            return Ok(());
        }
        let name = &self.waiting.name;
        let Some(service) = objects.services.get(&self.waiting.id) else {
            return if self.seen {
                Err(Failure::new(format!("service {name} was removed")))
            } else {
                Ok(())
            };
        };
        self.seen = true;
        let tasks: Vec<&Task> = objects
            .tasks
            .values()
            .filter(|task| task.service_id == service.id)
            .collect();
        let failed = tasks
            .iter()
            .filter(|task| view::counts_as_failed(service, task, self.waiting.since));
        self.failed.extend(failed.map(|task| task.id.clone()));
        let failures = self.failed.len() as u64;
        let view = View::of(service, &tasks, &self.waiting, failures);
        let before = std::mem::replace(&mut self.view, view);
        if self.view.standing != before.standing {
            self.deadline = None;
        }
        let now = Instant::now();
        let patience = match &self.view.standing {
            Standing::Failed(reason) => return Err(Failure::new(format!("service {name}: {reason}"))),
            Standing::Working => return Ok(()),
            Standing::Complete => self.view.monitor,
            Standing::Unplaceable(_) => UNPLACEABLE_PATIENCE,
            Standing::Ended(_) => self.view.restart_delay + SUCCESSOR_PATIENCE,
            Standing::Failing(reason) => {
                return Err(Failure::new(format!(
                    "service {name}: its tasks fail again and again: {reason}. It is retried in the background; see \
                     `pontoon service ps --no-trunc {name}` and `pontoon service logs {name}`, then change it with \
                     `pontoon service update`, or remove it with `pontoon service rm {name}`"
                )));
            }
        };
        let deadline = *self.deadline.get_or_insert(now + patience);
        if now < deadline {
            return Ok(());
        }
        self.deadline = None;
        if let Standing::Unplaceable(reason) = &self.view.standing {
            return Err(Failure::new(format!(
                "service {name}: {reason}. Its tasks start as soon as a node fits; change the service with \
                 `pontoon service update`, or remove it with `pontoon service rm {name}`"
            )));
        }
        if let Standing::Ended(reason) = &self.view.standing {
            return Err(Failure::new(format!(
                "service {name}: tasks have ended, and its restart policy does not start them again: {reason}. \
                 See `pontoon service ps --no-trunc {name}` and `pontoon service logs {name}`"
            )));
        }
        self.done = true;
        Ok(())
    }
}

/// What was printed of a service where nothing can be drawn over.
#[derive(Default)]
struct Lines {
    /// The most tasks that ran, and of how many.
    best: Option<(u64, u64)>,
    notes: HashSet<String>,
}

impl Lines {
    /// Whether the view tells something new. Tasks that come and go do not: a log would fill with them.
    fn advances(&mut self, view: &View) -> bool {
        let progress = Some((view.running, view.wanted));
        let advanced = match self.best {
            Some((running, wanted)) => view.wanted != wanted || view.running > running,
            None => true,
        };
        if advanced {
            self.best = progress;
        }
        let noted = !view.note.is_empty() && self.notes.insert(view.note.clone());
        advanced || noted
    }
}

/// Draws views: in place on a terminal, each advance as a line otherwise.
struct Display {
    quiet: bool,
    terminal: bool,
    /// Lines on the terminal to draw over.
    height: usize,
    lines: Vec<Lines>,
    drawn_at: Option<Instant>,
}

impl Display {
    fn new(quiet: bool) -> Self {
        Self {
            quiet,
            terminal: std::io::stdout().is_terminal(),
            height: 0,
            lines: Vec::new(),
            drawn_at: None,
        }
    }

    fn draw(&mut self, waiting: &[Progress]) {
        if self.quiet {
            return;
        }
        let several = waiting.len() > 1;
        if !self.terminal {
            self.lines.resize_with(waiting.len(), Lines::default);
            for (lines, progress) in self.lines.iter_mut().zip(waiting) {
                if progress.seen && lines.advances(&progress.view) {
                    let prefix = if several {
                        format!("{}: ", progress.waiting.name)
                    } else {
                        String::new()
                    };
                    println!("{prefix}{}", progress.view.summary());
                }
            }
            return;
        }
        let all_done = waiting.iter().all(|progress| progress.done);
        if !all_done && self.drawn_at.is_some_and(|at| at.elapsed() < DRAW_PERIOD) {
            return;
        }
        self.drawn_at = Some(Instant::now());
        let rows = crate::terminal::size().map_or(24, |(rows, _)| usize::from(rows));
        let mut lines = Vec::new();
        for progress in waiting {
            if several {
                lines.push(format!("{}: {}", progress.waiting.name, progress.view.summary()));
            } else {
                lines.push(progress.view.summary());
                // Docker too shows single tasks only while they fit on the screen.
                if progress.view.slots.len() + 3 < rows {
                    lines.extend(progress.view.slots.iter().cloned());
                }
            }
        }
        self.replace(&lines);
    }

    fn replace(&mut self, lines: &[String]) {
        let mut text = String::new();
        if self.height > 0 {
            text.push_str(&format!("\x1b[{}A", self.height));
        }
        for line in lines {
            text.push_str(&format!("\x1b[2K{line}\n"));
        }
        text.push_str("\x1b[J");
        self.height = lines.len();
        let mut stdout = std::io::stdout();
        // A terminal that went away has nobody to show progress to.
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }

    fn finish(&mut self, waiting: &[Progress]) {
        if !self.quiet {
            for progress in waiting {
                let name = &progress.waiting.name;
                if !progress.view.is_job {
                    println!("verify: Service {name} converged");
                } else if waiting.len() > 1 {
                    println!("{name}: job complete");
                } else {
                    println!("job complete");
                }
            }
        }
    }
}
