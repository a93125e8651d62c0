//! What a target does before the guest runs there: nothing that a peer could notice.

use std::io::Write;
use std::time::Duration;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::cluster::{Cluster, Host, enter};
use super::connection::Before;
use super::{ESTABLISHED, idle, kernel_s_sockets, one_out_one_in_unheard};
use crate::namespace::isolated;
use crate::world::Family;

/// From now on this thread may attach no filter to a TCP socket, where the kernel asks for a privilege.
fn give_up_privilege() {
    let CapabilitySets { mut effective, permitted, inheritable } =
        capabilities(None).expect("capget");
    effective.remove(CapabilitySet::NET_ADMIN);
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable }).expect("capset");
}

/// What would be acknowledged there is nowhere if the guest goes on at the source.
#[test]
fn what_peers_say_before_the_guest_runs_is_not_acknowledged() {
    isolated(|| {
        for privileged in [true, false] {
            let mut cluster = idle();
            cluster.hosts.iter_mut().for_each(Host::start_helper);
            if !privileged {
                give_up_privilege();
            }
            assert_eq!(cluster.transfer(), [true, true]);
            cluster.net.lead_to(1);
            for connection in &mut cluster.connections {
                connection.peer.write_all(&connection.down.data[..1]).expect("connected");
                connection.down.sent = 1;
            }
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(cluster.net.unacknowledged(), [1; 4], "privileged: {privileged}");
            cluster.net.lead_to(0);
            cluster.goes_on_here();
        }
    });
}

#[test]
fn segments_to_the_peers_are_as_large_as_before_without_a_privilege() {
    isolated(|| {
        let mut cluster = idle();
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        give_up_privilege();
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.switch_over();
        cluster.until("the guest's data", Cluster::guest_sends);
        let sizes = cluster.net.received_segment_sizes();
        assert!(sizes.len() == 4 && sizes.iter().all(|size| *size > 1400), "{sizes:?}");
        cluster.finish();
    });
}

/// What has left the source and was not acknowledged is sent again when the guest runs, and not when the kernel thinks that
/// it is time.
#[test]
fn what_was_sent_is_not_sent_again_before_the_guest_runs() {
    isolated(|| {
        let mut cluster = one_out_one_in_unheard();
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        assert_eq!(cluster.transfer(), [true, true]);
        enter(&cluster.hosts[1].netns);
        let waiting = kernel_s_sockets().into_iter().filter(|(state, ..)| *state == ESTABLISHED);
        assert_eq!(waiting.collect::<Vec<_>>(), [(ESTABLISHED, 0, 0); 2]);
        cluster.switch_over();
        cluster.until("the guest is heard", |cluster| {
            cluster.connections.iter_mut().all(|one| one.peer.peek(&mut [0]).is_ok())
        });
    });
}

/// Of a stream that the guest has ended, and that its peer has acknowledged.
#[test]
fn an_end_is_not_sent_again_before_the_guest_runs() {
    const FIN_WAIT_2: u8 = 5;
    const LISTEN: u8 = 10;
    isolated(|| {
        let mut cluster = Cluster::new();
        cluster.connect_out(Family::V4, &[Before::Idle]);
        cluster.until("the guest's end", Cluster::guest_sends_all);
        cluster.until("its acknowledgement", |cluster| {
            enter(&cluster.hosts[0].netns);
            kernel_s_sockets().iter().any(|(state, ..)| *state == FIN_WAIT_2)
        });
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        assert_eq!(cluster.transfer(), [true, true]);
        enter(&cluster.hosts[1].netns);
        let sockets = kernel_s_sockets().into_iter().filter(|(state, ..)| *state != LISTEN);
        assert_eq!(sockets.collect::<Vec<_>>(), [(ESTABLISHED, 0, 0)]);
        cluster.switch_over();
        cluster.finish();
    });
}
