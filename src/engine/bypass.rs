//! What passes the guest's link by: loopback traffic between the host and the guest's network
//! namespace, both ways. This file decides which accepted connection and which datagram takes that
//! way, and opens the sockets for it; [`splice`](super::splice) moves the bytes of TCP,
//! [`relay`](super::relay) those of UDP, [`auto`](super::auto) opens and closes ports as services come
//! and go.
//!
//! Sockets inside the namespace come from a [`SocketMaker`]; only making them needs the namespace.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use passt_frame::{Errno, Pipe, ToGuest};

use super::Engine;
use super::listen::Arrival;
use crate::flow::fwd::{self, Bypass, Rule, RuleTable, SpliceSide};
use crate::flow::side::{Pif, Side};
use crate::limits::{MAX_PIPES, NAMESPACE_STOCK, PIPE_BYTES};
use crate::sys::batch::{Batch, STREAM_BYTES};
use crate::sys::namespace_socket::{SocketKind, SocketMaker};
use crate::sys::socket::{self, Transport};
use crate::sys::stream;
use crate::wire::DropReason;

use super::auto::Scans;

/// What a guest in a network namespace of this host needs besides its link.
pub struct BypassConfig {
    /// What passes by.
    pub how: Bypass,
    /// Makes sockets in the guest's namespace.
    pub sockets: Box<dyn SocketMaker>,
    /// Ports of the namespace's loopback interface that lead to the host's.
    pub outbound: RuleTable,
    /// Index of the guest's interface in its namespace, for link-local addresses; 0 if it has none.
    pub interface: u32,
}

/// The same at work.
pub(super) struct BypassParts {
    pub how: Bypass,
    pub sockets: Box<dyn SocketMaker>,
    pub outbound: RuleTable,
    pub interface: u32,
    pub pipes: PipePool,
    pub batch: Batch,
    pub scans: Scans,
}

impl Engine {
    /// Forwards loopback traffic past the link, and ports of the namespace to the host. To be called
    /// before [`listen`](Self::listen), where sockets can still be made in the guest's namespace.
    ///
    /// # Errors
    /// What making the netlink sockets for port detection reports, if a rule needs them.
    pub fn set_bypass(&mut self, config: BypassConfig) -> Result<(), Errno> {
        let BypassConfig { how, mut sockets, outbound, interface } = config;
        let scans = Scans::new(&self.addressing.rules, &outbound, sockets.as_mut())?;
        let (pipes, batch) = (PipePool::default(), Batch::default());
        self.flows.keep_back(2 * MAX_PIPES + 2 * NAMESPACE_STOCK);
        let parts = BypassParts { how, sockets, outbound, interface, pipes, batch, scans };
        self.bypass = Some(Box::new(parts));
        Ok(())
    }

    /// The side that we open for what `peer` sent to `local`, on a socket of `rule` that listens on
    /// `pif`, with the interface it is on; `None` if it goes to the link.
    pub(super) fn bypass_side(
        &self,
        pif: Pif,
        rule: &Rule,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Result<Option<(Pif, SpliceSide)>, DropReason> {
        let Some(parts) = &self.bypass else { return Ok(None) };
        let side = if pif == Pif::Splice {
            fwd::from_namespace(self.addressing.net.scope_id(), rule, peer, local)
                .map(|side| Some((Pif::Host, side)))
        } else {
            let guest = (&self.addressing.learned, parts.interface);
            fwd::to_namespace(parts.how, guest, rule, peer, local)
                .map(|side| side.map(|side| (Pif::Splice, side)))
        };
        side.map_err(|refused| {
            log::debug!("No rules to forward {pif} {} {peer} -> {local}: {refused}", rule.proto);
            DropReason::from(refused)
        })
    }

    /// A listening socket has accepted a connection.
    pub(super) fn route_connection(
        &mut self,
        out: &mut dyn ToGuest,
        rule: &Rule,
        arrival: Arrival,
    ) {
        let Arrival { pif, peer, .. } = arrival;
        let side = arrival.local(rule).and_then(|local| {
            let side = self.bypass_side(pif, rule, peer, local)?;
            Ok((local, side))
        });
        let opened = match side {
            Ok((local, None)) => return self.accepted(out, arrival, local, rule),
            Ok((local, Some((to, side)))) => {
                let initiating = Side { pif, ours: local.into(), endpoint: peer.into() };
                let sides = [initiating, target_side(to, &side)];
                self.open_splice(sides, &side).map(|parts| (sides, parts))
            }
            Err(reason) => Err(reason),
        };
        let added = match opened {
            Ok((sides, target)) => self.add_splice(sides, arrival.socket, target),
            Err(reason) => {
                let _ = stream::reset_on_close(arrival.socket.as_fd());
                Err(reason)
            }
        };
        if let Err(reason) = added {
            self.outbox.drops.count(reason);
        }
    }

    /// Connects the second socket of a spliced connection; with it, whether it is connected already.
    fn open_splice(
        &mut self,
        sides: [Side; 2],
        side: &SpliceSide,
    ) -> Result<(OwnedFd, bool), DropReason> {
        let open = || -> Result<(OwnedFd, bool), Errno> {
            let socket = self.socket_on(sides[1].pif, Transport::Tcp, side.destination)?;
            stream::keep_urgent_inline(socket.as_fd())?;
            let source = side.source.ip();
            let kernels_choice = source.is_unspecified()
                || (source.is_loopback() && source == loopback_of(side.destination));
            if !kernels_choice {
                socket::bind_address(socket.as_fd(), source)?;
            }
            let connected = socket::connect(socket.as_fd(), side.destination)?;
            Ok((socket, connected))
        };
        open_logged(open, &sides)
    }

    /// A new socket on an interface, for an address of some family.
    pub(super) fn socket_on(
        &mut self,
        pif: Pif,
        transport: Transport,
        address: SocketAddr,
    ) -> Result<OwnedFd, Errno> {
        match &mut self.bypass {
            Some(parts) if pif == Pif::Splice => {
                let kind = SocketKind::of(transport, address.is_ipv4()).ok_or(Errno::INVAL)?;
                parts.sockets.make(kind)
            }
            _ => socket::create(transport, address.ip()),
        }
    }
}

/// Runs `open`, and names what failed.
pub(super) fn open_logged<T>(
    open: impl FnOnce() -> Result<T, Errno>,
    sides: &[Side; 2],
) -> Result<T, DropReason> {
    open().map_err(|errno| {
        log::debug!("{} => {}: {errno}", sides[0], sides[1]);
        match errno {
            Errno::MFILE | Errno::NFILE => DropReason::DescriptorsExhausted,
            _ => DropReason::SocketFailed,
        }
    })
}

/// The side of a flow that we open.
pub(super) fn target_side(pif: Pif, side: &SpliceSide) -> Side {
    Side { pif, ours: side.source.into(), endpoint: side.destination.into() }
}

/// The address that the kernel chooses as the source of what goes to its own addresses.
fn loopback_of(destination: SocketAddr) -> std::net::IpAddr {
    if destination.is_ipv4() {
        std::net::Ipv4Addr::LOCALHOST.into()
    } else {
        std::net::Ipv6Addr::LOCALHOST.into()
    }
}

/// Who has used up the quota of pipe pages gets pipes of two pages (pipe(7)): too few for each read.
const LEAST_COPY_BYTES: u32 = 64 * 1024;

/// Pipes for the ways that move many bytes. Made when they are first needed, at most [`MAX_PIPES`].
pub(super) struct PipePool {
    free: Vec<Pipe>,
    lent: usize,
    /// What the kernel granted last: it is not asked for more again.
    bytes: u32,
}

impl Default for PipePool {
    fn default() -> Self {
        Self { free: Vec::with_capacity(MAX_PIPES), lent: 0, bytes: PIPE_BYTES }
    }
}

impl PipePool {
    /// How many bytes the next pipe is sure to hold, if there is one and it is of use for copying.
    pub fn spare(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            let pipe = self.take()?;
            self.give(pipe, 0);
        }
        let holds = self.free.last()?.capacity().min(STREAM_BYTES as u32);
        (holds >= LEAST_COPY_BYTES).then_some(holds)
    }

    /// An empty pipe, if one is left.
    pub fn take(&mut self) -> Option<Pipe> {
        let pipe = match self.free.pop() {
            Some(pipe) => pipe,
            None if self.lent >= MAX_PIPES => return None,
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
    pub fn give(&mut self, pipe: Pipe, held: u32) {
        self.lent -= 1;
        if held == 0 {
            self.free.push(pipe);
        }
    }
}
