//! DHCPv4 and BOOTP: one address, for ever, to whoever asks (RFC 2131, RFC 951).
//!
//! There is one guest and one address, hence no leases, no state and nothing to refuse: a request
//! for another address is acknowledged with ours, and DECLINE, RELEASE and INFORM need no answer.
//! Rapid Commit (RFC 4039) shortens the exchange to one round trip. The magic cookie is echoed,
//! not judged. Relay fields are echoed too, but the answer always goes to the guest itself.

use std::fmt;
use std::net::Ipv4Addr;

use arrayvec::ArrayVec;

use super::dhcp_options::{self, CODE_PARAMETERS, CODE_RAPID_COMMIT, CODE_TYPE, Facts};
use super::{Ignored, put};
use crate::flow::network::{Ipv4Net, Mac, Network};

/// UDP port of the server.
pub(crate) const SERVER_PORT: u16 = 67;
/// UDP port of the client.
pub(crate) const CLIENT_PORT: u16 = 68;

/// Longest answer, bytes: fills the 576-byte IPv4 packet that every host accepts.
pub(crate) const MAX_REPLY: usize = FIXED_LEN + dhcp_options::MAX_LEN + 1;

/// Bytes before the options, the magic cookie included.
const FIXED_LEN: usize = 240;
/// BOOTP's vendor area without the cookie: options are padded to this.
const MIN_OPTIONS_LEN: usize = 60;

const _: () = assert!(20 + 8 + MAX_REPLY == 576);

/// `op` of the fixed part.
const BOOTREQUEST: u8 = 1;
const BOOTREPLY: u8 = 2;
/// The broadcast flag, in the upper byte of `flags`.
const FLAG_BROADCAST: u8 = 0x80;

/// Message types (option 53).
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;

/// What an answer is, by what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// OFFER to a DISCOVER.
    Offer,
    /// ACK to a DISCOVER with Rapid Commit.
    AckRapidCommit,
    /// ACK to a REQUEST.
    Ack,
    /// Answer to a BOOTP request, which has no message type.
    Bootp,
}

/// The line to log.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offer => "DHCP: offer to discover",
            Self::AckRapidCommit => "DHCP: ack to discover (Rapid Commit)",
            Self::Ack => "DHCP: ack to request",
            Self::Bootp => "BOOTP: ack to request",
        })
    }
}

impl Kind {
    /// The message type of the answer, option 53.
    const fn message_type(self) -> u8 {
        match self {
            Self::Offer => OFFER,
            Self::AckRapidCommit | Self::Ack | Self::Bootp => ACK,
        }
    }
}

/// An answer, and how to send it: from port [`SERVER_PORT`] to port [`CLIENT_PORT`], in a frame to
/// the guest's Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// UDP payload, 300 bytes to [`MAX_REPLY`].
    pub(crate) message: ArrayVec<u8, MAX_REPLY>,
    /// What it is, for the log.
    pub(crate) kind: Kind,
    /// IPv4 source: our address.
    pub(crate) source: Ipv4Addr,
    /// IPv4 destination: the assigned address, or 255.255.255.255 if the client wants a broadcast.
    pub(crate) destination: Ipv4Addr,
    /// Hardware address the client gave, for the log.
    pub(crate) client: Mac,
}

/// Answers a DHCPv4 or BOOTP message; `request` is the UDP payload.
///
/// # Errors
/// Why there is no answer.
pub(crate) fn answer(net: &Network, request: &[u8]) -> Result<Reply, Ignored> {
    let (v4, gateway) = server(net)?;
    let (fixed, options) = request.split_first_chunk::<FIXED_LEN>().ok_or(Ignored::Malformed)?;
    if fixed[0] != BOOTREQUEST {
        return Err(Ignored::Unsupported);
    }
    let asked = Asked::parse(options)?;
    let kind = asked.kind()?;

    let mut message = ArrayVec::new();
    put(&mut message, &fixed_part(fixed, v4.addr));
    dhcp_options::append(
        &mut message,
        &Facts {
            net,
            v4,
            gateway,
            message_type: kind.message_type(),
            rapid_commit: kind == Kind::AckRapidCommit,
        },
        asked.parameters,
    );
    while message.len() < FIXED_LEN + MIN_OPTIONS_LEN {
        message.push(0);
    }
    let broadcast = fixed[10] & FLAG_BROADCAST != 0;
    let [a, b, c, d, e, f] = [28, 29, 30, 31, 32, 33].map(|i: usize| fixed[i]);
    Ok(Reply {
        message,
        kind,
        source: gateway,
        destination: if broadcast { Ipv4Addr::BROADCAST } else { v4.addr },
        client: Mac([a, b, c, d, e, f]),
    })
}

/// What is handed out, and our own address, if the service is on.
fn server(net: &Network) -> Result<(&Ipv4Net, Ipv4Addr), Ignored> {
    let v4 = net.v4.as_ref().filter(|_| net.services.dhcp);
    v4.and_then(|v4| Some((v4, v4.gateway?))).ok_or(Ignored::Disabled)
}

/// The fixed part of the answer to `request`, the cookie included.
fn fixed_part(request: &[u8; FIXED_LEN], assigned: Ipv4Addr) -> [u8; FIXED_LEN] {
    let mut reply = *request;
    reply[0] = BOOTREPLY;
    reply[3] = 0; // hops
    reply[8..10].fill(0); // secs
    reply[16..20].copy_from_slice(&assigned.octets()); // yiaddr
    reply[20..24].fill(0); // siaddr
    reply[44..236].fill(0); // sname, file
    reply
}

/// The options of a request that matter here. Of a repeated one the last counts.
#[derive(Default)]
struct Asked<'a> {
    /// Option 53.
    message_type: Option<u8>,
    /// Option 80 is there.
    rapid_commit: bool,
    /// Option 55: codes in the order the client wants them.
    parameters: Option<&'a [u8]>,
}

impl<'a> Asked<'a> {
    /// Reads an option list. It ends at the end option or with the message.
    fn parse(options: &'a [u8]) -> Result<Self, Ignored> {
        let mut asked = Self::default();
        for option in dhcp_options::parse(options) {
            match option? {
                (CODE_TYPE, &[message_type]) => asked.message_type = Some(message_type),
                (CODE_TYPE, _) => return Err(Ignored::Malformed),
                (CODE_RAPID_COMMIT, _) => asked.rapid_commit = true,
                (CODE_PARAMETERS, codes) => asked.parameters = Some(codes),
                _ => {}
            }
        }
        Ok(asked)
    }

    /// Which answer it gets.
    fn kind(&self) -> Result<Kind, Ignored> {
        match self.message_type {
            None => Ok(Kind::Bootp),
            Some(DISCOVER) if self.rapid_commit => Ok(Kind::AckRapidCommit),
            Some(DISCOVER) => Ok(Kind::Offer),
            Some(REQUEST) => Ok(Kind::Ack),
            Some(_) => Err(Ignored::Unsupported),
        }
    }
}

#[cfg(test)]
mod tests;
