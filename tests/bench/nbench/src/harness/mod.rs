//! The harness: what is measured (`cells`), between what (`rig`, `peers`), how (`measure`, `hold`,
//! `soak`, `endurance`, `usage`),
//! and how it is told (`results`, `stats`, `targets`, `markdown`, `svg`).
//!
//! It runs inside the world that `tests/bench/run` makes: process, mount and network namespaces
//! that end with it. So nothing it starts outlives it, whatever happens.

pub mod cells;
pub mod cli;
mod endurance;
mod guest;
mod hold;
pub mod markdown;
mod measure;
mod peers;
mod process;
pub mod results;
mod rig;
mod session;
mod soak;
pub mod stats;
pub mod svg;
pub mod targets;
mod usage;
mod world;

use std::error::Error;

/// What can go wrong while measuring; one line each.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
