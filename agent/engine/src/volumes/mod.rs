//! Volumes: folders that outlive containers, Docker's local driver, and what a container's mounts are made of.
//!
//! # Layout
//! - [`Volumes`] (`store`): all volumes by name, who uses them; one volume's record and folder is `volume`;
//! - `options`: the local driver's `type`, `device` and `o`; `mounting`: mounted on first use, counted;
//! - `plan`: from a container's wishes to its mounts (`check` has Docker's rules, `from` is `--volumes-from`);
//! - `content`: copying an image's content into a new volume; `tree` copies; `image` is a mounted image;
//! - `filter`, `operations`, `usage`: what the commands `volume …` and `system df` ask for.
//!
//! On disk: `<data>/volumes/<name>/_data` and `volume.pb`. Everything in `store`, `volume` and `content` blocks.

mod check;
mod content;
mod filter;
mod from;
mod image;
mod mounting;
mod operations;
mod options;
mod plan;
mod propagation;
mod store;
mod tree;
mod usage;
mod volume;

pub(crate) use check::mounts as check_mounts;
pub(crate) use image::holder;
pub(crate) use mounting::Found;
pub(crate) use plan::PlannedMount;
pub(crate) use store::Volumes;
pub(crate) use usage::usage;

/// The only driver.
pub(crate) const LOCAL: &str = "local";
/// Label of volumes that nobody gave a name.
pub(crate) const ANONYMOUS: &str = "com.docker.volume.anonymous";
