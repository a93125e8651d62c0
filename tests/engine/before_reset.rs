//! What a peer has sent before it resets a connection: a server that refuses a request which it has not read.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use smoltcp::socket::tcp::State;

use crate::guest::until;
use crate::namespace::isolated;
use crate::tcp::{BUFFER, Pair, noise};
use crate::world::{FAMILIES, OFFLOADS, PLAIN, Setup, World};

/// Bytes of answers: no more than fits the window of a new connection, since what was not sent yet goes with the reset.
const SIZES: [usize; 2] = [300, 60_000];

#[test]
fn an_answer_before_a_reset_is_the_guest_s() {
    isolated(|| {
        for (family, caps) in FAMILIES.into_iter().flat_map(|f| [(f, PLAIN), (f, OFFLOADS)]) {
            let sizes = SIZES.into_iter().flat_map(|size| [(size, true), (size, false)]);
            for ((size, peek_offset), ends) in sizes.flat_map(|one| [(one, true), (one, false)]) {
                let setup = Setup { caps, peek_offset, ..Setup::default() };
                let Pair { mut world, mut guest, handle, mut peer } =
                    Pair::connect(World::new(&setup), setup.mtu, family);
                guest.tcp_mut(handle).send_slice(b"a long request").expect("connected");
                until(&mut world, &mut guest, "the request", |_, _| {
                    rustix::io::ioctl_fionread(&peer).expect("ioctl") > 0
                });
                let answer = noise(size);
                peer.write_all(&answer).expect("room");
                // Half of all servers say first that they have no more to say.
                if ends {
                    peer.shutdown(Shutdown::Write).expect("connected");
                }
                drop(peer);
                let (mut got, mut ended) = (Vec::new(), false);
                let end = Instant::now() + Duration::from_secs(20);
                while guest.tcp_mut(handle).state() != State::Closed {
                    assert!(Instant::now() < end, "{} bytes, and no reset", got.len());
                    // A client that sends on does not take away what it has not read.
                    let socket = guest.tcp_mut(handle);
                    if socket.can_send() && got.len() < size / 2 {
                        socket.send_slice(b"more").expect("room");
                    }
                    let mut chunk = [0; 20_000];
                    if socket.can_recv() {
                        let len = socket.recv_slice(&mut chunk).expect("it can");
                        got.extend_from_slice(&chunk[..len]);
                    }
                    world.turn(Duration::from_millis(1));
                    guest.poll(&mut world);
                    ended |= guest.tcp_mut(handle).state() == State::CloseWait;
                }
                let mut chunk = vec![0; size];
                if let Ok(len) = guest.tcp_mut(handle).recv_slice(&mut chunk) {
                    got.extend_from_slice(&chunk[..len]);
                }
                assert!(got == answer, "{} of {size} bytes", got.len());
                assert_eq!(ended, ends, "the end of the answer");
                assert_eq!(world.engine.flow_count(), 0);
            }
        }
    });
}

/// A server that has answered and closed, and to which the guest says more: that is what is answered by a reset.
#[test]
fn an_end_is_one_though_the_guest_goes_on_and_ends_as_well() {
    isolated(|| {
        for (family, peek_offset) in FAMILIES.into_iter().flat_map(|f| [(f, true), (f, false)]) {
            let setup = Setup { peek_offset, ..Setup::default() };
            let Pair { mut world, mut guest, handle, mut peer } =
                Pair::connect(World::new(&setup), setup.mtu, family);
            guest.tcp_mut(handle).send_slice(b"a request").expect("connected");
            let mut request = [0; 9];
            until(&mut world, &mut guest, "the request", |_, _| peer.read(&mut request).is_ok());
            let answer = noise(60_000);
            peer.write_all(&answer).expect("room");
            drop(peer);
            // Before it has read anything, and with the end in the same turn.
            let socket = guest.tcp_mut(handle);
            socket.send_slice(b"thanks").expect("room");
            socket.close();
            let (mut got, mut ended) = (Vec::new(), false);
            let end = Instant::now() + Duration::from_secs(20);
            while guest.tcp_mut(handle).state() != State::Closed {
                assert!(Instant::now() < end, "{} bytes, and no end", got.len());
                let mut chunk = [0; 20_000];
                if let Ok(len) = guest.tcp_mut(handle).recv_slice(&mut chunk) {
                    got.extend_from_slice(&chunk[..len]);
                }
                guest.poll(&mut world);
                world.turn(Duration::from_millis(1));
                guest.poll(&mut world);
                let state = guest.tcp_mut(handle).state();
                ended |= matches!(state, State::Closing | State::TimeWait | State::LastAck);
                if state == State::TimeWait {
                    break;
                }
            }
            let mut chunk = vec![0; answer.len()];
            while let Ok(len @ 1..) = guest.tcp_mut(handle).recv_slice(&mut chunk) {
                got.extend_from_slice(&chunk[..len]);
            }
            assert!(got == answer, "{} bytes", got.len());
            assert!(ended, "the end of the answer");
        }
    });
}

/// A guest that does not read, and has room for nothing but what it has got.
#[test]
fn a_guest_whose_window_is_closed_hears_of_a_reset() {
    isolated(|| {
        for (family, peek_offset) in FAMILIES.into_iter().flat_map(|f| [(f, true), (f, false)]) {
            let setup = Setup { peek_offset, ..Setup::default() };
            let Pair { mut world, mut guest, handle, mut peer } =
                Pair::connect(World::new(&setup), setup.mtu, family);
            let answer = noise(BUFFER);
            // Its window counts in eights.
            let mut sent = 0;
            until(&mut world, &mut guest, "a full buffer", |_, guest| {
                let got = guest.tcp_mut(handle).recv_queue();
                if got == sent && sent < answer.len() {
                    let part = ((answer.len() - sent) / 16 * 8).clamp(8, 8192);
                    peer.write_all(&answer[sent..sent + part]).expect("room");
                    sent += part;
                }
                got == answer.len()
            });
            // The question that the peer does not read makes its end a reset.
            guest.tcp_mut(handle).send_slice(b"a question").expect("connected");
            until(&mut world, &mut guest, "the question", |_, _| {
                rustix::io::ioctl_fionread(&peer).expect("ioctl") > 0
            });
            drop(peer);
            let end = Instant::now() + Duration::from_secs(20);
            while guest.tcp_mut(handle).state() != State::Closed {
                assert!(Instant::now() < end, "no reset");
                world.turn(Duration::from_millis(1));
                guest.poll(&mut world);
            }
            assert_eq!(guest.tcp_mut(handle).recv_queue(), answer.len());
            assert_eq!(world.engine.flow_count(), 0);
        }
    });
}
