//! Builds, as far as they need no kernel: from the text of a Dockerfile to a plan of steps with what each one takes.
//!
//! Layout:
//! - [`dockerfile`]: the language: lines with their numbers, words and variables, instructions, stages;
//! - [`git`]: which commit of a repository an address means, and how it is fetched;
//! - [`ignore`]: `.dockerignore` and the pattern language of `--exclude`;
//! - [`plan`]: stages and settings become steps (run, copy, make a folder) and the configuration of the image;
//! - [`Error`]: a mistake and the lines where it is; [`quote`]: Go's way of writing texts, which histories show.
//!
//! The main path: [`dockerfile::Dockerfile::parse`], then [`plan::Plan::make`] with the settings of a build and a way to find base
//! images. The engine carries the plan out. Nothing here reads files or the clock. Behaviour and words are BuildKit's (its Dockerfile
//! frontend), which is what Docker builds with.

pub mod dockerfile;
mod error;
pub mod git;
pub mod ignore;
pub mod plan;
pub mod quote;
mod suggest;

pub use error::{Error, Lines, Result};
