//! The pure heart: flows, their table, their timers, and what each protocol decides. No I/O, no
//! clock, no system call; time and randomness are arguments.

pub mod fwd;
pub mod index;
pub mod neighbours;
pub mod network;
pub mod reassembly;
pub mod scan;
pub mod side;
pub mod splice;
pub mod table;
pub mod tcp;
pub mod timer;
