//! DHCPv4 and BOOTP: one address, for ever, to whoever asks (RFC 2131, RFC 951).
//!
//! There is one guest and one address, hence no leases and no state. A request for another address is
//! refused, so that the client begins anew at once; one that names another server is that server's business.
//! INFORM gets the options without an address. DECLINE cannot be cured here, there being one address, so it
//! is reported; RELEASE needs no answer. Rapid Commit (RFC 4039) shortens the exchange to one round trip.
//! The magic cookie is echoed, not judged. What a relay asks is answered to the relay.

use std::net::{Ipv4Addr, SocketAddrV4};

use arrayvec::ArrayVec;

use super::dhcp_kind::{DECLINE, DISCOVER, INFORM, Kind, REQUEST};
use super::dhcp_options::{
    self, CODE_CLASS_ID, CODE_CLIENT_ID, CODE_PARAMETERS, CODE_RAPID_COMMIT, CODE_RELAY,
    CODE_REQUESTED, CODE_SERVER_ID, CODE_TYPE, Facts,
};
use super::{Ignored, put};
use crate::flow::network::{Boot, Ipv4Net, Mac, Network};

/// UDP port of the server, and of relays.
pub(crate) const SERVER_PORT: u16 = 67;
/// UDP port of the client.
pub(crate) const CLIENT_PORT: u16 = 68;

/// Longest answer, bytes: fills the 576-byte IPv4 packet that every host accepts.
pub(crate) const MAX_REPLY: usize = FIXED_LEN + dhcp_options::MAX_LEN + 1;

/// Bytes before the options, the magic cookie included.
const FIXED_LEN: usize = 240;
/// BOOTP's vendor area without the cookie: options are padded to this.
const MIN_OPTIONS_LEN: usize = 60;
/// Bytes of the field for the name of the boot file, with its closing zero.
const FILE_LEN: usize = COOKIE - FILE;

/// Where the fields of the fixed part begin (RFC 2131, section 2).
const OP: usize = 0;
const HOPS: usize = 3;
const SECS: usize = 8;
const FLAGS: usize = 10;
/// The client's address, as it says.
const CIADDR: usize = 12;
/// The address that it gets.
const YIADDR: usize = 16;
/// The server that it boots from.
const SIADDR: usize = 20;
/// The relay's address.
const GIADDR: usize = 24;
/// The client's hardware address.
const CHADDR: usize = 28;
const SNAME: usize = 44;
const FILE: usize = 108;
const COOKIE: usize = 236;

const _: () = assert!(20 + 8 + MAX_REPLY == 576);

/// `op` of the fixed part.
const BOOTREQUEST: u8 = 1;
const BOOTREPLY: u8 = 2;
/// The broadcast flag, in the upper byte of `flags`.
const FLAG_BROADCAST: u8 = 0x80;

/// An answer, and how to send it: from port [`SERVER_PORT`], in a frame to the guest's Ethernet address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// UDP payload, 300 bytes to [`MAX_REPLY`].
    pub(crate) message: ArrayVec<u8, MAX_REPLY>,
    /// What it is, for the log.
    pub(crate) kind: Kind,
    /// IPv4 source: our address.
    pub(crate) source: Ipv4Addr,
    /// Where it goes: to the relay that asked; to the address that the client has; to 255.255.255.255 if it
    /// wants a broadcast, or has lost its address; or to the assigned address.
    pub(crate) destination: SocketAddrV4,
    /// Where it goes besides: the address that the client has lost, as a client that asks for more time of it listens there
    /// and hears no broadcast.
    pub(crate) besides: Option<SocketAddrV4>,
    /// Hardware address the client gave, for the log.
    pub(crate) client: Mac,
    /// The client has had the address before, and goes on.
    pub(crate) renews: bool,
}

/// Answers a DHCPv4 or BOOTP message; `request` is the UDP payload.
///
/// # Errors
/// Why there is no answer.
pub(crate) fn answer(net: &Network, request: &[u8]) -> Result<Reply, Ignored> {
    let (v4, gateway) = server(net)?;
    let (fixed, options) = request.split_first_chunk::<FIXED_LEN>().ok_or(Ignored::Malformed)?;
    if fixed[OP] != BOOTREQUEST {
        return Err(Ignored::Unsupported);
    }
    let asked = Asked::parse(options)?;
    let kind = asked.kind(Addresses {
        client: address(fixed, CIADDR),
        assigned: v4.addr,
        ours: gateway,
    })?;

    let mut message = ArrayVec::new();
    put(&mut message, &fixed_part(fixed, kind, v4.addr, net.extra.boot.as_ref()));
    let (client_id, class_id, relay) = (asked.client_id, asked.class_id, asked.relay);
    let facts = Facts { net, v4, gateway, kind, client_id, class_id, relay };
    dhcp_options::append(&mut message, &facts, asked.parameters);
    while message.len() < FIXED_LEN + MIN_OPTIONS_LEN {
        message.push(0);
    }
    let [a, b, c, d, e, f] = [0, 1, 2, 3, 4, 5].map(|i| fixed[CHADDR + i]);
    Ok(Reply {
        message,
        kind,
        source: gateway,
        destination: destination(fixed, kind, v4.addr),
        besides: besides(fixed, kind),
        client: Mac([a, b, c, d, e, f]),
        renews: kind == Kind::Ack && !address(fixed, CIADDR).is_unspecified(),
    })
}

/// What is handed out, and our own address, if the service is on.
fn server(net: &Network) -> Result<(&Ipv4Net, Ipv4Addr), Ignored> {
    let v4 = net.v4.as_ref().filter(|_| net.services.dhcp);
    v4.and_then(|v4| Some((v4, v4.gateway?))).ok_or(Ignored::Disabled)
}

/// The address field that begins at byte `at`.
fn address(fixed: &[u8; FIXED_LEN], at: usize) -> Ipv4Addr {
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| fixed[at + i]);
    Ipv4Addr::new(a, b, c, d)
}

/// Where an answer goes (RFC 2131, 4.1).
fn destination(fixed: &[u8; FIXED_LEN], kind: Kind, assigned: Ipv4Addr) -> SocketAddrV4 {
    let (client, relay) = (address(fixed, CIADDR), address(fixed, GIADDR));
    if !relay.is_unspecified() {
        return SocketAddrV4::new(relay, SERVER_PORT);
    }
    let broadcast = fixed[FLAGS] & FLAG_BROADCAST != 0;
    let address = match kind {
        Kind::Nak(_) => Ipv4Addr::BROADCAST,
        // Even an INFORM may come without an address, contrary to RFC 2131.
        Kind::Inform if client.is_unspecified() => Ipv4Addr::BROADCAST,
        _ if !client.is_unspecified() => client,
        _ if broadcast => Ipv4Addr::BROADCAST,
        _ => assigned,
    };
    SocketAddrV4::new(address, CLIENT_PORT)
}

/// Where a refusal goes besides.
fn besides(fixed: &[u8; FIXED_LEN], kind: Kind) -> Option<SocketAddrV4> {
    let (client, relay) = (address(fixed, CIADDR), address(fixed, GIADDR));
    let renews = matches!(kind, Kind::Nak(lost) if lost == client) && relay.is_unspecified();
    renews.then_some(SocketAddrV4::new(client, CLIENT_PORT))
}

/// The fixed part of the answer to `request`, the cookie included.
fn fixed_part(
    request: &[u8; FIXED_LEN],
    kind: Kind,
    assigned: Ipv4Addr,
    boot: Option<&Boot>,
) -> [u8; FIXED_LEN] {
    let mut reply = *request;
    reply[OP] = BOOTREPLY;
    reply[HOPS] = 0;
    reply[SECS..FLAGS].fill(0);
    reply[YIADDR..GIADDR].fill(0);
    if kind.assigns() {
        reply[YIADDR..SIADDR].copy_from_slice(&assigned.octets());
    }
    reply[SNAME..COOKIE].fill(0);
    if let Kind::Nak(_) = kind {
        reply[CIADDR..YIADDR].fill(0);
        // The relay is to broadcast it: the client has no address any more (RFC 2131, 4.3.2).
        if !address(request, GIADDR).is_unspecified() {
            reply[FLAGS] |= FLAG_BROADCAST;
        }
    } else if let Some(boot) = boot {
        reply[SIADDR..GIADDR]
            .copy_from_slice(&boot.server.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        let name = boot.file.as_bytes();
        if name.len() < FILE_LEN {
            reply[FILE..FILE + name.len()].copy_from_slice(name);
        }
    }
    reply
}

/// The addresses that decide about a request.
#[derive(Clone, Copy)]
struct Addresses {
    /// What the client has, by its field `ciaddr`.
    client: Ipv4Addr,
    /// What we hand out.
    assigned: Ipv4Addr,
    /// Our own, which identifies us.
    ours: Ipv4Addr,
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
    /// Option 50: the address that it wants.
    requested: Option<Ipv4Addr>,
    /// Option 54: the server that it has chosen.
    server: Option<Ipv4Addr>,
    /// Option 60: what kind of client it is.
    class_id: &'a [u8],
    /// Option 61, to be echoed (RFC 6842).
    client_id: Option<&'a [u8]>,
    /// Option 82, to be echoed (RFC 3046).
    relay: Option<&'a [u8]>,
}

impl<'a> Asked<'a> {
    /// Reads an option list. It ends at the end option or with the message.
    fn parse(options: &'a [u8]) -> Result<Self, Ignored> {
        let mut asked = Self::default();
        for option in dhcp_options::parse(options) {
            match option? {
                (CODE_TYPE, &[message_type]) => asked.message_type = Some(message_type),
                (CODE_REQUESTED, &[a, b, c, d]) => {
                    asked.requested = Some(Ipv4Addr::new(a, b, c, d));
                }
                (CODE_SERVER_ID, &[a, b, c, d]) => asked.server = Some(Ipv4Addr::new(a, b, c, d)),
                (CODE_TYPE | CODE_REQUESTED | CODE_SERVER_ID, _) => return Err(Ignored::Malformed),
                (CODE_RAPID_COMMIT, _) => asked.rapid_commit = true,
                (CODE_PARAMETERS, codes) => asked.parameters = Some(codes),
                (CODE_CLASS_ID, class) => asked.class_id = class,
                (CODE_CLIENT_ID, id) => asked.client_id = Some(id),
                (CODE_RELAY, agent) => asked.relay = Some(agent),
                _ => {}
            }
        }
        Ok(asked)
    }

    /// Which answer it gets.
    fn kind(&self, addresses: Addresses) -> Result<Kind, Ignored> {
        match self.message_type {
            None => Ok(Kind::Bootp),
            Some(DISCOVER) if self.rapid_commit => Ok(Kind::AckRapidCommit),
            Some(DISCOVER) => Ok(Kind::Offer),
            Some(REQUEST | DECLINE) if self.server.is_some_and(|id| id != addresses.ours) => {
                Err(Ignored::NotForUs)
            }
            Some(REQUEST) => {
                // Selecting and after a reboot the client names it, renewing and rebinding it uses it
                // (RFC 2131, 4.3.2). Who does neither takes what comes.
                let used = Some(addresses.client).filter(|address| !address.is_unspecified());
                match self.requested.or(used) {
                    Some(foreign) if foreign != addresses.assigned => Ok(Kind::Nak(foreign)),
                    _ => Ok(Kind::Ack),
                }
            }
            Some(INFORM) => Ok(Kind::Inform),
            Some(DECLINE) => {
                let declined = self.requested.unwrap_or(addresses.assigned);
                Err(Ignored::Declined(declined.into()))
            }
            Some(_) => Err(Ignored::Unsupported),
        }
    }
}

#[cfg(test)]
mod tests;
