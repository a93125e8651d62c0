//! Control while the program runs: sockets on which clients connect, ask and change things, each by a protocol.
//!
//! | file | what it holds |
//! |---|---|
//! | `server` | a listening socket as a source of the loop, and its clients, a few at a time |
//! | `client` | one client: its connection, and how long it is waited for |
//! | `protocol` | what the server asks of each protocol |
//! | `channel` | what a protocol sees of a client: bytes in, bytes out, both bounded |
//! | `configuration` | the protocol of `pesto`, by which forwarded ports change |
//! | `hostfwd` | the protocol of slirp4netns's `--api-socket` |
//! | `json` | the protocol of `--control` |
//! | `cut_off` | what is said of clients that are cut off |
//! | `words` | what is said of ports that cannot be opened |
//!
//! Whoever can connect is trusted with what the protocol can do, but not to be well: a client may send half a
//! message, too much of one, or never read. It costs a turn a few system calls at most, has memory that was
//! reserved at start, and is cut off when its time is over. While there is no client, nothing is called.

pub mod channel;
mod client;
pub mod configuration;
mod cut_off;
pub mod hostfwd;
pub mod json;
pub mod protocol;
pub mod server;
mod words;
