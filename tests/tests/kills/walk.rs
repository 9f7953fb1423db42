//! An operation, and the walk through its steps: at each the victim is killed, and what is found afterwards is checked.
//! The suites beside this file say which operations there are.

use std::any::Any;

use anyhow::{Context, Result, ensure};
use pontoon_tests::commands::words;
use pontoon_tests::footprint::Footprint;
use pontoon_tests::killer::{Killer, Outcome, Victim};
use pontoon_tests::{Host, LONG, wait_until};

use crate::RM;
use crate::scene::{Bystander, scene, state, stride};

/// A command line with the host's folder where it is asked for.
pub fn filled(host: &Host, line: &str) -> String {
    line.replace("{folder}", &host.folder().display().to_string())
}

/// Command lines, words apart by blanks; `{folder}` is the host's.
type Lines = &'static [&'static str];

/// An operation to be interrupted. Its container, if there is one, is called `box`.
pub struct Operation {
    victim: Victim,
    needs: fn(&Host) -> Result<bool>,
    beside: fn(&Host) -> Result<Box<dyn Any>>,
    setup: fn(&Host) -> Result<()>,
    before: Lines,
    act: &'static str,
    after: Lines,
    again: Lines,
    check: fn(&Host) -> Result<()>,
    lasting: bool,
    clean: Lines,
}

/// The operation that a command line is.
pub fn operation(act: &'static str) -> Operation {
    Operation {
        victim: Victim::Daemon,
        needs: |_| Ok(true),
        beside: |_| Ok(Box::new(())),
        setup: |_| Ok(()),
        before: &[],
        act,
        after: &["gone"],
        again: &[],
        check: |_| Ok(()),
        lasting: false,
        clean: &[RM],
    }
}

impl Operation {
    /// Who is killed, instead of the daemon.
    pub fn victim(self, victim: Victim) -> Self {
        Self { victim, ..self }
    }

    /// Whether the kernel can do it: else there is no walk.
    pub fn needs(self, needs: fn(&Host) -> Result<bool>) -> Self {
        Self { needs, ..self }
    }

    /// What runs beside the walk, and ends with it.
    pub fn beside(self, beside: fn(&Host) -> Result<Box<dyn Any>>) -> Self {
        Self { beside, ..self }
    }

    /// What is made once, for the whole walk.
    pub fn setup(self, setup: fn(&Host) -> Result<()>) -> Self {
        Self { setup, ..self }
    }

    /// Commands that make what the operation works on, each time.
    pub fn before(self, before: Lines) -> Self {
        Self { before, ..self }
    }

    /// States that the container may be in after the interruption and a new start; `gone` is none, and all if nothing is said.
    pub fn leaves(self, after: Lines) -> Self {
        Self { after, ..self }
    }

    /// What must succeed then, except on a container that is gone.
    pub fn again(self, again: Lines) -> Self {
        Self { again, ..self }
    }

    /// What must hold after that, whatever became of the container.
    pub fn check(self, check: fn(&Host) -> Result<()>) -> Self {
        Self { check, ..self }
    }

    /// What the operation makes may stay as it is, made or half removed, until `clean`.
    pub fn lasting(self) -> Self {
        Self {
            lasting: true,
            ..self
        }
    }

    /// Removes what is left, instead of the container alone; may find nothing.
    pub fn clean(self, clean: Lines) -> Self {
        Self { clean, ..self }
    }

    /// Kills the victim at each step.
    pub fn walk(self) {
        scene(|host, bystander| {
            if !(self.needs)(host)? {
                return Ok(());
            }
            let _beside = (self.beside)(host)?;
            (self.setup)(host)?;
            let before = host.footprint()?;
            let mut step = 1;
            loop {
                for command in self.before {
                    host.line(&filled(host, command))?;
                }
                let killer = Killer::aim(host, self.victim, step)?;
                let output = host.pontoon(&words(&filled(host, self.act)))?;
                match killer.outcome()? {
                    Outcome::Survived(steps) => {
                        output.ok()?;
                        (self.check)(host).context("nobody was killed")?;
                        self.clean_up(host)?;
                        host.wait_as_before(&before)?;
                        ensure!(steps > 0, "no steps were seen");
                        eprintln!("{}: {steps} steps", self.act);
                        return Ok(());
                    }
                    Outcome::Killed(what) => {
                        let at = format!("{:?} killed at step {what} of {}", self.victim, self.act);
                        eprintln!("{at}");
                        if self.victim == Victim::Daemon {
                            host.wait_killed()?;
                            host.start().with_context(|| at.clone())?;
                        }
                        self.after_kill(host, bystander, &before)
                            .with_context(|| format!("{at}\n{output}"))?;
                    }
                }
                step += stride();
            }
        });
    }

    fn after_kill(&self, host: &Host, bystander: &Bystander, before: &Footprint) -> Result<()> {
        let settled = wait_until("the container settles", LONG, || {
            let state = state(host)?;
            ensure!(self.after.contains(&state.as_str()), "it is {state}");
            Ok(state)
        })?;
        if settled != "running" && !self.lasting {
            // What does not run holds nothing but its record and its files.
            wait_until("nothing is left of the interrupted work", LONG, || {
                let mut left = host.footprint()?.since(before);
                left.retain(|thing| !thing.starts_with("file ") || thing.contains("/run/"));
                ensure!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
                Ok(())
            })?;
        }
        bystander.check(host)?;
        if settled != "gone" {
            for command in self.again {
                host.line(&filled(host, command))?;
            }
        }
        (self.check)(host)?;
        self.clean_up(host)?;
        host.wait_as_before(before)
    }

    fn clean_up(&self, host: &Host) -> Result<()> {
        for command in self.clean {
            host.pontoon(&words(command))?;
        }
        Ok(())
    }
}
