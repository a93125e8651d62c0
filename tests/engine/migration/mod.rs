//! A guest moves from one engine to another, in another network namespace with the same addresses, and its
//! connections with it.

mod again;
mod cluster;
mod connection;
mod early;
mod failures;
mod packaged;
mod streams;

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use passt::wire::DropReason;
use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Pid, Signal, kill_process};
use smoltcp::socket::tcp::State;

use crate::egress::{enforce, policy};
use crate::fragments::cut_l4;
use crate::namespace::isolated;
use crate::packet;
use crate::world::{FAMILIES, Family};
use cluster::{Cluster, GUEST_PORT, Host, PATIENCE, enter, peer_at};
use connection::{ALL, BUFFER, Before, LITTLE, Way};

#[test]
fn connections_go_on_at_the_other_host_and_back() {
    isolated(|| {
        let mut cluster = Cluster::new();
        for round in 0..2 {
            for family in FAMILIES {
                cluster.connect_out(family, &ALL);
                cluster.connect_in(family, &[Before::Idle, Before::Both, Before::GuestEnded]);
            }
            cluster.traffic(Duration::from_millis(300));
            cluster.hosts.iter_mut().for_each(Host::start_helper);
            assert_eq!(cluster.transfer(), [true, true], "round {round}");
            cluster.switch_over();
            cluster.finish();
        }
    });
}

/// How long a connection stands still after a move, at most.
const STANDSTILL: Duration = Duration::from_secs(1);

#[test]
fn no_way_of_a_connection_stands_still_for_long() {
    isolated(|| {
        let mut cluster = Cluster::new();
        for round in 0..2 {
            for family in FAMILIES {
                cluster.connect_out(family, &ALL);
                cluster.connect_in(family, &[Before::Both, Before::Idle]);
            }
            cluster.traffic(Duration::from_millis(300));
            cluster.hosts.iter_mut().for_each(Host::start_helper);
            assert_eq!(cluster.transfer(), [true, true]);
            cluster.switch_over();
            let (begin, before) = (Instant::now(), cluster.progress());
            cluster.until("progress", |cluster| {
                cluster.work(true);
                let now = cluster.progress();
                let moves = |(before, now): (&Option<usize>, &Option<usize>)| {
                    before.is_none() || now.is_none() || before < now
                };
                let all = before.iter().zip(&now).all(moves);
                assert!(all || begin.elapsed() < STANDSTILL, "round {round}: {before:?} {now:?}");
                all
            });
            cluster.finish();
        }
    });
}

#[test]
fn segments_to_the_peers_are_as_large_as_before() {
    isolated(|| {
        let mut cluster = Cluster::new();
        for family in FAMILIES {
            cluster.connect_out(family, &[Before::Idle]);
            cluster.connect_in(family, &[Before::Idle]);
        }
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.switch_over();
        cluster.until("the guest's data", Cluster::guest_sends);
        let sizes = cluster.net.received_segment_sizes();
        assert!(sizes.len() == 4 && sizes.iter().all(|size| *size > 1400), "{sizes:?}");
        cluster.finish();
    });
}

/// Idle connections of both families, made by either side.
fn idle() -> Cluster {
    let mut cluster = Cluster::new();
    for family in FAMILIES {
        cluster.connect_out(family, &[Before::Idle]);
        cluster.connect_in(family, &[Before::Idle]);
    }
    cluster
}

#[test]
fn what_a_connection_that_the_guest_and_then_the_peer_have_ended_has_for_the_guest_goes_along() {
    isolated(|| {
        let mut cluster = idle();
        cluster.until("the guest's end", Cluster::guest_sends_all);
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        cluster.stop_guest();
        assert!(cluster.connections.iter_mut().all(|connection| connection.peer_sends(true)));
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.switch_over();
        cluster.finish();
    });
}

#[test]
fn what_a_connection_that_the_peer_and_then_the_guest_have_ended_has_for_the_guest_goes_along() {
    isolated(|| {
        let mut cluster = idle();
        // More than the guest has room for.
        cluster.connections.iter_mut().for_each(|connection| {
            connection.down = Way::new(BUFFER + LITTLE, 3);
        });
        cluster.until("the peers' end", |cluster| {
            let mut sent =
                cluster.connections.iter_mut().map(|connection| connection.peer_sends(true));
            sent.all(|sent| sent)
        });
        cluster.until("the guest's end", Cluster::guest_sends_all);
        for round in 0..2 {
            cluster.hosts.iter_mut().for_each(Host::start_helper);
            assert_eq!(cluster.transfer(), [true, true], "round {round}");
            cluster.switch_over();
        }
        cluster.finish();
    });
}

#[test]
fn a_helper_that_comes_while_the_one_before_ends_its_work_serves_the_next_move() {
    isolated(|| {
        let mut cluster = idle();
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        assert_eq!(cluster.transfer(), [true, true]);
        let mut first = cluster.hosts[1].helper.take().expect("started");
        kill_process(Pid::from_child(&first), Signal::STOP).expect("a child");
        cluster.switch_over();
        cluster.hosts[1].start_helper();
        kill_process(Pid::from_child(&first), Signal::CONT).expect("a child");
        cluster.until("its end", |_| first.try_wait().expect("a child").is_some());
        cluster.hosts[0].start_helper();
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.switch_over();
        cluster.finish();
    });
}

/// Who ends the program when the guest has gone does not end its connections.
#[test]
fn sockets_are_kept_for_a_moment_when_the_guest_has_gone() {
    isolated(|| {
        let mut cluster = idle();
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        let lingers = |cluster: &mut Cluster| {
            cluster.hosts[0].turn();
            let engine = &cluster.hosts[0].world.engine;
            engine.lingers_until().map(|until| until.since(cluster.hosts[0].world.now()))
        };
        assert_eq!(lingers(&mut cluster), None, "nobody has gone");
        assert_eq!(cluster.transfer(), [true, true]);
        let left = lingers(&mut cluster).expect("the target may not have told anybody yet");
        assert!(left <= Duration::from_secs(1));
        cluster.switch_over();
        assert!(lingers(&mut cluster).expect("nor now") <= Duration::from_secs(1));
        cluster.finish();
    });
}

/// State, bytes that are queued toward the peer, and the timer that is set, of each TCP socket over IPv4 of this network
/// namespace.
fn kernel_s_sockets() -> Vec<(u8, u32, u8)> {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").expect("procfs");
    let number = |text: &str| u32::from_str_radix(text, 16).expect("a number");
    let socket = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (queue, timer) = (words[4].split(':').next(), words[5].split(':').next());
        (number(words[3]) as u8, number(queue.expect("two")), number(timer.expect("two")) as u8)
    };
    table.lines().skip(1).map(socket).collect()
}

/// The state of a connection.
const ESTABLISHED: u8 = 1;

/// A connection either way, of which nobody hears what the guest says.
fn one_out_one_in_unheard() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.connect_out(Family::V4, &[Before::Idle]);
    cluster.connect_in(Family::V4, &[Before::Idle]);
    cluster.traffic(Duration::from_millis(100));
    cluster.net.lead_to(1);
    let handles: Vec<_> = cluster.connections.iter().map(|one| one.handle).collect();
    for handle in handles {
        cluster.guest.tcp_mut(handle).send_slice(&[1; 1000]).expect("open");
    }
    let unheard = |cluster: &Cluster| {
        enter(&cluster.hosts[0].netns);
        let all = kernel_s_sockets().into_iter().filter(|(state, ..)| *state == ESTABLISHED);
        all.filter(|(_, queued, timer)| *queued > 0 && *timer > 0).count()
    };
    cluster.until("its words are on their way", |cluster| unheard(cluster) == 2);
    cluster
}

/// What it would say again brings a network back that learns places by frames.
#[test]
fn a_source_says_nothing_when_the_guest_has_gone() {
    isolated(|| {
        let mut cluster = one_out_one_in_unheard();
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.switch_over();
        enter(&cluster.hosts[0].netns);
        let kept = kernel_s_sockets().into_iter().filter(|(state, ..)| *state == ESTABLISHED);
        assert_eq!(kept.collect::<Vec<_>>(), [(ESTABLISHED, 0, 0); 2]);
        cluster.until("the guest is heard", |cluster| {
            cluster.connections.iter_mut().all(|one| one.peer.peek(&mut [0]).is_ok())
        });
    });
}

/// The packaged passt-repair has room for no more sockets than there were in the message before.
#[test]
fn no_message_to_a_helper_has_more_sockets_than_the_one_before() {
    const EACH: usize = 65;
    isolated(|| {
        let mut cluster = Cluster::new();
        for family in FAMILIES {
            cluster.connect_out(family, &[Before::Idle; EACH]);
            cluster.connect_in(family, &[Before::Idle; EACH]);
        }
        cluster.connect_out(Family::V4, &[Before::Idle]);
        let counts = cluster.hosts.each_mut().map(Host::start_counting_helper);
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.switch_over();
        cluster.finish();
        let [source, target] = counts.map(|counts| counts.lock().expect("no panic").clone());
        assert_eq!(source, [131, 130]);
        assert_eq!(target, [131, 130, 87, 87, 87]);
    });
}

/// The first host does not come to look at a connection that ends by a reset, and the guest goes on there after all. What the
/// peer said before that is the guest's: that its stream ends.
#[test]
fn a_connection_that_was_reset_while_it_was_described_is_reset_at_the_source() {
    isolated(|| {
        for ends in [false, true] {
            let mut cluster = idle();
            cluster.hosts.iter_mut().for_each(Host::start_helper);
            cluster.stop_guest();
            let ended = cluster.connections.remove(0);
            if ends {
                ended.peer.shutdown(Shutdown::Write).expect("connected");
            }
            set_socket_linger(&ended.peer, Some(Duration::ZERO)).expect("setsockopt");
            drop(ended.peer);
            assert_eq!(cluster.transfer(), [true, true]);
            enter(&cluster.hosts[1].netns);
            cluster.hosts[1].world.engine.on_link_closed();
            cluster.hosts[0].go_on();
            let mut has_end = false;
            cluster.until("reset of the guest", |cluster| {
                let state = cluster.guest.tcp_mut(ended.handle).state();
                has_end |= state == State::CloseWait;
                state == State::Closed
            });
            assert_eq!(has_end, ends);
            cluster.finish();
        }
    });
}

/// The guest has connections of all kinds at the first host.
fn at_first_host() -> Cluster {
    let mut cluster = Cluster::new();
    for family in FAMILIES {
        cluster.connect_out(family, &ALL);
    }
    cluster.traffic(Duration::from_millis(100));
    cluster
}
#[test]
fn connections_that_the_second_host_forbids_are_reset_at_both_ends() {
    isolated(|| {
        let mut cluster = Cluster::new();
        for family in FAMILIES {
            cluster.connect_out(family, &[Before::Idle]);
            cluster.connect_in(family, &[Before::Idle]);
        }
        let forbidden = format!("reject tcp {}", peer_at(Family::V4));
        enforce(&mut cluster.hosts[1].world, policy(&[&forbidden, "allow any"]));
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.switch_over();
        cluster.first_is_reset();
        // The others go on: what peers began is not the guest's choice.
        assert_eq!(cluster.hosts[1].world.engine.flow_count(), 3);
        cluster.finish();
    });
}

/// Descriptors of a host of which few connections are admitted at a time, of which the guest has to show that it knows
/// them; and how many.
const SMALL: (u64, usize) = (24, 5);

#[test]
fn connections_that_leave_keep_no_place_of_those_that_come() {
    isolated(|| {
        let (descriptors, admitted) = SMALL;
        let mut cluster = Cluster::with_descriptors(descriptors);
        cluster.hosts.iter_mut().for_each(Host::start_helper);
        cluster.connect_in(Family::V4, &vec![Before::Idle; admitted]);
        assert_eq!(cluster.transfer(), [true, true]);
        cluster.switch_over();
        cluster.finish();
        // The next guest of the first host is offered a connection.
        cluster.net.lead_to(0);
        cluster.hosts[0].go_on();
        let _greeting = cluster.hosts[0].world.received();
        let to = Family::V4.host_at(GUEST_PORT);
        let _peer = cluster.net.peers.run(move || {
            TcpStream::connect_timeout(&to, Duration::from_secs(5)).expect("it is forwarded")
        });
        let end = Instant::now() + PATIENCE;
        let is_syn = |frame: &Vec<u8>| frame[12..14] == [8, 0] && frame[23] == packet::TCP;
        while !cluster.hosts[0].world.received().iter().any(is_syn) {
            assert!(Instant::now() < end, "nobody is offered to the guest");
            cluster.hosts[0].turn();
        }
    });
}

#[test]
fn what_the_guest_says_of_a_frozen_connection_is_dropped_in_fragments_too() {
    isolated(|| {
        let mut cluster = Cluster::new();
        for family in FAMILIES {
            cluster.connect_out(family, &[Before::Idle]);
        }
        cluster.hosts[0].start_helper();
        assert!(cluster.save_to(std::mem::forget), "all was written");
        enter(&cluster.hosts[0].netns);
        let world = &mut cluster.hosts[0].world;
        for (family, port) in FAMILIES.into_iter().zip(40_000..) {
            let ends = (SocketAddr::new(family.guest(), port), peer_at(family));
            let segment = packet::tcp(ends.0, ends.1, packet::ACK, (1, 1), &[0; 100]);
            let l4 = &segment[packet::l4_offset(family.guest())..];
            let ips = (ends.0.ip(), ends.1.ip());
            let before = world.drops(DropReason::LinkDown);
            world.send(segment.clone());
            world.settle(64);
            assert_eq!(world.drops(DropReason::LinkDown), before + 1, "{family:?}");
            for frame in cut_l4(ips, packet::TCP, 1, l4, 64) {
                world.send(frame);
            }
            world.settle(64);
            assert_eq!(world.drops(DropReason::LinkDown), before + 2, "{family:?}, fragments");
        }
        cluster.goes_on_here();
    });
}
