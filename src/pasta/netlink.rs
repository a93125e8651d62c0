//! Changes to the namespace's interfaces, addresses and routes by rtnetlink(7): one request, one
//! answer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;

use crate::sys::netlink;

/// A socket in the network namespace of the thread that made it.
pub(super) struct Netlink {
    socket: netlink::Netlink,
}

impl Netlink {
    /// Connects to the kernel.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { socket: netlink::Netlink::new()? })
    }

    /// The socket itself, for questions.
    pub(super) fn socket(&self) -> &netlink::Netlink {
        &self.socket
    }

    /// Asks for a change, with `flags` besides those of every request, and waits for the verdict.
    pub(super) fn change(&self, change: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut message = NetlinkMessage::from(change);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes)?;
        let answer = self.socket.receive()?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        match answer.payload {
            NetlinkPayload::Error(verdict) if verdict.code.is_some() => Err(verdict.to_io()),
            NetlinkPayload::Error(_) => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
