//! DHCPv4 options: which the guest gets, with what value, in which order (RFC 2132).
//!
//! What the client lists in option 55 comes first and in its order; everything else that is
//! configured follows by number, asked for or not: many clients use options they never listed.
//! An option that does not fit is left out. Only the options field is used, no overloading.

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;

use super::{Ignored, labels, put, search_domains};
use crate::flow::network::{Ipv4Net, Network};

/// Most bytes of options, without the end option: what a 576-byte packet leaves.
pub(crate) const MAX_LEN: usize = 307;

/// Message type.
pub(crate) const CODE_TYPE: u8 = 53;
/// The codes that the client wants, in order.
pub(crate) const CODE_PARAMETERS: u8 = 55;
/// Rapid Commit (RFC 4039).
pub(crate) const CODE_RAPID_COMMIT: u8 = 80;

const CODE_PAD: u8 = 0;
const CODE_MASK: u8 = 1;
const CODE_ROUTER: u8 = 3;
const CODE_DNS: u8 = 6;
const CODE_HOST_NAME: u8 = 12;
const CODE_MTU: u8 = 26;
const CODE_LEASE_TIME: u8 = 51;
const CODE_SERVER_ID: u8 = 54;
/// Client FQDN (RFC 4702).
const CODE_FQDN: u8 = 81;
/// Domain search (RFC 3397).
const CODE_SEARCH: u8 = 119;
/// Classless static routes (RFC 3442).
const CODE_ROUTES: u8 = 121;
const CODE_END: u8 = 255;

/// Every code that can be in an answer, ascending.
const ALL: [u8; 12] = [
    CODE_MASK,
    CODE_ROUTER,
    CODE_DNS,
    CODE_HOST_NAME,
    CODE_MTU,
    CODE_LEASE_TIME,
    CODE_TYPE,
    CODE_SERVER_ID,
    CODE_RAPID_COMMIT,
    CODE_FQDN,
    CODE_SEARCH,
    CODE_ROUTES,
];

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
    /// Message type of the answer.
    pub(crate) message_type: u8,
    /// The answer commits at once.
    pub(crate) rapid_commit: bool,
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

/// Appends at most [`MAX_LEN`] bytes of options and the end option. `parameters` is the client's
/// option 55.
pub(crate) fn append<const N: usize>(
    message: &mut ArrayVec<u8, N>,
    facts: &Facts<'_>,
    parameters: Option<&[u8]>,
) {
    let end = message.len() + MAX_LEN;
    // Made once, however often the client lists it.
    let search: Value = labels::compressed_list(search_domains(facts.net));
    let listed = parameters.unwrap_or_default();
    let type_first = parameters.is_some() && !listed.contains(&CODE_TYPE);
    let first = type_first.then_some(&CODE_TYPE);
    let unlisted = ALL.iter().filter(|code| !listed.contains(code) && first != Some(*code));
    for &code in first.into_iter().chain(listed).chain(unlisted) {
        let value = if code == CODE_SEARCH {
            (!search.is_empty()).then(|| search.clone())
        } else {
            facts.value(code)
        };
        if let Some(value) = value
            && message.len() + 2 + value.len() <= end
        {
            let len = u8::try_from(value.len()).expect("a value has at most 255 bytes");
            put(message, &[code, len]);
            put(message, &value);
        }
    }
    put(message, &[CODE_END]);
}

impl Facts<'_> {
    /// The value of option `code`, or `None` if it is not configured. The search list is not here.
    fn value(&self, code: u8) -> Option<Value> {
        match code {
            CODE_MASK => value(&[&self.mask().to_be_bytes()]),
            CODE_ROUTER | CODE_SERVER_ID => value(&[&self.gateway.octets()]),
            CODE_DNS => self.dns(),
            CODE_HOST_NAME => self.host_name(),
            CODE_MTU if self.net.mtu > 0 => value(&[&self.net.mtu.to_be_bytes()]),
            CODE_LEASE_TIME => value(&[&FOREVER.to_be_bytes()]),
            CODE_TYPE => value(&[&[self.message_type]]),
            CODE_RAPID_COMMIT if self.rapid_commit => value(&[]),
            CODE_FQDN => self.fqdn(),
            CODE_ROUTES => self.routes(),
            _ => None,
        }
    }

    /// The subnet mask.
    fn mask(&self) -> u32 {
        let host_bits = 32_u32.saturating_sub(self.v4.prefix_len.into());
        u32::MAX.checked_shl(host_bits).unwrap_or(0)
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

    /// A host route to the gateway and a default route through it, if the gateway is outside the
    /// subnet and so could not be reached otherwise.
    fn routes(&self) -> Option<Value> {
        let differing = self.v4.addr.to_bits() ^ self.gateway.to_bits();
        if differing & self.mask() == 0 {
            return None;
        }
        let gateway = &self.gateway.octets();
        let on_link = &[0; 4];
        value(&[&[32], gateway, on_link, &[0], gateway])
    }
}

/// The parts joined; `None` if they exceed what an option can hold.
fn value(parts: &[&[u8]]) -> Option<Value> {
    let mut out = Value::new();
    for part in parts {
        out.try_extend_from_slice(part).ok()?;
    }
    Some(out)
}
