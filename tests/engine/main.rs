//! The engine as a whole, in one process: frames of a guest on a link in memory, real sockets of the
//! host in a network namespace of the test's own.

#![allow(clippy::panic, missing_docs, reason = "a test fails by panicking; nobody imports it")]

mod allocation;
mod anybody;
mod before_reset;
mod broadcasts;
mod bursts;
mod capture;
mod claims;
mod configuration;
mod control;
mod crossing;
mod datagrams;
mod dns;
mod egress;
mod foreign;
mod fragments;
mod frames;
mod front_end;
mod full_link;
mod groups;
mod guest;
mod host_change;
mod hostfwd;
mod hostile;
mod icmp;
mod keepalive;
mod leaks;
mod migration;
mod mtu;
mod namespace;
mod neighbours;
mod own_copy;
mod pace;
mod packet;
mod path_mtu;
mod quantum;
mod queues;
mod reserved;
mod returning;
mod room;
mod runs;
mod services;
mod set_back;
mod short;
mod slot_port;
mod sockets;
mod starved;
mod stations;
mod storms;
mod tails;
mod tap;
mod tcp;
mod urgent;
mod view;
mod worker;
mod world;

#[global_allocator]
static HEAP: passt_support::heap::Counting = passt_support::heap::Counting;
