//! What passes the guest's link by: loopback traffic between the host and the guest's network
//! namespace, both ways. This file decides which accepted connection and which datagram takes that
//! way, and opens sockets for it; [`splice`] moves the bytes of TCP, [`relay`] those of UDP. Who listens is
//! [`listen`](super::listen)'s business, also where ports follow services.
//!
//! Sockets inside the namespace come from a [`SocketMaker`]; only making them needs the namespace. Where that is gone, what
//! comes from the host goes by the link, as with `--no-splice`, and so does that by which it was found out.

pub(super) mod relay;
pub(super) mod splice;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use passt_frame::{Errno, Pipe};

use super::net::Net;
use super::unreachable::reason_of_opening;
use crate::flow::fwd::{self, Bypass, Rule, SpliceSide};
use crate::flow::side::{Pif, Side, Sides};
use crate::limits::{MAX_PIPES, PIPE_BYTES};
use crate::sys::copy_buffer::STREAM_BYTES;
use crate::sys::namespace_socket::{SocketKind, SocketMaker};
use crate::sys::socket::{self, Transport};
use crate::wire::DropReason;

/// What a guest in a network namespace of this host needs besides its link.
pub struct BypassConfig {
    /// What passes by.
    pub how: Bypass,
    /// Makes sockets in the guest's namespace.
    pub sockets: Box<dyn SocketMaker>,
    /// Index of the guest's interface in its namespace, for link-local addresses; 0 if it has none.
    pub interface: u32,
}

/// The same at work.
pub(super) struct BypassParts {
    pub(crate) how: Bypass,
    pub(crate) sockets: Box<dyn SocketMaker>,
    interface: u32,
    pipes: PipePool,
    /// Who makes sockets in the namespace is gone.
    lost: bool,
}

impl BypassParts {
    /// Nothing has passed yet; `descriptors` of the [`BYPASS_DESCRIPTORS`](crate::limits::BYPASS_DESCRIPTORS) may be used.
    pub(crate) fn new(config: BypassConfig, descriptors: usize) -> Self {
        let BypassConfig { how, mut sockets, interface } = config;
        sockets.keep_at_most((descriptors / 4).max(1));
        Self { how, sockets, interface, pipes: PipePool::new(descriptors / 4), lost: false }
    }

    /// The side that we open for what `peer` sent to `local`, on a socket of `rule` that listens on
    /// `pif`, with the interface it is on; `None` if it goes to the link.
    pub(crate) fn side(
        &self,
        net: &Net,
        (pif, rule): (Pif, &Rule),
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Result<Option<(Pif, SpliceSide)>, DropReason> {
        let side = if pif == Pif::Splice {
            fwd::from_namespace(net.network.scope_id(), rule, peer, local).and_then(|side| {
                // Its rule names where it goes: what the namespace calls it is its own loopback.
                net.admit(rule.proto, peer, (side.destination, side.destination))?;
                Ok(Some((Pif::Host, side)))
            })
        } else {
            fwd::to_namespace(self.how, (&net.learned, self.interface), rule, peer, local)
                .map(|side| side.map(|side| (Pif::Splice, side)))
        };
        side.map_err(|refused| {
            log::debug!("No rules to forward {pif} {} {peer} -> {local}: {refused}", rule.proto);
            DropReason::from(refused)
        })
    }

    /// Whether what was to get a socket on `to`, and could not, goes by the link: nobody can make such sockets any more.
    pub(crate) fn has_lost(&self, to: Pif) -> bool {
        to == Pif::Splice && self.lost && !self.how.only
    }

    /// A new socket in the namespace.
    fn make(&mut self, kind: SocketKind) -> Result<OwnedFd, Errno> {
        let made = self.sockets.make(kind);
        if let Err(Errno::PIPE | Errno::CONNRESET) = made
            && !std::mem::replace(&mut self.lost, true)
        {
            // Whoever reaps it tells the operator.
            self.how.enabled &= self.how.only;
            log::debug!("No more sockets in the namespace");
        }
        made
    }
}

/// A new socket on an interface, for an address of some family.
pub(super) fn socket_on(
    bypass: Option<&mut BypassParts>,
    pif: Pif,
    transport: Transport,
    address: SocketAddr,
) -> Result<OwnedFd, Errno> {
    match bypass {
        Some(parts) if pif == Pif::Splice => {
            let kind = SocketKind::of(transport, address.is_ipv4()).ok_or(Errno::INVAL)?;
            parts.make(kind)
        }
        _ => socket::create(transport, address.ip()),
    }
}

/// Runs `open`, and names what failed.
fn open_logged<T>(
    open: impl FnOnce() -> Result<T, Errno>,
    sides: &[Side; 2],
) -> Result<T, DropReason> {
    open().map_err(|errno| {
        log::debug!("spliced: {}: {errno}", Sides(sides));
        reason_of_opening(errno)
    })
}

/// The side of a flow that we open.
pub(super) fn target_side(pif: Pif, side: &SpliceSide) -> Side {
    Side { pif, ours: side.source.into(), endpoint: side.destination.into() }
}

/// Who has used up the quota of pipe pages gets pipes of two pages (pipe(7)): too few for each read.
const LEAST_COPY_BYTES: u32 = 64 * 1024;

/// Pipes for the ways that move many bytes. Made when they are first needed.
struct PipePool {
    free: Vec<Pipe>,
    /// How many there may be.
    most: usize,
    lent: usize,
    /// What the kernel granted last: it is not asked for more again.
    bytes: u32,
}

impl PipePool {
    /// No pipes; there may be as many as `most` and [`MAX_PIPES`] say.
    fn new(most: usize) -> Self {
        let most = most.min(MAX_PIPES);
        Self { free: Vec::with_capacity(most), most, lent: 0, bytes: PIPE_BYTES }
    }

    /// How many bytes the next pipe is sure to hold, if there is one and it is of use for copying.
    fn spare(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            let pipe = self.take()?;
            self.give(pipe, 0);
        }
        let holds = self.free.last()?.capacity().min(STREAM_BYTES as u32);
        (holds >= LEAST_COPY_BYTES).then_some(holds)
    }

    /// An empty pipe, if one is left.
    fn take(&mut self) -> Option<Pipe> {
        let pipe = match self.free.pop() {
            Some(pipe) => pipe,
            None if self.lent >= self.most => return None,
            None => {
                let pipe = Pipe::new(self.bytes)
                    .inspect_err(|errno| log::debug!("no pipe for a spliced connection: {errno}"));
                pipe.ok()?
            }
        };
        self.bytes = pipe.capacity();
        self.lent += 1;
        Some(pipe)
    }

    /// Takes a pipe back; one that still holds bytes is closed.
    fn give(&mut self, pipe: Pipe, held: u32) {
        self.lent -= 1;
        if held == 0 {
            self.free.push(pipe);
        }
    }
}
