//! What a server of control clients asks of the protocol that they speak.

use std::time::Duration;

use passt_frame::ToGuest;

use super::channel::Channel;
use crate::engine::Engine;

/// What a protocol waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// More bytes of the client; or, if it [watches](Protocol::watches), the end of a turn.
    Wait,
    /// Room: it has more to say than fits now.
    More,
    /// The end of a turn: what the client wants is under way, however long that takes.
    Busy,
    /// Nothing: the connection ends when the client has read what was written.
    Close,
}

/// What is said on one connection after the other.
pub trait Protocol {
    /// Another client has come: nothing is left of the one before.
    fn begin(&mut self);

    /// Uses what the client has sent, as far as it is complete, acts through `engine` and `out`, and writes as far
    /// as there is room. Called when a client has come, when bytes of it have, or its end, when there is room again
    /// for [`Next::More`], and at the end of each turn while it is [busy](Next::Busy) or [watches](Self::watches).
    fn go_on(&mut self, engine: &mut Engine, out: &mut dyn ToGuest, channel: &mut Channel) -> Next;

    /// For how long a request may be on its way, from when the client has come or the one before was used up;
    /// `None` for ever, as for one who only listens.
    fn patience(&self) -> Option<Duration>;

    /// Whether the client is to be told of what happens.
    fn watches(&self) -> bool {
        false
    }

    /// The client has gone.
    fn end(&mut self) {}
}
