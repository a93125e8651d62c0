//! The benchmark of passt and pasta, in two halves.
//!
//! [`load`] is the load generator, `nbench`: one static binary that is server and client,
//! also inside guests that hold nothing else. A client command measures one thing for a
//! window of time, after a warm-up that is thrown away, and prints one line of JSON, a type
//! of [`report`]. Throughput is always counted by the receiver.
//!
//! [`harness`] is `bench`: it builds what stands between client and server from each peer in
//! turn, runs the load, reads what the daemon's processor time was, and writes tables and
//! plots. It knows how each program is started and nothing else about it: every peer gets the
//! same namespaces, addresses, limits and options of the same meaning.
//!
//! No number that comes out of here passes or fails anything.

pub mod args;
pub mod harness;
pub mod histogram;
pub mod load;
pub mod report;
