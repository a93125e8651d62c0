//! The engine as a whole, in one process: frames of a guest on a link in memory, real sockets of the
//! host in a network namespace of the test's own.

#![allow(clippy::panic, missing_docs, reason = "a test fails by panicking; nobody imports it")]

mod allocation;
mod datagrams;
mod dns;
mod fragments;
mod frames;
mod guest;
mod heap;
mod hostile;
mod leaks;
mod namespace;
mod neighbours;
mod packet;
mod services;
mod slot_port;
mod tcp;
mod worker;
mod world;
