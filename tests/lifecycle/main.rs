//! The program's life as its callers see it: what it inherits and passes on, when it is ready, where
//! its messages go, what it records. Nothing leaves the machine.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod activation;
mod capture;
mod command;
mod ending;
mod helpers;
mod inherited;
mod logging;
mod readiness;
mod rig;
mod signals;
mod stats;
mod unready;
