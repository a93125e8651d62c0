//! DHCPv6: one address, for ever, to whoever asks (RFC 8415, RFC 3646, RFC 4704).
//!
//! There is one guest and one address, hence no bindings and no state. Each identity association (IA) of a
//! message gets an answer of its own: the IA_NA that holds the assigned address, or else the first one, gets that
//! address with infinite lifetimes (where that may change, it is to ask again soon); other IA_NAs and IA_TAs are told that there are no more, IA_PDs that there
//! are no prefixes. Where the client names another address, REQUEST and CONFIRM are told that it is not on the
//! link, which makes the client start anew; RENEW and REBIND end its lifetime. Rapid Commit is not used, as
//! RFC 8415 leaves open. Our identifier is made from our Ethernet address alone, so that a client goes on with
//! us after a restart.
//!
//! Wider than the RFC: REBIND and INFORMATION-REQUEST may carry our server identifier. Narrower:
//! every message needs a client identifier, and associations beyond [`MAX_ASSOCIATIONS`] get no answer.

use std::fmt;
use std::net::Ipv6Addr;

use arrayvec::ArrayVec;

use super::{Ignored, labels, put, search_domains};
use crate::flow::network::{Ipv6Net, MAX_DNS, Mac, Network, RENEW_S, rebinding};

/// UDP port of the server.
pub(crate) const SERVER_PORT: u16 = 547;
/// UDP port of the client.
pub(crate) const CLIENT_PORT: u16 = 546;

/// Longest answer, bytes: what fits the least IPv6 MTU.
pub(crate) const MAX_REPLY: usize = 1280 - 40 - 8;

/// Longest client identifier that is taken: a DUID has at most 130 bytes, real ones 14 to 20.
const MAX_CLIENT_ID: usize = 128;

/// Most associations that are answered; clients have one or two.
const MAX_ASSOCIATIONS: usize = 8;

const HEADER_LEN: usize = 4;
const OPTION_HEADER_LEN: usize = 4;
const IA_HEADER_LEN: usize = 12;
const IA_TA_HEADER_LEN: usize = 4;
const IA_ADDR_LEN: usize = 24;

/// Bytes for the addresses in the answer to one association: those that do not fit keep their lifetime.
const MAX_IA_BODY: usize = 3 * (OPTION_HEADER_LEN + IA_ADDR_LEN);

/// What is always in an answer.
const MANDATORY_LEN: usize = HEADER_LEN
    + (OPTION_HEADER_LEN + Duid::LEN)
    + (OPTION_HEADER_LEN + MAX_CLIENT_ID)
    + MAX_ASSOCIATIONS * (OPTION_HEADER_LEN + IA_HEADER_LEN + MAX_IA_BODY)
    + MAX_STATUS_LEN;
/// Longest status option.
const MAX_STATUS_LEN: usize = OPTION_HEADER_LEN + 2 + NOT_ON_LINK.text.len();
/// An answer to one association with all that the guest can be told, but for what the operator adds.
const USUAL_LEN: usize = HEADER_LEN
    + (OPTION_HEADER_LEN + Duid::LEN)
    + (OPTION_HEADER_LEN + MAX_CLIENT_ID)
    + (OPTION_HEADER_LEN + IA_HEADER_LEN + OPTION_HEADER_LEN + IA_ADDR_LEN)
    + (OPTION_HEADER_LEN + 16 * MAX_DNS)
    + (OPTION_HEADER_LEN + labels::MAX_SEARCH_BYTES)
    + (OPTION_HEADER_LEN + 1 + labels::MAX_NAME);

/// Most bytes of options that the operator may add, with their headers.
pub(crate) const MAX_EXTRA_LEN: usize = 200;

const _: () = assert!(MANDATORY_LEN <= MAX_REPLY);
const _: () = assert!(USUAL_LEN + MAX_EXTRA_LEN <= MAX_REPLY);
const _: () = assert!(MAX_STATUS_LEN <= MAX_IA_BODY);

/// Message types (RFC 8415, 7.3).
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
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
pub(crate) const OPTION_FQDN: u16 = 39;

/// Codes that belong to the protocol: the operator cannot set them.
pub(crate) const OWN: [u16; 16] = [0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 19, 20, OPTION_IA_PD];

/// T1, T2 and lifetimes that never end.
const FOREVER: [u8; 4] = [0xff; 4];
/// T1 and T2 of nothing, and the lifetime of what has ended.
const ENDED: [u8; 4] = [0; 4];
/// Flags S and O of the FQDN option (RFC 4704, 4.1).
const FQDN_FLAG_S: u8 = 0x01;
const FQDN_FLAG_O: u8 = 0x02;

/// A status: code and text (RFC 8415, 21.13).
#[derive(Clone, Copy)]
struct Status {
    code: u16,
    text: &'static str,
}

const SUCCESS: Status = Status { code: 0, text: "" };
const NO_ADDRS_AVAIL: Status = Status { code: 2, text: "There is one address only." };
const NO_BINDING: Status = Status { code: 3, text: "Not an address of this guest." };
const NOT_ON_LINK: Status = Status { code: 4, text: "Prefix not appropriate for link." };
const NO_PREFIX_AVAIL: Status = Status { code: 6, text: "There are no prefixes." };

/// Our identifier: type 3, link-layer address (RFC 8415, 11.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duid([u8; Self::LEN]);

impl Duid {
    /// Bytes of an identifier.
    const LEN: usize = 10;

    /// The identifier made from our Ethernet address.
    #[must_use]
    pub fn new(mac: Mac) -> Self {
        let mut bytes = [0, 3, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes[4..].copy_from_slice(&mac.0);
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
    /// REPLY to a RELEASE.
    Release,
    /// REPLY to a DECLINE.
    Decline,
}

/// The line to log.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Advertise => "DHCPv6: received SOLICIT, sending ADVERTISE",
            Self::Reply => "DHCPv6: received REQUEST/RENEW/CONFIRM, sending REPLY",
            Self::Rebind => "DHCPv6: received REBIND, sending REPLY",
            Self::Information => "DHCPv6: received INFORMATION_REQUEST, sending REPLY",
            Self::Release => "DHCPv6: received RELEASE, sending REPLY",
            Self::Decline => "DHCPv6: received DECLINE, sending REPLY",
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
    let mut asked = Asked::parse(message_type, options, ours)?;
    if net.services.renew {
        asked.times = [RENEW_S, rebinding(RENEW_S)].map(u32::to_be_bytes);
    }
    asked.check_server(message_type, server)?;

    let mut message = Message::new();
    let reply_type = if message_type == SOLICIT { ADVERTISE } else { REPLY };
    put(&mut message, &[reply_type, x, y, z]);
    put_option(&mut message, OPTION_SERVER_ID, &[&server.0]);
    let foreign = asked.associations.iter().find_map(|ia| ia.foreign);
    let not_on_link = foreign.map_or(Kind::Reply, Kind::NotOnLink);
    let (kind, assigned) = match message_type {
        SOLICIT => (Kind::Advertise, put_associations(&mut message, &asked, ours, Terms::Offer)),
        REQUEST => (not_on_link, put_associations(&mut message, &asked, ours, Terms::Grant)),
        RENEW => (not_on_link, put_associations(&mut message, &asked, ours, Terms::Extend)),
        REBIND => (Kind::Rebind, put_associations(&mut message, &asked, ours, Terms::Extend)),
        CONFIRM => (not_on_link, put_confirmation(&mut message, &asked, foreign.is_none())?),
        RELEASE => (Kind::Release, put_farewell(&mut message, &asked)),
        DECLINE => (Kind::Decline, put_farewell(&mut message, &asked)),
        _ => (Kind::Information, false),
    };
    if !asked.client.is_empty() {
        put_option(&mut message, OPTION_CLIENT_ID, &[asked.client]);
    }
    if !matches!(message_type, CONFIRM | RELEASE | DECLINE) {
        put_configuration(&mut message, net, v6, asked.fqdn_flag_s);
    }
    Ok(Reply {
        message,
        kind,
        destination: source,
        flow_label: u32::from_be_bytes([0, x & 0x0f, y, z]),
        assigned: assigned.then_some(ours),
    })
}

/// An answer while it is written.
type Message = ArrayVec<u8, MAX_REPLY>;

/// An identity association of the client's.
struct Association<'a> {
    /// Its option code: IA_NA, IA_TA or IA_PD.
    code: u16,
    iaid: &'a [u8],
    /// The options in it: addresses as a rule.
    options: &'a [u8],
    /// Whether it holds the assigned address.
    holds_ours: bool,
    /// The first address in it that is another one.
    foreign: Option<Ipv6Addr>,
}

/// What matters of a question. Of a repeated option the last counts.
struct Asked<'a> {
    /// Its identifier; empty if it has not said who it is.
    client: &'a [u8],
    server: Option<&'a [u8]>,
    /// The associations, in their order.
    associations: ArrayVec<Association<'a>, MAX_ASSOCIATIONS>,
    /// Flag S of the client's FQDN option.
    fqdn_flag_s: bool,
    /// T1 and T2: when the client is to ask us again, and when any server. Without the latter it would ask one for ever that
    /// is no more, where we have come in its place.
    times: [[u8; 4]; 2],
}

impl<'a> Asked<'a> {
    /// Reads the options of a message; `ours` is the assigned address.
    fn parse(message_type: u8, options: &'a [u8], ours: Ipv6Addr) -> Result<Self, Ignored> {
        let mut client = None;
        let mut asked = Self {
            client: &[],
            server: None,
            associations: ArrayVec::new(),
            fqdn_flag_s: false,
            times: [FOREVER; 2],
        };
        for option in parse_options(options) {
            let (code, value) = option?;
            match code {
                OPTION_CLIENT_ID => client = Some(value),
                OPTION_SERVER_ID => asked.server = Some(value),
                OPTION_IA_NA | OPTION_IA_TA | OPTION_IA_PD => {
                    let association = parse_association(code, value, ours)?;
                    let _ = asked.associations.try_push(association);
                }
                OPTION_FQDN => {
                    let flags = value.first().ok_or(Ignored::Malformed)?;
                    asked.fqdn_flag_s = flags & FQDN_FLAG_S != 0;
                }
                _ => {}
            }
        }
        asked.client = match client {
            Some(id) if (1..=MAX_CLIENT_ID).contains(&id.len()) => id,
            // Who wants no address need not say who it is (RFC 8415, 18.2.6; RFC 7844, 4.4).
            None if message_type == INFORMATION_REQUEST => &[],
            _ => return Err(Ignored::Malformed),
        };
        Ok(asked)
    }

    /// Whether a message of this type, with this server identifier or none, is for us (RFC 8415, 16).
    fn check_server(&self, message_type: u8, server: &Duid) -> Result<(), Ignored> {
        let unnamed = self.server.is_none();
        let named = self.server == Some(&server.0);
        let for_us = match message_type {
            SOLICIT | CONFIRM => unnamed,
            REQUEST | RENEW | RELEASE | DECLINE => named,
            INFORMATION_REQUEST if !self.associations.is_empty() => return Err(Ignored::Malformed),
            REBIND | INFORMATION_REQUEST => named || unnamed,
            _ => return Err(Ignored::Unsupported),
        };
        if for_us { Ok(()) } else { Err(Ignored::NotForUs) }
    }

    /// Which of the associations is to have the assigned address.
    fn chosen(&self) -> Option<usize> {
        let mut all = self.associations.iter();
        let holder = all.position(|ia| ia.code == OPTION_IA_NA && ia.holds_ours);
        holder.or_else(|| self.associations.iter().position(|ia| ia.code == OPTION_IA_NA))
    }
}

/// Reads an association; `ours` is the assigned address.
fn parse_association(code: u16, value: &[u8], ours: Ipv6Addr) -> Result<Association<'_>, Ignored> {
    let header_len = if code == OPTION_IA_TA { IA_TA_HEADER_LEN } else { IA_HEADER_LEN };
    let (header, options) = value.split_at_checked(header_len).ok_or(Ignored::Malformed)?;
    let iaid = &header[..IA_TA_HEADER_LEN];
    let mut association = Association { code, iaid, options, holds_ours: false, foreign: None };
    for addr in addresses(options) {
        let addr = addr?;
        if addr == ours {
            association.holds_ours = true;
        } else {
            association.foreign.get_or_insert(addr);
        }
    }
    Ok(association)
}

/// The addresses among the options of an association.
fn addresses(options: &[u8]) -> impl Iterator<Item = Result<Ipv6Addr, Ignored>> {
    parse_options(options).filter_map(|option| match option {
        Ok((OPTION_IA_ADDR, value)) => {
            let value = value.first_chunk::<IA_ADDR_LEN>().and_then(|v| v.first_chunk::<16>());
            Some(value.map(|addr| Ipv6Addr::from(*addr)).ok_or(Ignored::Malformed))
        }
        Ok(_) => None,
        Err(ignored) => Some(Err(ignored)),
    })
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

/// On which terms associations get the assigned address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Terms {
    /// Addresses that the client names are wishes (RFC 8415, 18.3.1).
    Offer,
    /// What it names must be what it gets (18.3.2).
    Grant,
    /// What it has besides ends (18.3.4, 18.3.5).
    Extend,
}

/// Appends an answer to each association; true if the assigned address is in one.
fn put_associations(
    message: &mut Message,
    asked: &Asked<'_>,
    ours: Ipv6Addr,
    terms: Terms,
) -> bool {
    let chosen = asked.chosen();
    let mut given = false;
    for (index, ia) in asked.associations.iter().enumerate() {
        let mut body = ArrayVec::<u8, MAX_IA_BODY>::new();
        let mut times = [ENDED; 2];
        if ia.code == OPTION_IA_PD {
            put_status(&mut body, NO_PREFIX_AVAIL);
        } else if terms == Terms::Grant && ia.foreign.is_some() {
            put_status(&mut body, NOT_ON_LINK);
        } else {
            if chosen == Some(index) {
                put_option(&mut body, OPTION_IA_ADDR, &[&ours.octets(), &FOREVER, &FOREVER]);
                (given, times) = (true, asked.times);
            }
            if terms == Terms::Extend {
                end_lifetimes(&mut body, ia, ours);
            }
            if body.is_empty() {
                put_status(&mut body, NO_ADDRS_AVAIL);
            }
        }
        if ia.code == OPTION_IA_TA {
            put_option(message, ia.code, &[ia.iaid, &body]);
        } else {
            put_option(message, ia.code, &[ia.iaid, &times[0], &times[1], &body]);
        }
    }
    given
}

/// Appends the addresses of an association other than the assigned one, as far as they fit, with no lifetime.
fn end_lifetimes<const N: usize>(body: &mut ArrayVec<u8, N>, ia: &Association<'_>, ours: Ipv6Addr) {
    for addr in addresses(ia.options).flatten().filter(|addr| *addr != ours) {
        if body.remaining_capacity() >= OPTION_HEADER_LEN + IA_ADDR_LEN {
            put_option(body, OPTION_IA_ADDR, &[&addr.octets(), &ENDED, &ENDED]);
        }
    }
}

/// Appends whether all addresses of the client are on the link; true if so. Who names none gets no answer
/// (RFC 8415, 18.3.3).
fn put_confirmation(
    message: &mut Message,
    asked: &Asked<'_>,
    on_link: bool,
) -> Result<bool, Ignored> {
    if !asked.associations.iter().any(|ia| ia.holds_ours || ia.foreign.is_some()) {
        return Err(Ignored::NotForUs);
    }
    put_status(message, if on_link { SUCCESS } else { NOT_ON_LINK });
    Ok(on_link)
}

/// Appends that the client's addresses were given back, or are in use by others, as it says; those that were not
/// its own are named (RFC 8415, 18.3.7 and 18.3.8). Nothing is assigned.
fn put_farewell(message: &mut Message, asked: &Asked<'_>) -> bool {
    put_status(message, SUCCESS);
    for ia in asked.associations.iter().filter(|ia| !ia.holds_ours) {
        let mut status = ArrayVec::<u8, MAX_STATUS_LEN>::new();
        put_status(&mut status, NO_BINDING);
        if ia.code == OPTION_IA_TA {
            put_option(message, ia.code, &[ia.iaid, &status]);
        } else {
            put_option(message, ia.code, &[ia.iaid, &ENDED, &ENDED, &status]);
        }
    }
    false
}

/// Appends what is not about addresses: servers, names, and what the operator adds.
fn put_configuration(message: &mut Message, net: &Network, v6: &Ipv6Net, fqdn_flag_s: bool) {
    let extra = &net.extra.dhcpv6;
    let usual = |code: u16| extra.iter().all(|option| option.code != code);
    if net.services.hand_out_dns && !v6.dns.is_empty() && usual(OPTION_DNS) {
        let servers: ArrayVec<u8, { 16 * MAX_DNS }> =
            v6.dns.iter().flat_map(Ipv6Addr::octets).collect();
        put_if_room(message, OPTION_DNS, &[&servers]);
    }
    let search: ArrayVec<u8, { labels::MAX_SEARCH_BYTES }> = labels::list(search_domains(net));
    if !search.is_empty() && usual(OPTION_SEARCH) {
        put_if_room(message, OPTION_SEARCH, &[&search]);
    }
    let mut name = ArrayVec::<u8, { labels::MAX_NAME }>::new();
    if labels::append(&mut name, net.fqdn.as_deref().unwrap_or_default()) {
        let flags = if fqdn_flag_s { FQDN_FLAG_O } else { 0 };
        put_if_room(message, OPTION_FQDN, &[&[flags], &name]);
    }
    for option in extra {
        put_if_room(message, option.code, &[&option.value]);
    }
}

/// Appends an option that a guest with many associations has to do without.
fn put_if_room(message: &mut Message, code: u16, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    if OPTION_HEADER_LEN + len <= message.remaining_capacity() {
        put_option(message, code, parts);
    }
}

/// Appends a status.
fn put_status<const N: usize>(message: &mut ArrayVec<u8, N>, status: Status) {
    put_option(message, OPTION_STATUS, &[&status.code.to_be_bytes(), status.text.as_bytes()]);
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
