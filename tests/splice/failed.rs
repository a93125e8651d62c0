//! One end fails while the other takes nothing: it hears of that in time, and what it takes meanwhile is its own.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use passt_support::wait::eventually;

use crate::rig::{self, PATIENCE, Running, Setup, in_namespace};
use crate::{FIXED, LARGE, Route, pattern, read_all, reset_on_close};

/// What the buffers between two programs hold for sure.
const HELD: usize = 3 * 1024 * 1024;

/// Buffers that take nothing for so long are full.
const FULL: Duration = Duration::from_millis(300);

/// Sends until neither the receiver's buffers nor ours take any more for so long.
fn fill(stream: &mut TcpStream, patience: Duration) {
    stream.set_nonblocking(true).unwrap();
    let chunk = pattern(64 * 1024, 3);
    let mut moved = Instant::now();
    while moved.elapsed() < patience {
        match stream.write(&chunk) {
            Ok(1..) => moved = Instant::now(),
            Ok(0) => panic!("it takes something or fails"),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    stream.set_nonblocking(false).unwrap();
}

fn fail(stream: TcpStream) {
    reset_on_close(&stream);
    drop(stream);
}

/// Writes until that fails.
fn write_on(stream: &mut TcpStream) -> ErrorKind {
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let chunk = pattern(64 * 1024, 5);
    loop {
        if let Err(error) = stream.write(&chunk) {
            return error.kind();
        }
    }
}

/// A bulk upload, statements one after the other: the client reads when it has written all.
#[test]
fn who_only_writes_hears_of_the_other_end_s_failure() {
    in_namespace("failed::who_only_writes_hears_of_the_other_end_s_failure", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        for route in Route::all(&guest) {
            let listener = route.listen();
            for [service_fails, both_full] in [[true, false], [true, true], [false, true]] {
                let (client, service) = route.pair(&listener);
                let (mut fails, mut writes) =
                    if service_fails { (service, client) } else { (client, service) };
                fill(&mut fails, FULL);
                if both_full {
                    fill(&mut writes, FULL);
                }
                fail(fails);
                let since = Instant::now();
                assert_eq!(write_on(&mut writes), ErrorKind::ConnectionReset);
                assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
                running.await_flows(0);
                assert!(writes.read(&mut [0; 16]).unwrap() > 0, "what it has is still its own");
            }
        }
    });
}

#[test]
fn who_waits_for_nothing_but_an_error_hears_of_it() {
    in_namespace("failed::who_waits_for_nothing_but_an_error_hears_of_it", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        for route in Route::all(&guest) {
            let listener = route.listen();
            for half_closed in [false, true] {
                let (client, mut service) = route.pair(&listener);
                fill(&mut service, FULL);
                if half_closed {
                    client.shutdown(Shutdown::Write).unwrap();
                }
                fail(service);
                running.sleep(58);
                std::thread::sleep(Duration::from_secs(1));
                assert_eq!(running.flows(), 1, "it may be at work on what it has read");
                running.sleep(2);
                let told = || client.take_error().unwrap().map(|error| error.kind());
                eventually("the reset", || told() == Some(ErrorKind::ConnectionReset));
                running.await_flows(0);
            }
        }
    });
}

#[test]
fn who_reads_on_gets_all_and_then_the_failure() {
    in_namespace("failed::who_reads_on_gets_all_and_then_the_failure", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        for route in Route::all(&guest) {
            let listener = route.listen();
            // Those who have ended their stream have time, and those who write if they read in between.
            for ended in [true, false] {
                let (mut client, mut service) = route.pair(&listener);
                // More than the client's buffer takes, and less than ours do: what is left in the service's goes with it.
                service.write_all(&pattern(HELD, 3)).unwrap();
                std::thread::sleep(Duration::from_millis(100));
                if ended {
                    client.shutdown(Shutdown::Write).unwrap();
                } else {
                    client.write_all(b"more").unwrap();
                }
                fail(service);
                std::thread::sleep(Duration::from_millis(if ended { 1500 } else { 100 }));
                let (mut got, mut chunk) = (0, vec![0; 1 << 20]);
                let end = loop {
                    match client.read(&mut chunk) {
                        Ok(0) => panic!("a failure is no end"),
                        Ok(read) => got += read,
                        Err(error) => break error.kind(),
                    }
                };
                assert_eq!(end, ErrorKind::ConnectionReset);
                assert_eq!(got, HELD);
                running.await_flows(0);
            }
        }
    });
}

/// More connections that nobody reads than there are pipes, each with something in both directions.
#[test]
fn stalled_connections_stop_no_others() {
    in_namespace("failed::stalled_connections_stop_no_others", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        let route = &Route::all(&guest)[0];
        let listener = route.listen();
        let mut stalled = Vec::new();
        for _ in 0..40 {
            let (mut client, mut service) = route.pair(&listener);
            fill(&mut client, Duration::from_millis(20));
            fill(&mut service, Duration::from_millis(20));
            stalled.push((client, service));
        }
        let (mut client, mut service) = route.pair(&listener);
        let since = Instant::now();
        let data = pattern(LARGE, 9);
        let sent = data.clone();
        let writes = std::thread::spawn(move || client.write_all(&sent).unwrap());
        assert!(read_all(&mut service) == data);
        writes.join().unwrap();
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        for (client, service) in stalled {
            fail(service);
            drop(client);
        }
        drop(service);
        running.await_flows(0);
    });
}
