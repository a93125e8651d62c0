//! A guest for the tests: the front-end half of vhost-user and the driver half of the rings, in
//! process, with nothing between it and the back-end but a socket pair and a memfd.
//!
//! * [`Client`] speaks raw vhost-user messages, well-formed or not, byte for byte.
//! * [`GuestMemory`] is a memfd, mapped here and lent to the back-end.
//! * [`DriverRing`] is the driver's side of a split ring; it checks what it is given.
//! * [`Guest`] puts them together, with one queue pair or more: connect, send frames, receive frames; it is also the link of a
//!   smoltcp stack.
//!
//! [`pcap`] reads what a capture recorded, and checks it.
//!
//! The back-end may run in the same thread. Whoever waits for it therefore calls a *pump* first, a
//! closure that lets the back-end handle what is there; with a back-end in another process the pump
//! does nothing and the socket waits.

mod client;
mod guest;
mod header;
mod log;
mod memory;
pub mod pcap;
mod phy;
mod ring;

pub use client::{Client, request};
pub use guest::{Guest, MAX_PAIRS, Options, PROTOCOL_OF_UML, RX, TX, base, bit};
pub use header::NetHeader;
pub use log::{DirtyLog, PAGE};
pub use memory::{GuestMemory, USER_BASE};
pub use phy::{Received, Sending};
pub use ring::{Buffer, DriverRing};
