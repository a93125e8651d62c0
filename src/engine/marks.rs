//! What the guest has written into the IP headers of its packets and its host socket is to write, too: hop limit,
//! DSCP and ECN, and whether a packet may be cut on its way. Hops between the guest and the host do not count: the
//! guest's packets reach as far as those of a program on the host.
//!
//! A socket has one set of these. It is changed when a packet wants another one, so that packets without anything
//! special cost no system call, and others one when they begin.
//!
//! # Fragments
//! A new socket lets the kernel decide (`IP_PMTUDISC_WANT`, ip(7)): what fits the path, as far as it is known, goes
//! with "don't fragment", what does not is cut.
//!
//! * IPv4 packets that may be cut go without it, so that a router cuts what the kernel knew nothing of.
//! * Others are refused (`EMSGSIZE`) if the path is known to be narrower, and the guest is told how wide it is. That is
//!   so for packets up to [`INTERNET_MTU`]: a guest's device may have an MTU that no network has, and then its
//!   kernel writes "don't fragment" into the header of everything. What is larger is cut, as for a program of the
//!   host. Packets up to the least MTU of all paths need no decision.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use passt_frame::Errno;
use rustix::net::sockopt;

use super::net::Epoch;
use crate::sys::group;
use crate::sys::socket::{self, Cutting};
use crate::wire::ip::IpHead;

/// MTU of the Internet: of Ethernet (RFC 894).
const INTERNET_MTU: u32 = 1500;
/// The most hops that programs look for, with some to spare: traceroute and mtr stop at 30. What a guest forwards for its
/// own guests has one or two fewer than others.
const PROBE_HOP_LIMIT: u8 = 32;
/// How far packets to groups get from a new socket (RFC 1112, section 6.1).
const GROUP_HOP_LIMIT: u8 = 1;
/// What every path takes: IPv4 in practice (RFC 791, section 3.2), IPv6 by its rules (RFC 8200, section 5).
const LEAST_MTU: [u32; 2] = [576, 1280];

/// What a packet wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    hop_limit: u8,
    traffic_class: u8,
    may_be_cut: bool,
}

impl Marks {
    /// What is written in `ip`. A packet whose hops are used up is not sent further than one with one left.
    pub(crate) fn of(ip: &IpHead) -> Self {
        let IpHead { hop_limit, traffic_class, may_be_cut, .. } = *ip;
        Self { hop_limit: hop_limit.max(1), traffic_class, may_be_cut }
    }

    /// Whether its way may end at a router: somebody looks for those.
    pub(crate) fn is_probe(&self) -> bool {
        self.hop_limit <= PROBE_HOP_LIMIT
    }

    /// The same for a connection, of which the kernel cuts segments as it knows best, and whose two bits of ECN it
    /// keeps to itself.
    pub(crate) fn of_connection(self) -> Self {
        const ECN: u8 = 3;
        Self { traffic_class: self.traffic_class & !ECN, may_be_cut: false, ..self }
    }

    /// What a socket of IPv4 (`v4`) or IPv6 is to do with a packet of `packet_bytes`; `None` if it does not matter
    /// and it is no IPv4 socket that lets everything be cut.
    fn cutting(&self, v4: bool, packet_bytes: u32) -> Option<Cutting> {
        let least = LEAST_MTU[usize::from(!v4)];
        match (v4, self.may_be_cut) {
            (true, true) => Some(Cutting::Allowed),
            (false, true) => Some(Cutting::Wanted),
            _ if packet_bytes > INTERNET_MTU => Some(Cutting::Wanted),
            _ if packet_bytes > least => Some(Cutting::Forbidden),
            _ => None,
        }
    }
}

/// What a socket writes now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketMarks {
    /// `None` for the host's default.
    hop_limit: Option<u8>,
    /// The same of packets to groups.
    group_hop_limit: u8,
    /// Index of the interface that packets to groups leave by; 0 for where the way leads.
    group_interface: u32,
    /// Members on this host hear packets to groups.
    host_hears: bool,
    /// The group, and the view of the network, for which that was found.
    hears_as_found: Option<(SocketAddr, Epoch)>,
    traffic_class: u8,
    cutting: Cutting,
}

impl SocketMarks {
    /// Those of a new socket.
    pub(crate) fn new() -> Self {
        Self {
            hop_limit: None,
            group_hop_limit: GROUP_HOP_LIMIT,
            group_interface: 0,
            host_hears: true,
            hears_as_found: None,
            traffic_class: 0,
            cutting: Cutting::Wanted,
        }
    }

    /// Makes a socket of IPv4 (`v4`) or IPv6 write what `marks` says for a packet of `packet_bytes`. Where the kernel
    /// refuses, the packet goes without. Packets to a group (`to_group`) have a hop limit of their own.
    pub(crate) fn bring(
        &mut self,
        socket: BorrowedFd<'_>,
        (v4, to_group): (bool, bool),
        marks: &Marks,
        packet_bytes: u32,
    ) {
        self.bring_hop_limit(socket, (v4, to_group), marks.hop_limit);
        if marks.traffic_class != self.traffic_class {
            self.traffic_class = marks.traffic_class;
            let class = marks.traffic_class;
            tell(set_traffic_class(socket, v4, class), "traffic class", class.into());
        }
        let cutting = marks.cutting(v4, packet_bytes).unwrap_or(match self.cutting {
            Cutting::Allowed => Cutting::Wanted,
            other => other,
        });
        if cutting != self.cutting {
            self.cutting = cutting;
            tell(socket::set_cutting(socket, v4, cutting), "path MTU discovery", cutting as i32);
        }
    }

    /// Makes a socket's packets to groups leave by the interface with this index, if there is one and they do not yet.
    pub(crate) fn lead_groups(&mut self, socket: BorrowedFd<'_>, v4: bool, interface: u32) {
        if interface != 0 && std::mem::replace(&mut self.group_interface, interface) != interface {
            tell(group::leave_by(socket, v4, interface), "interface", interface as i32);
        }
    }

    /// Has members of this host hear a socket's packets to `group`, or not, as `may_hear` says. That is asked once
    /// in an `epoch`, as long as the group is the same.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn let_host_hear(
        &mut self,
        socket: BorrowedFd<'_>,
        (group, epoch): (SocketAddr, Epoch),
        may_hear: impl FnOnce() -> bool,
    ) -> Result<(), Errno> {
        if self.hears_as_found == Some((group, epoch)) {
            return Ok(());
        }
        let hear = may_hear();
        if hear != self.host_hears {
            group::let_host_hear(socket, group.is_ipv4(), hear)?;
            self.host_hears = hear;
        }
        self.hears_as_found = Some((group, epoch));
        Ok(())
    }

    fn bring_hop_limit(&mut self, socket: BorrowedFd<'_>, (v4, to_group): (bool, bool), hops: u8) {
        if to_group {
            if std::mem::replace(&mut self.group_hop_limit, hops) != hops {
                tell(group::set_hop_limit(socket, v4, hops), "hop limit", hops.into());
            }
        } else if self.hop_limit.unwrap_or_else(|| socket::default_hop_limit(v4)) != hops {
            self.hop_limit = Some(hops);
            tell(set_hop_limit(socket, v4, hops), "hop limit", hops.into());
        }
    }
}

fn tell(result: Result<(), Errno>, what: &str, value: i32) {
    if let Err(errno) = result {
        log::debug!("cannot set {what} {value}: {errno}");
    }
}

fn set_hop_limit(socket: BorrowedFd<'_>, v4: bool, hops: u8) -> Result<(), Errno> {
    if v4 {
        sockopt::set_ip_ttl(socket, hops.into())
    } else {
        sockopt::set_ipv6_unicast_hops(socket, Some(hops))
    }
}

/// TCP sockets keep the two bits of ECN to themselves.
fn set_traffic_class(socket: BorrowedFd<'_>, v4: bool, class: u8) -> Result<(), Errno> {
    if v4 {
        sockopt::set_ip_tos(socket, class)
    } else {
        sockopt::set_ipv6_tclass(socket, class.into())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn who_hears_a_group_is_asked_once_for_all_that_goes_there() {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let (mut marks, mut asked) = (SocketMarks::new(), Vec::new());
        for (group, may_hear) in [(1, false), (1, false), (2, true), (2, true), (1, false)] {
            let to = SocketAddr::from((Ipv4Addr::new(239, 0, 0, group), 5353));
            let answer = || {
                asked.push(group);
                may_hear
            };
            marks.let_host_hear(socket.as_fd(), (to, Epoch::default()), answer).unwrap();
            assert_eq!(socket.multicast_loop_v4().unwrap(), may_hear);
        }
        assert_eq!(asked, [1, 2, 1]);
    }

    #[test]
    fn what_may_not_be_cut_is_decided_where_paths_differ() {
        let marks = |may_be_cut| Marks { hop_limit: 64, traffic_class: 0, may_be_cut };
        for (v4, may_be_cut, bytes, expected) in [
            (true, true, 28, Some(Cutting::Allowed)),
            (true, true, 65_535, Some(Cutting::Allowed)),
            (true, false, 576, None),
            (true, false, 577, Some(Cutting::Forbidden)),
            (true, false, 1500, Some(Cutting::Forbidden)),
            (true, false, 1501, Some(Cutting::Wanted)),
            (false, false, 1280, None),
            (false, false, 1281, Some(Cutting::Forbidden)),
            (false, false, 1501, Some(Cutting::Wanted)),
            (false, true, 1400, Some(Cutting::Wanted)),
        ] {
            let found = marks(may_be_cut).cutting(v4, bytes);
            assert_eq!(found, expected, "IPv4 {v4}, may be cut {may_be_cut}, {bytes} bytes");
        }
    }
}
