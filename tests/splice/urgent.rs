//! Urgent data: one byte of the stream like the others, at its place and at once, copied or spliced.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::{SendFlags, send};

use crate::many::{small_buffers, stall};
use crate::rig::{self, Running, Setup, in_namespace};
use crate::{FIXED, Route, pattern, read_all};

fn send_urgent(stream: &TcpStream, byte: u8) {
    assert_eq!(send(stream, &[byte], SendFlags::OOB), Ok(1));
}

/// Both ends of a connection, each of them once as the sender.
fn both_ways(
    mut ends: (TcpStream, TcpStream),
    mut body: impl FnMut(&mut TcpStream, &mut TcpStream),
) {
    body(&mut ends.0, &mut ends.1);
    body(&mut ends.1, &mut ends.0);
}

#[test]
fn a_few_bytes_with_an_urgent_one_among_them_arrive_at_once() {
    in_namespace("urgent::a_few_bytes_with_an_urgent_one_among_them_arrive_at_once", || {
        let guest = rig::guest();
        let _running = Running::start(&guest, Setup::new(FIXED));
        for route in Route::all(&guest) {
            let listener = route.listen();
            for pause_ms in [0, 1, 20] {
                let pause = || std::thread::sleep(Duration::from_millis(pause_ms));
                both_ways(route.pair(&listener), |from, to| {
                    let mut got = [0; 9];
                    from.write_all(b"abc").unwrap();
                    pause();
                    send_urgent(from, b'!');
                    pause();
                    from.write_all(b"def").unwrap();
                    send_urgent(from, b'?');
                    pause();
                    send_urgent(from, b'!');
                    let sent = Instant::now();
                    to.read_exact(&mut got).unwrap();
                    assert_eq!(&got, b"abc!def?!");
                    assert!(sent.elapsed() < Duration::from_secs(1), "after {:?}", sent.elapsed());
                });
            }
        }
    });
}

/// Bulk, an urgent byte, bulk, and the end.
fn bulk_with_an_urgent_byte(from: &mut TcpStream, to: &mut TcpStream, bulk: &[u8]) {
    let expected = [bulk, b"!", bulk].concat();
    let mut writer = from.try_clone().unwrap();
    let bulk = bulk.to_vec();
    let writes = std::thread::spawn(move || {
        writer.write_all(&bulk).unwrap();
        send_urgent(&writer, b'!');
        writer.write_all(&bulk).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    assert!(read_all(to) == expected, "other bytes than were sent");
    writes.join().unwrap();
}

#[test]
fn bulk_goes_on_behind_an_urgent_byte() {
    in_namespace("urgent::bulk_goes_on_behind_an_urgent_byte", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        for route in Route::all(&guest) {
            let listener = route.listen();
            for bytes in [1, 100_000, 1 << 20] {
                let bulk = pattern(bytes, 9);
                both_ways(route.pair(&listener), |from, to| {
                    bulk_with_an_urgent_byte(from, to, &bulk);
                });
                running.await_flows(0);
            }
        }
    });
}

#[test]
fn bulk_goes_on_behind_an_urgent_byte_where_no_pipe_is_left() {
    in_namespace("urgent::bulk_goes_on_behind_an_urgent_byte_where_no_pipe_is_left", || {
        let guest = rig::guest();
        small_buffers();
        guest.run(small_buffers);
        let running = Running::start(&guest, Setup::new(FIXED));
        let route = &Route::all(&guest)[0];
        let listener = route.listen();
        let mut stalled: Vec<_> = (0..40).map(|_| route.pair(&listener)).collect();
        stalled.iter_mut().for_each(|(client, _)| drop(stall(client)));
        let bulk = pattern(1 << 20, 9);
        both_ways(route.pair(&listener), |from, to| bulk_with_an_urgent_byte(from, to, &bulk));
        drop(stalled);
        running.await_flows(0);
    });
}

#[test]
fn urgent_bytes_that_nobody_reads_do_not_keep_the_loop_busy() {
    in_namespace("urgent::urgent_bytes_that_nobody_reads_do_not_keep_the_loop_busy", || {
        let guest = rig::guest();
        small_buffers();
        guest.run(small_buffers);
        let running = Running::start(&guest, Setup::new(FIXED));
        let route = &Route::all(&guest)[0];
        let listener = route.listen();
        let (mut client, mut service) = route.pair(&listener);
        let mut sent = stall(&mut client);
        let room = send(&client, b"!", SendFlags::OOB).is_ok();
        sent.extend(room.then_some(b'!'));
        let before = running.turns();
        std::thread::sleep(Duration::from_millis(500));
        assert!(running.turns() - before < 200, "the loop waits for an event");
        client.shutdown(Shutdown::Write).unwrap();
        assert!(read_all(&mut service) == sent, "other bytes than were sent");
        drop((client, service));
        running.await_flows(0);
    });
}
