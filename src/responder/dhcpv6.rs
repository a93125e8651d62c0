//! DHCPv6: one address, for ever, to whoever asks (RFC 8415, RFC 3646, RFC 4704).
//!
//! There is one guest and one address, hence no bindings and no state: the first IA_NA of a message
//! gets the assigned address with infinite lifetimes under its own IAID. Where the client names
//! another address in any IA_NA or IA_TA, REQUEST, RENEW and CONFIRM are told that it is not on the
//! link, which makes the client start anew. Rapid Commit is not used, as RFC 8415 leaves open.
//!
//! Wider than the RFC: REBIND and INFORMATION-REQUEST may carry our server identifier. Narrower:
//! every message needs a client identifier.

use std::fmt;
use std::net::Ipv6Addr;

use arrayvec::ArrayVec;

use super::{Ignored, labels, put, search_domains};
use crate::flow::network::{Ipv6Net, MAX_DNS, Mac, Network};

/// UDP port of the server.
pub(crate) const SERVER_PORT: u16 = 547;
/// UDP port of the client.
pub(crate) const CLIENT_PORT: u16 = 546;

/// Longest answer, bytes.
pub(crate) const MAX_REPLY: usize = HEADER_LEN
    + (OPTION_HEADER_LEN + Duid::LEN)
    + (OPTION_HEADER_LEN + IA_NA_HEADER_LEN + OPTION_HEADER_LEN + IA_ADDR_LEN)
    + (OPTION_HEADER_LEN + MAX_CLIENT_ID)
    + (OPTION_HEADER_LEN + 16 * MAX_DNS)
    + (OPTION_HEADER_LEN + labels::MAX_SEARCH_BYTES)
    + (OPTION_HEADER_LEN + 1 + labels::MAX_NAME);

/// Longest client identifier that is taken: a DUID has at most 130 bytes, real ones 14 to 20.
const MAX_CLIENT_ID: usize = 128;

const HEADER_LEN: usize = 4;
const OPTION_HEADER_LEN: usize = 4;
const IA_NA_HEADER_LEN: usize = 12;
const IA_TA_HEADER_LEN: usize = 4;
const IA_ADDR_LEN: usize = 24;

const _: () = assert!(40 + 8 + MAX_REPLY <= 1280, "fits the least IPv6 MTU");
const _: () = assert!(
    2 + NOT_ON_LINK_TEXT.len() <= IA_ADDR_LEN + labels::MAX_SEARCH_BYTES,
    "a refusal is shorter than the longest answer"
);

/// Message types (RFC 8415, 7.3).
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const INFORMATION_REQUEST: u8 = 11;

/// Option codes.
const OPTION_CLIENT_ID: u16 = 1;
const OPTION_SERVER_ID: u16 = 2;
const OPTION_IA_NA: u16 = 3;
const OPTION_IA_TA: u16 = 4;
const OPTION_IA_ADDR: u16 = 5;
const OPTION_STATUS: u16 = 13;
const OPTION_DNS: u16 = 23;
const OPTION_SEARCH: u16 = 24;
const OPTION_IA_PD: u16 = 25;
const OPTION_FQDN: u16 = 39;

/// T1, T2 and lifetimes that never end.
const FOREVER: [u8; 4] = [0xff; 4];
/// Status code NotOnLink.
const STATUS_NOT_ON_LINK: u16 = 4;
const NOT_ON_LINK_TEXT: &[u8] = b"Prefix not appropriate for link.";
/// Flags S and O of the FQDN option (RFC 4704, 4.1).
const FQDN_FLAG_S: u8 = 0x01;
const FQDN_FLAG_O: u8 = 0x02;

/// Our identifier: type 1, link-layer address plus time (RFC 8415, 11.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duid([u8; Self::LEN]);

impl Duid {
    /// Bytes of an identifier.
    const LEN: usize = 14;

    /// The identifier made from the start time, in seconds since 2000-01-01 00:00 UTC modulo 2^32,
    /// and our Ethernet address.
    #[must_use]
    pub fn new(seconds_since_2000: u32, mac: Mac) -> Self {
        let mut bytes = [0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[4..8].copy_from_slice(&seconds_since_2000.to_be_bytes());
        bytes[8..].copy_from_slice(&mac.0);
        Self(bytes)
    }
}

/// What an answer is, by what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// ADVERTISE to a SOLICIT.
    Advertise,
    /// REPLY to a REQUEST, RENEW or CONFIRM.
    Reply,
    /// REPLY to a REBIND.
    Rebind,
    /// REPLY to an INFORMATION-REQUEST.
    Information,
    /// REPLY that this address is not ours to give.
    NotOnLink(Ipv6Addr),
}

/// The line to log.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Advertise => "DHCPv6: received SOLICIT, sending ADVERTISE",
            Self::Reply => "DHCPv6: received REQUEST/RENEW/CONFIRM, sending REPLY",
            Self::Rebind => "DHCPv6: received REBIND, sending REPLY",
            Self::Information => "DHCPv6: received INFORMATION_REQUEST, sending REPLY",
            Self::NotOnLink(addr) => {
                return write!(f, "DHCPv6: requested address {addr} not on link");
            }
        })
    }
}

/// An answer, and how to send it: from our link-local address and port [`SERVER_PORT`] to port
/// [`CLIENT_PORT`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// UDP payload.
    pub(crate) message: ArrayVec<u8, MAX_REPLY>,
    /// What it is, for the log.
    pub(crate) kind: Kind,
    /// IPv6 destination: the source of the question.
    pub(crate) destination: Ipv6Addr,
    /// IPv6 flow label: the lower 20 bits of the transaction id.
    pub(crate) flow_label: u32,
    /// The address the guest was given, which it can be expected to use from now on.
    pub(crate) assigned: Option<Ipv6Addr>,
}

/// Answers a DHCPv6 message; `request` is the UDP payload, `source` and `destination` its IPv6
/// addresses, `server` our identifier.
///
/// # Errors
/// Why there is no answer.
pub(crate) fn answer(
    net: &Network,
    server: &Duid,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    request: &[u8],
) -> Result<Reply, Ignored> {
    let v6 = net.v6.as_ref().filter(|_| net.services.dhcpv6);
    let (v6, ours) = v6.and_then(|v6| Some((v6, v6.addr?))).ok_or(Ignored::Disabled)?;
    if source.is_unspecified() || source.is_multicast() {
        return Err(Ignored::Malformed);
    }
    if !destination.is_multicast() {
        return Err(Ignored::NotForUs);
    }
    let (&[message_type, x, y, z], options) =
        request.split_first_chunk().ok_or(Ignored::Malformed)?;
    let asked = Asked::parse(options, ours)?;
    let kind = asked.kind(message_type, server)?;

    let mut message = Message::new();
    let reply_type = if kind == Kind::Advertise { ADVERTISE } else { REPLY };
    put(&mut message, &[reply_type, x, y, z]);
    put_option(&mut message, OPTION_SERVER_ID, &[&server.0]);
    let assigned = match (kind, &asked.foreign) {
        (Kind::NotOnLink(_), Some(foreign)) => {
            put_not_on_link(&mut message, foreign);
            put_option(&mut message, OPTION_CLIENT_ID, &[asked.client]);
            None
        }
        _ => put_assignment(&mut message, net, v6, ours, &asked),
    };
    Ok(Reply {
        message,
        kind,
        destination: source,
        flow_label: u32::from_be_bytes([0, x & 0x0f, y, z]),
        assigned,
    })
}

/// An answer while it is written.
type Message = ArrayVec<u8, MAX_REPLY>;

/// An identity association that holds an address other than the assigned one.
struct Foreign<'a> {
    /// Option code of the association.
    code: u16,
    /// What stands before its options.
    header: &'a [u8],
    addr: Ipv6Addr,
}

/// What matters of a question. Of a repeated option the last counts, of associations the first.
struct Asked<'a> {
    client: &'a [u8],
    server: Option<&'a [u8]>,
    /// IAID of the first IA_NA.
    iaid: Option<[u8; 4]>,
    /// Any association was there.
    has_association: bool,
    /// The first association with an address other than the assigned one.
    foreign: Option<Foreign<'a>>,
    /// Flag S of the client's FQDN option.
    fqdn_flag_s: bool,
}

impl<'a> Asked<'a> {
    /// Reads the options of a message; `ours` is the assigned address.
    fn parse(options: &'a [u8], ours: Ipv6Addr) -> Result<Self, Ignored> {
        let mut client = None;
        let mut asked = Self {
            client: &[],
            server: None,
            iaid: None,
            has_association: false,
            foreign: None,
            fqdn_flag_s: false,
        };
        for option in parse_options(options) {
            let (code, value) = option?;
            match code {
                OPTION_CLIENT_ID => client = Some(value),
                OPTION_SERVER_ID => asked.server = Some(value),
                OPTION_IA_NA | OPTION_IA_TA => asked.add_association(code, value, ours)?,
                OPTION_IA_PD => asked.has_association = true,
                OPTION_FQDN => {
                    let flags = value.first().ok_or(Ignored::Malformed)?;
                    asked.fqdn_flag_s = flags & FQDN_FLAG_S != 0;
                }
                _ => {}
            }
        }
        asked.client = client
            .filter(|id| (1..=MAX_CLIENT_ID).contains(&id.len()))
            .ok_or(Ignored::Malformed)?;
        Ok(asked)
    }

    /// Takes note of an IA_NA or IA_TA.
    fn add_association(
        &mut self,
        code: u16,
        value: &'a [u8],
        ours: Ipv6Addr,
    ) -> Result<(), Ignored> {
        let header_len = match code {
            OPTION_IA_NA => IA_NA_HEADER_LEN,
            _ => IA_TA_HEADER_LEN,
        };
        let (header, options) = value.split_at_checked(header_len).ok_or(Ignored::Malformed)?;
        self.has_association = true;
        if code == OPTION_IA_NA && self.iaid.is_none() {
            self.iaid = header.first_chunk().copied();
        }
        for option in parse_options(options) {
            let (OPTION_IA_ADDR, value) = option? else {
                continue;
            };
            let value: &[u8; IA_ADDR_LEN] = value.first_chunk().ok_or(Ignored::Malformed)?;
            let addr = value.first_chunk::<16>().map(|a| Ipv6Addr::from(*a));
            if let Some(addr) = addr.filter(|a| *a != ours)
                && self.foreign.is_none()
            {
                self.foreign = Some(Foreign { code, header, addr });
            }
        }
        Ok(())
    }

    /// Which answer a message of this type gets.
    fn kind(&self, message_type: u8, server: &Duid) -> Result<Kind, Ignored> {
        let unnamed = self.server.is_none();
        let named = self.server == Some(&server.0);
        let checked = match &self.foreign {
            None => Kind::Reply,
            Some(foreign) => Kind::NotOnLink(foreign.addr),
        };
        match message_type {
            SOLICIT if unnamed => Ok(Kind::Advertise),
            REQUEST | RENEW if named => Ok(checked),
            CONFIRM if unnamed => Ok(checked),
            REBIND if named || unnamed => Ok(Kind::Rebind),
            INFORMATION_REQUEST if self.has_association => Err(Ignored::Malformed),
            INFORMATION_REQUEST if named || unnamed => Ok(Kind::Information),
            SOLICIT | REQUEST | RENEW | CONFIRM | REBIND | INFORMATION_REQUEST => {
                Err(Ignored::NotForUs)
            }
            _ => Err(Ignored::Unsupported),
        }
    }
}

/// Options as code and value; a truncated one is the last item, as an error.
fn parse_options(mut rest: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Ignored>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let option = rest.split_first_chunk().and_then(|(header, tail)| {
            let &[c0, c1, l0, l1] = header;
            let len = u16::from_be_bytes([l0, l1]).into();
            let (value, tail) = tail.split_at_checked(len)?;
            Some((u16::from_be_bytes([c0, c1]), value, tail))
        });
        let Some((code, value, tail)) = option else {
            rest = &[];
            return Some(Err(Ignored::Malformed));
        };
        rest = tail;
        Some(Ok((code, value)))
    })
}

/// Appends what an address holder, or one who only wants information, is told; returns the address
/// if it is given.
fn put_assignment(
    message: &mut Message,
    net: &Network,
    v6: &Ipv6Net,
    ours: Ipv6Addr,
    asked: &Asked<'_>,
) -> Option<Ipv6Addr> {
    if let Some(iaid) = asked.iaid {
        put_ia_na(message, iaid, ours);
    }
    put_option(message, OPTION_CLIENT_ID, &[asked.client]);
    if net.services.hand_out_dns && !v6.dns.is_empty() {
        let servers: ArrayVec<u8, { 16 * MAX_DNS }> =
            v6.dns.iter().flat_map(Ipv6Addr::octets).collect();
        put_option(message, OPTION_DNS, &[&servers]);
    }
    let search: ArrayVec<u8, { labels::MAX_SEARCH_BYTES }> = labels::list(search_domains(net));
    if !search.is_empty() {
        put_option(message, OPTION_SEARCH, &[&search]);
    }
    let mut name = ArrayVec::<u8, { labels::MAX_NAME }>::new();
    if labels::append(&mut name, net.fqdn.as_deref().unwrap_or_default()) {
        let flags = if asked.fqdn_flag_s { FQDN_FLAG_O } else { 0 };
        put_option(message, OPTION_FQDN, &[&[flags], &name]);
    }
    asked.iaid.map(|_| ours)
}

/// Appends an IA_NA that holds `addr` for ever.
fn put_ia_na(message: &mut Message, iaid: [u8; 4], addr: Ipv6Addr) {
    let mut holder = ArrayVec::<u8, { OPTION_HEADER_LEN + IA_ADDR_LEN }>::new();
    put_option(&mut holder, OPTION_IA_ADDR, &[&addr.octets(), &FOREVER, &FOREVER]);
    put_option(message, OPTION_IA_NA, &[&iaid, &FOREVER, &FOREVER, &holder]);
}

/// Appends the client's association with the news that its address is not ours to give.
fn put_not_on_link(message: &mut Message, foreign: &Foreign<'_>) {
    let mut status = ArrayVec::<u8, { OPTION_HEADER_LEN + 2 + NOT_ON_LINK_TEXT.len() }>::new();
    let code = STATUS_NOT_ON_LINK.to_be_bytes();
    put_option(&mut status, OPTION_STATUS, &[&code, NOT_ON_LINK_TEXT]);
    put_option(message, foreign.code, &[foreign.header, &status]);
}

/// Appends an option whose value is the parts joined.
fn put_option<const N: usize>(message: &mut ArrayVec<u8, N>, code: u16, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let len = u16::try_from(len).expect("an option is shorter than the message, MAX_REPLY");
    put(message, &code.to_be_bytes());
    put(message, &len.to_be_bytes());
    for part in parts {
        put(message, part);
    }
}

#[cfg(test)]
mod tests;
