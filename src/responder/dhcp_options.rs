//! DHCPv4 options: which the guest gets, with what value, in which order (RFC 2132).
//!
//! What the client lists in option 55 comes first and in its order; everything else that is
//! configured follows by number, asked for or not: many clients use options they never listed. What the
//! operator sets with `--dhcp-option` stands in place of what would be said otherwise.
//! An option that does not fit is left out; room is kept for those that an answer cannot do without.
//! Only the options field is used, no overloading.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use arrayvec::{ArrayString, ArrayVec};

use super::dhcp_kind::Kind;
use super::{Ignored, labels, put, search_domains};
use crate::flow::network::{Ipv4Net, Ipv4Route, LEASE_S, MAX_ROUTES, Network, RENEW_S, rebinding};

/// Most bytes of options, without the end option: what a 576-byte packet leaves.
pub(crate) const MAX_LEN: usize = 307;

/// The address that the client wants.
pub(crate) const CODE_REQUESTED: u8 = 50;
/// Message type.
pub(crate) const CODE_TYPE: u8 = 53;
/// The server that answers, or that the client has chosen.
pub(crate) const CODE_SERVER_ID: u8 = 54;
/// The codes that the client wants, in order.
pub(crate) const CODE_PARAMETERS: u8 = 55;
/// What kind of client it is.
pub(crate) const CODE_CLASS_ID: u8 = 60;
/// Who the client is.
pub(crate) const CODE_CLIENT_ID: u8 = 61;
/// Rapid Commit (RFC 4039).
pub(crate) const CODE_RAPID_COMMIT: u8 = 80;
/// What a relay notes for itself (RFC 3046).
pub(crate) const CODE_RELAY: u8 = 82;

const CODE_PAD: u8 = 0;
const CODE_MASK: u8 = 1;
const CODE_ROUTER: u8 = 3;
const CODE_DNS: u8 = 6;
const CODE_HOST_NAME: u8 = 12;
const CODE_MTU: u8 = 26;
const CODE_LEASE_TIME: u8 = 51;
const CODE_OVERLOAD: u8 = 52;
const CODE_MESSAGE: u8 = 56;
/// The longest message that the client accepts.
const CODE_MAX_SIZE: u8 = 57;
/// Renewal and rebinding times.
const CODE_T1: u8 = 58;
const CODE_T2: u8 = 59;
const CODE_BOOT_SERVER: u8 = 66;
const CODE_BOOT_FILE: u8 = 67;
/// Client FQDN (RFC 4702).
pub(crate) const CODE_FQDN: u8 = 81;
/// Domain search (RFC 3397).
pub(crate) const CODE_SEARCH: u8 = 119;
/// Classless static routes (RFC 3442).
pub(crate) const CODE_ROUTES: u8 = 121;
/// Addresses of TFTP servers (RFC 5859).
const CODE_TFTP_ADDRESS: u8 = 150;
const CODE_END: u8 = 255;

/// Codes that belong to the protocol: the operator cannot set them.
pub(crate) const OWN: [u16; 11] = [
    CODE_PAD as u16,
    CODE_REQUESTED as u16,
    CODE_OVERLOAD as u16,
    CODE_TYPE as u16,
    CODE_SERVER_ID as u16,
    CODE_PARAMETERS as u16,
    CODE_MESSAGE as u16,
    CODE_MAX_SIZE as u16,
    CODE_CLIENT_ID as u16,
    CODE_RAPID_COMMIT as u16,
    CODE_RELAY as u16,
];

/// Most bytes of options that the operator may add, with their headers: what leaves room for an address, a router
/// and name servers.
pub(crate) const MAX_EXTRA_LEN: usize = 200;

/// What a client of UEFI's HTTP boot calls itself, and wants to hear (UEFI 2.10, 24.7.2).
const HTTP_CLIENT: &[u8] = b"HTTPClient";
/// What a refused client is told.
const REFUSAL: &[u8] = b"not the address of this guest";

/// A lease that never ends, seconds.
const FOREVER: u32 = u32::MAX;
/// Flag E of the FQDN option: the name is in label form (RFC 4702, 2.1).
const FQDN_FLAG_E: u8 = 0x04;
/// Both result codes of the FQDN option, which clients ignore (RFC 4702, 2.2).
const FQDN_RCODE: u8 = 255;

/// The value of one option.
type Value = ArrayVec<u8, 255>;

/// What the options of an answer follow from.
pub(crate) struct Facts<'a> {
    /// Names, MTU, services.
    pub(crate) net: &'a Network,
    /// The addresses handed out.
    pub(crate) v4: &'a Ipv4Net,
    /// Gateway, and our own address.
    pub(crate) gateway: Ipv4Addr,
    /// What is answered.
    pub(crate) kind: Kind,
    /// The client's option 61.
    pub(crate) client_id: Option<&'a [u8]>,
    /// The client's option 60, empty without one.
    pub(crate) class_id: &'a [u8],
    /// The relay's option 82.
    pub(crate) relay: Option<&'a [u8]>,
}

/// The options of a message as code and value. Ends at the end option or with the message; a
/// truncated option is the last item, as an error.
pub(crate) fn parse(mut rest: &[u8]) -> impl Iterator<Item = Result<(u8, &[u8]), Ignored>> {
    std::iter::from_fn(move || {
        while let Some((&CODE_PAD, tail)) = rest.split_first() {
            rest = tail;
        }
        let (&code, tail) = rest.split_first().filter(|(code, _)| **code != CODE_END)?;
        let option =
            tail.split_first().and_then(|(&len, tail)| tail.split_at_checked(usize::from(len)));
        let Some((value, tail)) = option else {
            rest = &[];
            return Some(Err(Ignored::Malformed));
        };
        rest = tail;
        Some(Ok((code, value)))
    })
}

/// What an answer has to say (RFC 2131, table 3), however much else the client lists.
const OWED: [u8; 3] = [CODE_TYPE, CODE_SERVER_ID, CODE_LEASE_TIME];

/// Appends at most [`MAX_LEN`] bytes of options and the end option. `parameters` is the client's
/// option 55.
pub(crate) fn append<const N: usize>(
    message: &mut ArrayVec<u8, N>,
    facts: &Facts<'_>,
    parameters: Option<&[u8]>,
) {
    // What the relay noted comes last (RFC 3046, 2.1), and is kept a place for.
    let end = message.len() + MAX_LEN - facts.relay.map_or(0, |relay| 2 + relay.len());
    // Made once, however often the client lists it.
    let search: Value = labels::compressed_list(search_domains(facts.net));
    let listed = parameters.unwrap_or_default();
    let type_first = parameters.is_some() && !listed.contains(&CODE_TYPE);
    let first = type_first.then_some(CODE_TYPE);
    let unlisted =
        (CODE_PAD + 1..CODE_END).filter(|code| !listed.contains(code) && first != Some(*code));
    let needs = |code| Some((code, 2 + facts.value(code)?.len()));
    let mut owed: ArrayVec<(u8, usize), { OWED.len() }> =
        OWED.into_iter().filter_map(needs).collect();
    for code in first.into_iter().chain(listed.iter().copied()).chain(unlisted) {
        let value = if code == CODE_SEARCH && !facts.kind.refuses() {
            (!search.is_empty()).then(|| search.clone())
        } else {
            facts.value(code)
        };
        let kept: usize = owed.iter().filter(|(other, _)| *other != code).map(|(_, len)| len).sum();
        if let Some(value) = value
            && message.len() + 2 + value.len() + kept <= end
        {
            put_option(message, code, &value);
            owed.retain(|(other, _)| *other != code);
        }
    }
    if let Some(relay) = facts.relay {
        put_option(message, CODE_RELAY, relay);
    }
    put(message, &[CODE_END]);
}

fn put_option<const N: usize>(message: &mut ArrayVec<u8, N>, code: u8, value: &[u8]) {
    let len = u8::try_from(value.len()).expect("a value has at most 255 bytes");
    put(message, &[code, len]);
    put(message, value);
}

impl Facts<'_> {
    /// The value of option `code`, or `None` if it is not configured. The search list is not here.
    fn value(&self, code: u8) -> Option<Value> {
        match code {
            CODE_TYPE => value(&[&[self.kind.message_type()]]),
            CODE_SERVER_ID => value(&[&self.gateway.octets()]),
            CODE_CLIENT_ID => value(&[self.client_id?]),
            CODE_MESSAGE if self.kind.refuses() => value(&[REFUSAL]),
            _ if self.kind.refuses() => None,
            CODE_LEASE_TIME | CODE_T1 | CODE_T2 if !self.kind.assigns() => None,
            CODE_ROUTES => self.routes(),
            _ => self.set_by_operator(code).map_or_else(|| self.usual(code), |set| value(&[set])),
        }
    }

    /// What the operator has said of option `code`.
    fn set_by_operator(&self, code: u8) -> Option<&[u8]> {
        let mut options = self.net.extra.dhcp.iter();
        options.find(|option| option.code == u16::from(code)).map(|option| &option.value[..])
    }

    /// What option `code` is if the operator does not say otherwise.
    fn usual(&self, code: u8) -> Option<Value> {
        match code {
            CODE_MASK => value(&[&self.v4.mask().to_be_bytes()]),
            CODE_ROUTER if self.v4.routes.is_none() => value(&[&self.gateway.octets()]),
            CODE_DNS => self.dns(),
            CODE_HOST_NAME => self.host_name(),
            CODE_MTU if self.net.mtu > 0 => value(&[&self.net.mtu.to_be_bytes()]),
            CODE_LEASE_TIME if self.net.services.renew => value(&[&LEASE_S.to_be_bytes()]),
            CODE_LEASE_TIME => value(&[&FOREVER.to_be_bytes()]),
            CODE_T1 if self.net.services.renew => value(&[&RENEW_S.to_be_bytes()]),
            CODE_T2 if self.net.services.renew => self.rebinding(),
            CODE_RAPID_COMMIT if self.kind == Kind::AckRapidCommit => value(&[]),
            CODE_FQDN => self.fqdn(),
            _ => self.boot(code),
        }
    }

    /// T2. Renewals are unicast, from a socket that is bound to the old address, and a NAK is broadcast (RFC 2131, section
    /// 4.3.2). So, but for the copy that goes there [besides](super::dhcp::Reply::besides), a client hears only after T2 that
    /// its address is gone; hence a short one. Without the option T2 is seven eighths of the lease. Clients ignore one that
    /// does not lie between T1 and the end of the lease.
    fn rebinding(&self) -> Option<Value> {
        let set = |code, usual: u32| match self.set_by_operator(code) {
            Some(set) => set.try_into().ok().map(u32::from_be_bytes),
            None => Some(usual),
        };
        let at = rebinding(set(CODE_T1, RENEW_S)?);
        (at < set(CODE_LEASE_TIME, LEASE_S)?).then(|| value(&[&at.to_be_bytes()]))?
    }

    /// What a client needs that boots from the network.
    fn boot(&self, code: u8) -> Option<Value> {
        let boot = self.net.extra.boot.as_ref()?;
        match code {
            CODE_BOOT_FILE => value(&[boot.file.as_bytes()]),
            CODE_BOOT_SERVER => {
                let mut text = ArrayString::<15>::new();
                write!(text, "{}", boot.server?).ok()?;
                value(&[text.as_bytes()])
            }
            CODE_TFTP_ADDRESS => value(&[&boot.server?.octets()]),
            CODE_CLASS_ID if self.class_id.starts_with(HTTP_CLIENT) => value(&[HTTP_CLIENT]),
            _ => None,
        }
    }

    /// The DNS servers.
    fn dns(&self) -> Option<Value> {
        if !self.net.services.hand_out_dns || self.v4.dns.is_empty() {
            return None;
        }
        Some(self.v4.dns.iter().flat_map(Ipv4Addr::octets).collect())
    }

    /// The host name.
    fn host_name(&self) -> Option<Value> {
        let name = self.net.hostname.as_deref().filter(|n| !n.is_empty())?;
        value(&[name.as_bytes()])
    }

    /// Flags, two result codes, and the name as labels.
    fn fqdn(&self) -> Option<Value> {
        let mut out = Value::from_iter([FQDN_FLAG_E, FQDN_RCODE, FQDN_RCODE]);
        labels::append(&mut out, self.net.fqdn.as_deref()?).then_some(out)
    }

    /// The operator's routes, else the host's if it has no default route; and a default route if it has one, since who gets routes does not look at the router option
    /// (RFC 3442); before it a host route to the gateway, if that is outside the subnet and so could not be
    /// reached otherwise.
    fn routes(&self) -> Option<Value> {
        let set = self.set_by_operator(CODE_ROUTES);
        let outside = !self.v4.contains(self.gateway);
        let gateway = &self.gateway.octets();
        let on_link: &[&[u8]] = if outside { &[&[32], gateway, &[0; 4]] } else { &[] };
        let default: &[&[u8]] = match set {
            Some(routes) if has_default_route(routes) => &[],
            _ if self.v4.routes.is_some() => &[],
            None if !outside => return None,
            _ => &[&[0], gateway],
        };
        let usual = match (set, &self.v4.routes) {
            (None, Some(routes)) => classless(routes),
            _ => Value::new(),
        };
        value(&[on_link, &[&usual, set.unwrap_or_default()], default].concat())
    }
}

/// Routes as option 121 has them: of a destination only the bytes that count (RFC 3442).
fn classless(routes: &[Ipv4Route]) -> Value {
    const LONGEST: usize = 9;
    const _: () = assert!(LONGEST * (MAX_ROUTES + 1) <= 255);
    let mut out = Value::new();
    for route in routes.iter().take(MAX_ROUTES) {
        let significant = usize::from(route.prefix_len.min(32)).div_ceil(8);
        put(&mut out, &[route.prefix_len]);
        put(&mut out, &route.destination.octets()[..significant]);
        put(&mut out, &route.gateway.octets());
    }
    out
}

/// Whether classless routes, which are whole, hold a default route.
fn has_default_route(mut routes: &[u8]) -> bool {
    while let Some((&len, rest)) = routes.split_first() {
        if len == 0 {
            return true;
        }
        routes = rest.get(usize::from(len).div_ceil(8) + 4..).unwrap_or_default();
    }
    false
}

/// The parts joined; `None` if they exceed what an option can hold.
fn value(parts: &[&[u8]]) -> Option<Value> {
    let mut out = Value::new();
    for part in parts {
        out.try_extend_from_slice(part).ok()?;
    }
    Some(out)
}
