//! The control sockets of the program as it runs: every command with a guest whose traffic it is about, clients that
//! are not well, and pesto, which asks for people and for collectors. Nothing leaves a namespace.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod asked;
mod changed;
mod guest;
mod host;
mod hostile;
mod openmetrics;
mod pesto;
mod reasons;
mod rig;
mod schema;
mod shortages;
