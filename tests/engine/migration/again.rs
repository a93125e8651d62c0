//! Guests that move on soon after they have moved, and connections that have failed before.

use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;
use smoltcp::socket::tcp::State;

use super::cluster::{Cluster, Host, enter, sh};
use super::connection::{BUFFER, Before, LITTLE, Way};
use super::{ESTABLISHED, idle, kernel_s_sockets};
use crate::namespace::isolated;
use crate::world::{FAMILIES, Family};

/// States of what is no connection any more, and of a socket that listens.
const OVER: [u8; 3] = [6, 7, 10];

/// A moment in which a guest lives at a host.
const STAY: Duration = Duration::from_millis(300);

impl Cluster {
    fn stay(&mut self) {
        let end = Instant::now() + STAY;
        self.until("a moment", |_| Instant::now() >= end);
    }

    /// The guest moves to the other host and back, without a word of its own.
    fn there_and_back(&mut self) {
        for _ in 0..2 {
            self.hosts.iter_mut().for_each(Host::start_helper);
            assert_eq!(self.transfer(), [true, true]);
            self.switch_over();
            self.stay();
        }
    }

    /// The peer of the first connection resets it.
    fn reset_first(&mut self) -> smoltcp::iface::SocketHandle {
        let ended = self.connections.remove(0);
        set_socket_linger(&ended.peer, Some(Duration::ZERO)).expect("setsockopt");
        ended.handle
    }

    fn until_reset(&mut self, handle: smoltcp::iface::SocketHandle) {
        self.until("reset of the guest", |cluster| {
            cluster.guest.tcp_mut(handle).state() == State::Closed
        });
    }
}

/// More than the sockets of the second host take.
#[test]
fn what_has_come_and_was_not_sent_yet_moves_on() {
    const ALL: usize = 12 << 20;
    isolated(|| {
        let mut cluster = Cluster::new();
        enter(&cluster.hosts[0].netns);
        sh("echo '4096 33554432 67108864' > /proc/sys/net/ipv4/tcp_wmem");
        for before in [Before::PeerStalls, Before::GuestEndedPeerStalls] {
            cluster.connect_out(Family::V4, &[before]);
            let connection = cluster.connections.last_mut().expect("made");
            (connection.up, connection.down) = (Way::new(ALL, 1), Way::new(LITTLE, 3));
        }
        cluster.until("all is taken", |cluster| {
            cluster.work(false);
            let Cluster { connections, guest, .. } = cluster;
            connections.iter().all(|connection| {
                let all = connection.up.left().is_empty();
                all && guest.tcp_mut(connection.handle).send_queue() == 0
            })
        });
        cluster.there_and_back();
        assert_eq!(cluster.hosts[0].world.engine.flow_count(), 2);
        cluster.finish();
    });
}

/// Its end is answered by a reset, of which nothing follows.
#[test]
fn the_rest_of_a_stream_whose_peer_has_forgotten_it_moves_on() {
    isolated(|| {
        let mut cluster = idle();
        // More than the guest has room for.
        cluster.connections.iter_mut().for_each(|connection| {
            connection.down = Way::new(BUFFER + LITTLE, 3);
        });
        cluster.until("the guest's end", Cluster::guest_sends_all);
        cluster.until("the peers' end", |cluster| {
            let mut sent =
                cluster.connections.iter_mut().map(|connection| connection.peer_sends(true));
            sent.all(|sent| sent)
        });
        cluster.until("all of it has come", |cluster| {
            enter(&cluster.hosts[0].netns);
            kernel_s_sockets().iter().all(|(state, ..)| OVER.contains(state))
        });
        cluster.stay();
        cluster.there_and_back();
        cluster.finish();
    });
}

/// The kernel tells of an error once: it was told when the connection was described for a move that has failed.
#[test]
fn a_reset_that_came_before_a_move_that_failed_is_told_after_the_next() {
    isolated(|| {
        for (ends, family) in [(false, Family::V4), (true, Family::V6)] {
            let mut cluster = Cluster::new();
            cluster.connect_out(family, &[Before::Idle, Before::Idle]);
            cluster.hosts.iter_mut().for_each(Host::start_helper);
            cluster.stop_guest();
            if ends {
                let peer = &cluster.connections[0].peer;
                peer.shutdown(std::net::Shutdown::Write).expect("connected");
            }
            let ended = cluster.reset_first();
            assert_eq!(cluster.transfer(), [true, true]);
            enter(&cluster.hosts[1].netns);
            cluster.hosts[1].world.engine.on_link_closed();
            cluster.hosts[1].start_helper();
            assert_eq!(cluster.transfer(), [true, true]);
            cluster.switch_over();
            cluster.until_reset(ended);
            cluster.finish();
        }
    });
}

/// The guest has not got all that came before the reset.
#[test]
fn a_reset_that_the_guest_was_not_told_of_is_told_at_the_target() {
    isolated(|| {
        let mut cluster = Cluster::new();
        for family in FAMILIES {
            cluster.connect_out(family, &[Before::GuestStalls]);
        }
        cluster.traffic(STAY);
        let ended = cluster.reset_first();
        cluster.stay();
        assert_ne!(cluster.guest.tcp_mut(ended).state(), State::Closed, "it has not got all");
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.switch_over();
        cluster.until_reset(ended);
        assert_eq!(cluster.hosts[0].world.engine.flow_count(), 0);
        cluster.finish();
    });
}

/// A target in the same network namespace has the same ends.
#[test]
fn sockets_that_do_not_linger_are_closed_as_soon_as_they_are_described() {
    isolated(|| {
        for goes_on_here in [false, true] {
            let mut cluster = idle();
            let host = &mut cluster.hosts[0];
            std::fs::remove_file(&host.socket).expect("its name");
            let listener = UnixListener::bind(&host.socket).expect("a free name");
            listener.set_nonblocking(true).expect("fcntl");
            host.world.engine.set_helper(listener.into(), true).expect("epoll");
            cluster.hosts.iter_mut().for_each(Host::start_helper);
            assert_eq!(cluster.transfer(), [true, true]);
            enter(&cluster.hosts[0].netns);
            let mut sockets = kernel_s_sockets().into_iter();
            assert_eq!(sockets.find(|(state, ..)| *state == ESTABLISHED), None);
            if !goes_on_here {
                cluster.switch_over();
                cluster.finish();
                continue;
            }
            enter(&cluster.hosts[1].netns);
            cluster.hosts[1].world.engine.on_link_closed();
            cluster.hosts[0].go_on();
            let ended = std::mem::take(&mut cluster.connections);
            for connection in ended {
                cluster.until_reset(connection.handle);
            }
        }
    });
}
