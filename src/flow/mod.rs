//! The pure heart: flows, their table, their timers, and what each protocol decides. No I/O, no
//! clock, no system call; time and randomness are arguments.

pub mod fwd;
pub(crate) mod groups;
pub(crate) mod index;
pub(crate) mod migration;
pub(crate) mod names;
pub mod neighbours;
pub mod network;
pub(crate) mod reassembly;
pub mod scan;
pub(crate) mod side;
pub(crate) mod splice;
pub(crate) mod stations;
pub(crate) mod table;
pub mod tcp;
pub mod timer;
