//! The harness: what is measured (`cells`), between what (`rig`, `peers`), how (`measure`, `usage`),
//! and how it is told (`results`, `stats`, `markdown`, `svg`).
//!
//! It runs inside the world that `tests/bench/run` makes: process, mount and network namespaces
//! that end with it. So nothing it starts outlives it, whatever happens.

pub mod cells;
pub mod cli;
mod guest;
pub mod markdown;
mod measure;
mod peers;
mod process;
pub mod results;
mod rig;
mod session;
pub mod stats;
pub mod svg;
mod usage;
mod world;

use std::error::Error;

/// What can go wrong while measuring; one line each.
pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;
