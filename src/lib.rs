//! passt in Rust: connects a virtual machine to the network without privileges.

pub mod conf;
pub mod flow;
pub mod time;
pub mod wire;
