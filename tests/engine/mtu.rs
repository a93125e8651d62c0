//! The MTU that a vhost-user front-end sets (NET_SET_MTU): told to the guest by DHCP and router
//! advertisements, and what the MSS of new connections follows from. The real loop over the real device.

use std::net::{SocketAddr, TcpListener};

use passt::flow::tcp::our_mss;
use passt_guest::{Options, request};

use crate::front_end::FrontEnd;
use crate::namespace::isolated;
use crate::packet;
use crate::world::Family;

/// Offset of the options in a frame with a DHCP answer: Ethernet, IPv4, UDP, fixed part.
const DHCP_OPTIONS_AT: usize = 14 + 20 + 8 + 240;

/// Offset of the options in a frame with a router advertisement.
const RA_OPTIONS_AT: usize = 14 + 40 + 16;

fn with_mtu(configured: u16) -> FrontEnd {
    FrontEnd::new(configured, Options::default())
}

fn set_mtu(rig: &mut FrontEnd, mtu: u64) {
    rig.guest.send(request::NET_SET_MTU, &mtu.to_ne_bytes(), &[]);
    rig.turns();
}

/// Sends a frame; returns what `wanted` finds in the frames that come back.
fn ask(rig: &mut FrontEnd, frame: &[u8], wanted: fn(&[u8]) -> Option<u32>) -> Option<u32> {
    rig.received();
    rig.send(frame);
    rig.received().iter().find_map(|(_, frame)| wanted(frame))
}

/// MTU in DHCP, MTU in router advertisements, MSS of connections from `port`; `None` for untold.
fn told(rig: &mut FrontEnd, port: u16) -> (Option<u32>, Option<u32>, Option<u32>) {
    let link_local = "fe80::1".parse().expect("an address");
    let guest = SocketAddr::new(Family::V4.guest(), port);
    let syn = packet::tcp(guest, Family::V4.host_at(8000), packet::SYN, (1, 0), b"");
    (
        ask(rig, &packet::discover(), dhcp_mtu),
        ask(rig, &packet::router_solicitation(link_local), ra_mtu),
        ask(rig, &syn, mss),
    )
}

/// Finds option 26 (RFC 2132, section 5.1).
fn dhcp_mtu(frame: &[u8]) -> Option<u32> {
    let mut options = frame.get(DHCP_OPTIONS_AT..)?;
    while let [code, len, rest @ ..] = options {
        let (value, rest) = rest.split_at_checked(usize::from(*len))?;
        if *code == 26 {
            return Some(u16::from_be_bytes(value.try_into().ok()?).into());
        }
        options = rest;
    }
    None
}

/// Finds option 5 (RFC 4861, section 4.6.4) of a router advertisement.
fn ra_mtu(frame: &[u8]) -> Option<u32> {
    let mut options = frame.get(RA_OPTIONS_AT..).filter(|_| frame[54] == 134)?;
    while let [code, units, ..] = options {
        let (option, rest) = options.split_at_checked(8 * usize::from(*units).max(1))?;
        if *code == 5 {
            return Some(u32::from_be_bytes(option[4..8].try_into().ok()?));
        }
        options = rest;
    }
    None
}

/// The MSS, always the first option, of a SYN-ACK.
fn mss(frame: &[u8]) -> Option<u32> {
    let tcp = frame.get(34..).filter(|tcp| frame[23] == 6 && tcp[13] == 0x12)?;
    (tcp[20..22] == [2, 4]).then(|| u16::from_be_bytes([tcp[22], tcp[23]]).into())
}

#[test]
fn the_front_ends_mtu_reaches_the_guest() {
    isolated(|| {
        let _listener = TcpListener::bind(Family::V4.host_at(8000)).expect("a free port");
        let mut rig = with_mtu(65520);
        let all = |mtu: u16| (Some(mtu.into()), Some(mtu.into()), Some(our_mss(mtu, 20).into()));
        assert_eq!(told(&mut rig, 40000), all(65520));
        set_mtu(&mut rig, 1400);
        assert_eq!(told(&mut rig, 40001), all(1400));
        set_mtu(&mut rig, 9000);
        assert_eq!(told(&mut rig, 40002), all(9000));
        // The next front-end has not said anything of it.
        rig.guest.client.socket().shutdown(std::net::Shutdown::Both).expect("connected");
        rig.turns();
        rig.connect();
        assert_eq!(told(&mut rig, 40003), all(65520));
    });
}

#[test]
fn the_option_is_the_most_that_the_guest_is_told() {
    isolated(|| {
        let _listener = TcpListener::bind(Family::V4.host_at(8000)).expect("a free port");
        let mut rig = with_mtu(1500);
        set_mtu(&mut rig, 9000);
        assert_eq!(told(&mut rig, 40000), (Some(1500), Some(1500), Some(1460)));
        set_mtu(&mut rig, 1300);
        assert_eq!(told(&mut rig, 40001), (Some(1300), Some(1300), Some(1260)));

        let mut rig = with_mtu(0);
        assert_eq!(told(&mut rig, 40002), (None, None, Some(1460)));
        set_mtu(&mut rig, 1300);
        assert_eq!(
            told(&mut rig, 40003),
            (None, None, Some(1460)),
            "the option says that none is told"
        );
    });
}
