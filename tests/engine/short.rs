//! Sockets that take less than they have room for: the kernel counts more than what it tells of. Here it is what was not sent yet
//! (`TCP_NOTSENT_LOWAT`), which takes a limit again on the engine's sockets.

use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use passt::sys::socket::set_int;
use passt::wire::DropReason;

use crate::guest::until;
use crate::namespace::isolated;
use crate::sockets::connected_to;
use crate::tcp::{Pair, noise, read_some};
use crate::world::{FAMILIES, OFFLOADS, PLAIN, Setup, World};

/// Limits what all sockets of this process that are connected to `to` take and have not sent.
fn limit_unsent(to: SocketAddr, bytes: libc::c_int) {
    let sockets = connected_to(to);
    assert!(!sockets.is_empty(), "the engine's socket");
    for socket in sockets {
        set_int(socket.as_fd(), libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes)
            .expect("setsockopt");
    }
}

#[test]
fn what_a_socket_does_not_take_is_not_lost() {
    isolated(|| {
        let data = noise(400_000);
        for (family, caps) in FAMILIES.into_iter().flat_map(|f| [(f, PLAIN), (f, OFFLOADS)]) {
            for tail in [None, Some(54), Some(200)] {
                let setup = Setup { caps, mtu: 9000, ..Setup::default() };
                let mut world = World::new(&setup);
                if let Some(bytes) = tail {
                    world.port.keep_tails(bytes);
                }
                let mut pair = Pair::connect(world, setup.mtu, family);
                limit_unsent(family.host_at(8000), 4096);
                pair.upload(&data);
                let world = pair.finish();
                assert_eq!(world.drops(DropReason::SocketFull), 0);
            }
        }
    });
}

#[test]
fn a_connection_ends_when_its_peer_has_what_its_socket_did_not_take() {
    isolated(|| {
        let data = noise(200_000);
        for family in FAMILIES {
            let setup = Setup { mtu: 9000, ..Setup::default() };
            let Pair { mut world, mut guest, handle, mut peer } =
                Pair::connect(World::new(&setup), setup.mtu, family);
            limit_unsent(family.host_at(8000), 4096);
            // The peer says that it has no more to say, and reads nothing until the guest has said all.
            peer.shutdown(Shutdown::Write).expect("connected");
            let mut sent = 0;
            until(&mut world, &mut guest, "the guest's stream", |_, guest| {
                let socket = guest.tcp_mut(handle);
                if sent < data.len() && socket.can_send() {
                    sent += socket.send_slice(&data[sent..]).expect("the connection is up");
                }
                sent >= data.len() || !socket.can_send()
            });
            let (mut got, mut open, mut closed) = (Vec::new(), true, false);
            let end = Instant::now() + Duration::from_secs(60);
            // The kernel's time has to pass.
            while open || world.engine.flow_count() > 0 {
                assert!(Instant::now() < end, "{} bytes have come", got.len());
                let socket = guest.tcp_mut(handle);
                if sent < data.len() && socket.can_send() {
                    sent += socket.send_slice(&data[sent..]).expect("the connection is up");
                } else if sent >= data.len() && !closed {
                    socket.close();
                    closed = true;
                }
                world.turn(Duration::from_millis(1));
                guest.poll(&mut world);
                open = open && read_some(&mut peer, &mut got);
            }
            assert!(got == data, "the host got other bytes than the guest sent");
            assert_eq!(world.drops(DropReason::SocketFull), 0);
        }
    });
}
