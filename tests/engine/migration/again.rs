//! Guests that move on soon after they have moved, and connections that have failed before.

use std::time::{Duration, Instant};

use super::cluster::{Cluster, Host, enter, sh};
use super::connection::{Before, LITTLE, Way};
use crate::namespace::isolated;
use crate::world::Family;

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
