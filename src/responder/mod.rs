//! Responders: one question of the guest in, at most one answer out.
//!
//! ARP, DHCPv4, DHCPv6 and neighbour discovery are answered here and never forwarded. None of them
//! keeps state: an answer follows from the question, from [`Network`] and from the table of the host's
//! [neighbours](crate::flow::neighbours) alone, so a lost or repeated question is harmless. Nothing here opens a socket, reads a clock or allocates; answers
//! are written to buffers of fixed capacity whose sizes are checked at compile time.
//!
//! The engine hands over a private copy of the payload above IP/UDP (above Ethernet for ARP) and
//! adds the lower headers to what comes back, including checksums: the ICMPv6 checksum field of an
//! answer is zero. A question that gets no answer yields the reason, [`Ignored`], to be counted.
//!
//! | file | protocol | specification |
//! |---|---|---|
//! | [`arp`] | ARP for IPv4 over Ethernet | RFC 826, RFC 5227 |
//! | [`dhcp`] | DHCPv4 and BOOTP | RFC 2131, 2132, 3046, 3397, 3442, 4039, 4702, 5859, 6842 |
//! | [`dhcpv6`] | DHCPv6 | RFC 8415, 3646, 4704 |
//! | [`ndp`] | neighbour and router discovery | RFC 4861, 8106 |
//! | [`labels`] | domain names as labels | RFC 1035 |

pub(crate) mod arp;
pub(crate) mod dhcp;
pub(crate) mod dhcp_kind;
pub(crate) mod dhcp_options;
pub mod dhcpv6;
pub(crate) mod labels;
pub(crate) mod ndp;

use std::net::IpAddr;

use arrayvec::ArrayVec;

use crate::flow::network::Network;

/// Why a question got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ignored {
    /// The message is truncated or contradicts itself.
    Malformed,
    /// Well-formed, but the protocol asks us to stay silent: an announcement, a probe for the
    /// guest's own address, another server's identifier.
    NotForUs,
    /// The guest has found another station at the address it was given.
    Declined(IpAddr),
    /// A message type that is never answered.
    Unsupported,
    /// The responder, or the address family, is off.
    Disabled,
}

/// The domains handed out as search list, in order; none if handing them out is off.
///
/// An entry that holds several domains separated by blanks counts as several.
fn search_domains(net: &Network) -> impl Iterator<Item = &str> {
    net.search
        .iter()
        .filter(|_| net.services.hand_out_search)
        .flat_map(|entry| entry.split_ascii_whitespace())
}

/// Appends `bytes` to a message whose capacity covers its longest form.
fn put<const N: usize>(message: &mut ArrayVec<u8, N>, bytes: &[u8]) {
    message
        .try_extend_from_slice(bytes)
        .expect("capacity covers the longest form, checked where it is declared");
}

#[cfg(test)]
mod testing;
