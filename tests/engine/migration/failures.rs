//! Moves that go wrong: the guest goes on where it was, or goes on elsewhere without its connections, and both of their
//! ends know.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use passt::engine::HostChange;
use passt::flow::fwd::Surroundings;
use passt::limits::ADDRESS_AWAY;
use rustix::net::sockopt::set_socket_linger;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, kill_process};
use smoltcp::socket::tcp::State;

use super::at_first_host;
use super::cluster::{Cluster, Host, PATIENCE, enter, peer_at};
use super::connection::{Before, Connection};
use crate::egress::{enforce, policy};
use crate::host_change::unchanged;
use crate::namespace::isolated;
use crate::world::{FAMILIES, Family};

#[test]
fn a_target_that_dies_before_the_switch_leaves_all_at_the_source() {
    isolated(|| {
        let mut cluster = at_first_host();
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.goes_on_here();
    });
}

#[test]
fn a_target_that_does_not_read_on_leaves_all_at_the_source() {
    isolated(|| {
        let mut cluster = at_first_host();
        cluster.hosts[0].start_helper();
        assert!(!cluster.save_to(drop), "nobody has read it");
        cluster.goes_on_here();
    });
}

#[test]
fn a_target_without_helper_refuses_and_leaves_all_at_the_source() {
    isolated(|| {
        let mut cluster = at_first_host();
        cluster.hosts[0].start_helper();
        assert!(!cluster.transfer()[1], "no helper at the target");
        cluster.goes_on_here();
    });
}

#[test]
fn without_helper_the_guest_goes_and_its_connections_are_reset() {
    isolated(|| {
        let mut cluster = at_first_host();
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.switch_over();
        // The network has not changed for the resets: they have gone out before.
        let reset = |connection: &mut Connection| {
            let mut byte = [0];
            let read = connection.peer.read(&mut byte).map_err(|error| error.kind());
            read == Err(ErrorKind::ConnectionReset)
        };
        cluster.net.lead_to(0);
        let idle = &mut cluster.connections[0];
        assert!(idle.peer.peek(&mut [0]).is_err(), "there is nothing for it");
        let _ = idle.peer.write(&[1]);
        let end = Instant::now() + PATIENCE;
        while !reset(&mut cluster.connections[0]) {
            assert!(Instant::now() < end, "the peer knows nothing of it");
            let _ = cluster.connections[0].peer.write(&[1]);
            cluster.hosts[0].turn();
        }
        // At the target there is no such connection: the guest hears of that as soon as it says something.
        let handle = cluster.connections[0].handle;
        let guest = &mut cluster.guest;
        guest.tcp_mut(handle).send_slice(&[1]).expect("it knows nothing of it");
        cluster.until("reset of the guest", |cluster| {
            cluster.guest.tcp_mut(handle).state() == State::Closed
        });
    });
}

#[test]
fn a_connection_that_the_peer_has_reset_meanwhile_is_reset_at_the_target() {
    isolated(|| {
        let mut cluster = Cluster::new();
        for family in FAMILIES {
            cluster.connect_out(family, &[Before::Idle, Before::Both]);
        }
        cluster.traffic(Duration::from_millis(100));
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        // The first host does not come to look at it.
        cluster.stop_guest();
        let handle = cluster.connections[0].handle;
        let peer = cluster.connections.remove(0).peer;
        set_socket_linger(&peer, Some(Duration::ZERO)).expect("setsockopt");
        drop(peer);
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.switch_over();
        cluster.until("reset of the guest", |cluster| {
            cluster.guest.tcp_mut(handle).state() == State::Closed
        });
        cluster.finish();
    });
}

/// A helper of `host` that takes the sockets of one command and leaves without an answer.
fn one_that_dies(host: &Host) -> JoinHandle<()> {
    let socket = host.socket.clone();
    let helper = std::thread::spawn(move || {
        let helper = UnixStream::connect(&socket).expect("passt listens");
        let mut byte = [0];
        (&helper).read_exact(&mut byte).expect("a command");
    });
    std::thread::sleep(Duration::from_millis(50));
    helper
}

#[test]
fn a_helper_that_dies_at_the_source_ends_nothing_but_what_it_had() {
    isolated(|| {
        let mut cluster = at_first_host();
        let helper = one_that_dies(&cluster.hosts[0]);
        assert!(!cluster.save_to(|_stream| ()), "no answer");
        helper.join().expect("the helper");
        cluster.goes_on_here();
    });
}

#[test]
fn a_helper_that_dies_at_the_target_leaves_all_at_the_source() {
    isolated(|| {
        let mut cluster = at_first_host();
        cluster.hosts[0].start_helper();
        let helper = one_that_dies(&cluster.hosts[1]);
        assert!(!cluster.transfer()[1], "no answer");
        helper.join().expect("the helper");
        cluster.goes_on_here();
    });
}

/// The helper's answer comes when the source has given up already: it has begun the repair of all that go on here.
#[test]
fn a_helper_that_answers_late_ends_the_repair_that_it_has_begun() {
    isolated(|| {
        let mut cluster = at_first_host();
        cluster.hosts[0].start_helper();
        let helper = Pid::from_child(cluster.hosts[0].helper.as_ref().expect("started"));
        kill_process(helper, Signal::STOP).expect("a child");
        assert!(!cluster.save_to(drop), "no answer");
        let wakes = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            kill_process(helper, Signal::CONT).expect("a child");
        });
        cluster.goes_on_here();
        wakes.join().expect("it wakes");
    });
}

/// What has come is nowhere else, and is not lost when the guest is to move on before it has lived here.
#[test]
fn a_guest_that_has_not_gone_on_yet_is_not_saved_without_its_connections() {
    isolated(|| {
        let mut cluster = at_first_host();
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        assert_eq!(cluster.transfer(), [true, true]);
        let (_reader, writer) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        enter(&cluster.hosts[1].netns);
        cluster.hosts[1].world.engine.save_state(writer);
        assert_eq!(cluster.outcomes_of(&[1]), [false]);
        cluster.switch_over();
        cluster.finish();
    });
}

/// The guest gets a connection of each family, and all of its state goes into a pipe that nobody reads.
fn save_one_of_each(cluster: &mut Cluster) -> Option<OwnedFd> {
    for family in FAMILIES {
        cluster.connect_out(family, &[Before::Idle]);
    }
    cluster.hosts[0].start_helper();
    let mut reader = None;
    assert!(cluster.save_to(|stream| reader = Some(stream)), "all of it is in the pipe");
    enter(&cluster.hosts[0].netns);
    reader
}

#[test]
fn a_policy_that_comes_while_a_connection_moves_ends_it_where_it_goes_on() {
    isolated(|| {
        let mut cluster = Cluster::new();
        let _reader = save_one_of_each(&mut cluster);
        let forbidden = format!("reject tcp {}", peer_at(Family::V4));
        enforce(&mut cluster.hosts[0].world, policy(&[&forbidden, "allow any"]));
        assert_eq!(cluster.hosts[0].world.engine.flow_count(), 2, "they stay as they are");
        cluster.hosts[0].go_on();
        cluster.first_is_reset();
        cluster.finish();
    });
}

/// It could have gone on where the address is by then.
#[test]
fn an_address_that_goes_while_a_connection_moves_ends_it_where_it_goes_on() {
    isolated(|| {
        let mut cluster = Cluster::new();
        let _reader = save_one_of_each(&mut cluster);
        let host = &mut cluster.hosts[0];
        let own = Surroundings::of_addresses(vec![(Family::V6.host(), 64)]);
        let change = HostChange { gone: vec![Family::V4.host()], own, ..unchanged(&host.world) };
        host.world.follow(change);
        host.world.skip(ADDRESS_AWAY);
        for _ in 0..20 {
            host.turn();
        }
        assert_eq!(host.world.engine.flow_count(), 2, "they stay as they are");
        host.go_on();
        cluster.first_is_reset();
        cluster.finish();
    });
}

/// The guest has two connections, of which all has come to the second host, whose helper has died since then.
fn loaded_without_helper() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.connect_out(Family::V4, &[Before::Idle]);
    cluster.connect_in(Family::V6, &[Before::Both]);
    cluster.traffic(Duration::from_millis(100));
    cluster.hosts.iter_mut().for_each(Host::start_helper);
    assert_eq!(cluster.transfer(), [true, true]);
    cluster.hosts[1].kill_helper();
    cluster
}

#[test]
fn without_helper_at_the_switch_connections_are_reset_at_both_ends() {
    isolated(|| {
        let mut cluster = loaded_without_helper();
        cluster.switch_over();
        let mut ended = std::mem::take(&mut cluster.connections);
        cluster.until("reset of the guest and the peers", |cluster| {
            ended.iter_mut().all(|connection| {
                let reset = [
                    connection.peer.write(&[1]).map_err(|error| error.kind()),
                    connection.peer.read(&mut [0]).map_err(|error| error.kind()),
                ];
                let peer_knows = reset.iter().any(|result| {
                    matches!(result, Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
                });
                peer_knows && cluster.guest.tcp_mut(connection.handle).state() == State::Closed
            })
        });
        assert_eq!(cluster.hosts[1].world.engine.flow_count(), 0);
    });
}

#[test]
fn another_helper_ends_the_repair_that_the_first_one_began() {
    isolated(|| {
        let mut cluster = loaded_without_helper();
        cluster.hosts[1].start_helper();
        cluster.switch_over();
        cluster.finish();
    });
}
