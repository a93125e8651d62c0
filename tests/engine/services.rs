//! What the engine answers itself: ARP, DHCP, neighbour and router discovery, on the way of frames.

use std::net::Ipv4Addr;
use std::time::Duration;

use passt::wire::Mac;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::dhcpv4;
use smoltcp::wire::IpCidr;

use crate::guest::{Guest, until};
use crate::namespace::isolated;
use crate::packet;
use crate::world::{Family, GUEST_MAC, Setup, World, mapping};

#[test]
fn rfc826_the_gateway_has_our_address() {
    isolated(|| {
        let mut world = World::new(&Setup::default());
        world.send(packet::arp([192, 0, 2, 2], [192, 0, 2, 1]));
        let reply = world.frames(1).remove(0);
        assert_eq!(reply[..6], GUEST_MAC.0);
        assert_eq!(reply[20..28], [&[0, 2][..], &Mac::OURS.0].concat());
        assert_eq!(reply[28..32], [192, 0, 2, 1]);
        assert_eq!(reply.len(), 60, "padded to the least Ethernet frame");
        // RFC 5227: silence lets the guest have its own address.
        world.send(packet::arp([0; 4], [192, 0, 2, 2]));
        world.settle(8);
        assert_eq!(world.received().len(), 0);
    });
}

/// Who looks whether an address is free finds the one where DNS queries go (`--dns-forward`), and not those beside it.
#[test]
fn rfc5227_the_address_of_the_name_server_is_taken() {
    isolated(|| {
        let mut map = mapping();
        map.v4.dns_match = Some(Ipv4Addr::new(192, 0, 2, 53));
        map.v6.dns_match = Some("2001:db8::53".parse().expect("an address"));
        let mut world = World::new(&Setup { map, ..Setup::default() });
        let unspecified = "::".parse().expect("an address");
        for (last, taken) in [(53, true), (54, false)] {
            let v6 = format!("2001:db8::{last}").parse().expect("an address");
            for probe in
                [packet::arp([0; 4], [192, 0, 2, last]), packet::solicitation(unspecified, v6)]
            {
                world.send(probe);
                world.settle(8);
                assert_eq!(world.received().len(), usize::from(taken), "{last}");
            }
        }
    });
}

#[test]
fn rfc4861_a_solicitation_is_answered_with_our_address() {
    isolated(|| {
        let mut world = World::new(&Setup::default());
        world.send(packet::solicitation(Family::V6.guest(), Family::V6.gateway()));
        let reply = world.frames(1).remove(0);
        assert_eq!((reply[20], reply[21], reply[54]), (58, 255, 136));
        assert_eq!(reply[80..86], Mac::OURS.0);
    });
}

#[test]
fn rfc8415_a_solicit_is_answered() {
    isolated(|| {
        let mut world = World::new(&Setup::default());
        world.send(packet::solicit());
        let reply = world.frames(1).remove(0);
        assert_eq!(reply[54..58], [547u16.to_be_bytes(), 546u16.to_be_bytes()].concat());
        assert_eq!(reply[62..66], [2, 1, 2, 3], "an ADVERTISE of the same transaction");
        assert_eq!(reply[14..18], [0x60, 1, 2, 3], "and a flow label that says so, too");
    });
}

/// What the guest was given: address, router, name server.
fn lease(guest: &mut Guest, handle: SocketHandle) -> Option<(String, Option<Ipv4Addr>, Ipv4Addr)> {
    match guest.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
        Some(dhcpv4::Event::Configured(config)) => {
            Some((config.address.to_string(), config.router, config.dns_servers[0]))
        }
        _ => None,
    }
}

#[test]
fn rfc2131_a_client_gets_its_lease_and_can_use_it() {
    isolated(|| {
        let mut world = World::new(&Setup::default());
        let mut guest = Guest::without_address(&mut world, 1500);
        let handle = guest.sockets.add(dhcpv4::Socket::new());
        let mut given = None;
        until(&mut world, &mut guest, "DHCP", |_, guest| {
            given = lease(guest, handle);
            given.is_some()
        });
        let (address, router, dns) = given.expect("a lease");
        assert_eq!(address, "192.0.2.2/24");
        assert_eq!(router, Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert_eq!(dns, Ipv4Addr::new(192, 0, 2, 53));

        guest.set_address(address.parse::<IpCidr>().expect("as printed"));
        guest.route(router.expect("a router").into());
        let listener = std::net::TcpListener::bind(Family::V4.host_at(8000)).expect("a free port");
        listener.set_nonblocking(true).expect("fcntl");
        let socket = guest.tcp(4096);
        guest.connect(socket, Family::V4.host_at(8000), 40000);
        until(&mut world, &mut guest, "connection", |_, _| listener.accept().is_ok());
    });
}

#[test]
fn rfc4861_6_2_4_routers_advertise_unasked() {
    isolated(|| {
        let mut world = World::new(&Setup::default());
        let (_, out) = passt_frame::FramePort::halves(&mut world.port);
        world.engine.on_link_up(out);
        let greeting = world.received();
        assert_eq!(greeting.len(), 4, "an ARP request, a solicitation, and who wants which group");
        // MaxRtrAdvInterval is at most 1,800 s.
        world.skip(Duration::from_secs(1801));
        world.settle(8);
        let frames = world.received();
        let advertisements = frames.iter().filter(|frame| frame.len() > 54 && frame[54] == 134);
        assert_eq!(advertisements.count(), 1);
    });
}
