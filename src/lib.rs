//! passt in Rust: connects a virtual machine to the network without privileges.

pub mod conf;
pub mod flow;
pub mod limits;
pub mod sys;
pub mod responder;
pub mod time;
pub mod wire;
