//! passt in Rust: connects a virtual machine to the network without privileges.

pub mod conf;
pub mod engine;
pub mod flow;
pub mod limits;
pub mod log;
pub mod pasta;
pub mod responder;
pub mod run;
pub mod start;
pub mod sys;
pub mod time;
pub mod wire;
