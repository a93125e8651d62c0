//! The pure heart: flows, their table, their timers, and what each protocol decides. No I/O, no
//! clock, no system call; time and randomness are arguments.

pub mod network;
pub mod tcp;
