//! Wire formats: pure functions between bytes and types, on etherparse where it has the format.
//!
//! The head of a frame from the guest is parsed once, from a private copy of its first bytes, to a
//! [`Packet`]; what the engine sends is built by [`build`]. Parsing never panics and never reads a
//! length from the guest without checking it against the bytes that are there.

pub(crate) mod build;
pub mod dns;
pub(crate) mod drop_reason;
pub(crate) mod eth;
pub(crate) mod icmp_translation;
pub(crate) mod ip;
pub mod l4;
pub(crate) mod membership;
pub mod seq;
pub(crate) mod tcp;
pub(crate) mod too_big;

pub use drop_reason::DropReason;
pub use eth::Mac;
pub(crate) use ip::{Fragment, Packet};
pub(crate) use seq::SeqNr;
