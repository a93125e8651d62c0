//! The links of old: the tap device of a network namespace. They move frames and know no IP.

pub mod tap;

pub use tap::{Offloads, Tap};
