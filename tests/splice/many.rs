//! Many flows at once, more than there are pipes or descriptors for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::rig::{self, ROLE, Running, Setup, descriptors, in_namespace, role};
use crate::{FIXED, INWARD, Route, hash, localhost, pattern, read_all};

#[test]
fn two_thousand_short_connections_leave_nothing_behind() {
    in_namespace("many::two_thousand_short_connections_leave_nothing_behind", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        let route = &Route::all(&guest)[0];
        let listener = route.listen();
        let talk = |count| {
            for _ in 0..count {
                let (mut client, mut service) = route.pair(&listener);
                client.write_all(b"ping").unwrap();
                service.read_exact(&mut [0; 4]).unwrap();
                service.write_all(b"pong").unwrap();
                drop(service);
                assert_eq!(read_all(&mut client), b"pong");
            }
            running.await_flows(0);
        };
        // 32 sockets are fetched at a time: after as many connections the stock is the same.
        talk(32);
        let before = descriptors();
        talk(2016);
        assert_eq!(descriptors(), before);
    });
}

/// Clients in a process of their own, for each has limits of its own: connects, tells, and waits.
fn crowd(count: usize) {
    passt::sys::process::raise_descriptor_limit();
    let to = SocketAddr::new(localhost(true), INWARD);
    let mut streams: Vec<_> = (0..count).map(|_| TcpStream::connect(to).unwrap()).collect();
    for stream in &mut streams {
        stream.write_all(b"x").unwrap();
    }
    for stream in &mut streams {
        stream.read_exact(&mut [0; 1]).unwrap();
    }
    println!("all are served");
    std::io::stdin().read_exact(&mut [0; 1]).unwrap();
}

#[test]
fn five_thousand_connections_at_once_leave_nothing_behind() {
    const NAME: &str = "many::five_thousand_connections_at_once_leave_nothing_behind";
    if let Some(count) = role().and_then(|role| role.parse().ok()) {
        return crowd(count);
    }
    in_namespace(NAME, || {
        // Three descriptors each in this process.
        let limit = passt::sys::process::raise_descriptor_limit().maximum as usize;
        let count = 5000.min((limit - 1000) / 3);
        assert!(count >= 1000, "a limit of {limit} descriptors is too low for this test");
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        let route = &Route::all(&guest)[0];
        let listener = route.listen();
        drop(route.pair(&listener));
        running.await_flows(0);
        let before = descriptors();

        let mut clients = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(ROLE, count.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut services: Vec<_> = (0..count).map(|_| listener.accept().unwrap().0).collect();
        for service in &mut services {
            service.read_exact(&mut [0; 1]).unwrap();
            service.write_all(b"y").unwrap();
        }
        let mut lines = BufReader::new(clients.stdout.take().unwrap()).lines();
        assert!(lines.by_ref().map(Result::unwrap).any(|line| line.contains("all are served")));
        running.await_flows(count);
        assert!(descriptors() <= before + 3 * count + 40, "two descriptors for each idle flow");
        clients.stdin.take().unwrap().write_all(b"!").unwrap();
        assert!(clients.wait().unwrap().success());
        drop(services);
        running.await_flows(0);
        drop((clients, lines));
        let now = descriptors();
        assert!(now <= before + 32, "{before} descriptors before, {now} after");
    });
}

#[test]
fn more_long_flows_than_pipes_all_get_through() {
    in_namespace("many::more_long_flows_than_pipes_all_get_through", || {
        const COUNT: usize = 24;
        const BYTES: usize = 2 * 1024 * 1024;
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        let route = &Route::all(&guest)[0];
        let listener = route.listen();
        let pairs: Vec<_> = (0..COUNT).map(|_| route.pair(&listener)).collect();
        let data = std::sync::Arc::new(pattern(BYTES, 6));
        let expected = hash(&data);
        let streams = pairs.into_iter().flat_map(|(client, service)| [client, service]);
        let ends = streams.map(|mut stream| {
            let (mut writer, data) = (stream.try_clone().unwrap(), data.clone());
            let writes = std::thread::spawn(move || {
                writer.write_all(&data).unwrap();
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let reads = std::thread::spawn(move || hash(&read_all(&mut stream)));
            (writes, reads)
        });
        for (writes, reads) in ends.collect::<Vec<_>>() {
            writes.join().unwrap();
            assert_eq!(reads.join().unwrap(), expected);
        }
        running.await_flows(0);
    });
}

#[test]
fn connections_pass_from_64_descriptors_on() {
    in_namespace("many::connections_pass_from_64_descriptors_on", || {
        const BYTES: usize = 2 * 1024 * 1024;
        let guest = rig::guest();
        for limit in [64, 128, 256] {
            let few = Setup { max_descriptors: Some(limit), ..Setup::new(FIXED) };
            let running = Running::start(&guest, few);
            let before = descriptors();
            for route in &Route::all(&guest) {
                let (mut client, mut service) = route.pair(&route.listen());
                let data = pattern(BYTES, 7);
                let expected = hash(&data);
                let writes = std::thread::spawn(move || {
                    client.write_all(&data).unwrap();
                    client.shutdown(Shutdown::Write).unwrap();
                });
                assert_eq!(hash(&read_all(&mut service)), expected, "with {limit} descriptors");
                writes.join().unwrap();
                drop(service);
                running.await_flows(0);
            }
            // What is kept for the next connections: a quarter of the limit.
            let kept = descriptors() - before;
            assert!(kept as u64 <= limit / 4, "{kept} descriptors are kept of {limit}");
        }
    });
}

/// Writes small pieces, which are copied, until nothing has fitted any more for a while; returns all of them.
pub fn stall(client: &mut TcpStream) -> Vec<u8> {
    client.set_nonblocking(true).unwrap();
    let mut sent = Vec::new();
    let mut chunk = pattern(10_000, 0);
    let mut last = std::time::Instant::now();
    while last.elapsed() < Duration::from_millis(50) {
        match client.write(&chunk) {
            Ok(written) => {
                sent.extend_from_slice(&chunk[..written]);
                chunk = pattern(10_000, (sent.len() / 10_000) as u8);
                last = std::time::Instant::now();
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    sent
}

/// TCP sockets of the current namespace have no more than 256 KiB in each direction.
pub fn small_buffers() {
    for file in ["tcp_rmem", "tcp_wmem"] {
        std::fs::write(format!("/proc/sys/net/ipv4/{file}"), "4096 65536 262144").unwrap();
    }
}

#[test]
fn more_stalled_receivers_than_pipes_get_everything_in_the_end() {
    in_namespace("many::more_stalled_receivers_than_pipes_get_everything_in_the_end", || {
        const COUNT: usize = 40;
        let guest = rig::guest();
        // What stalls is what does not fit, however much that is.
        small_buffers();
        guest.run(small_buffers);
        let running = Running::start(&guest, Setup::new(FIXED));
        let route = &Route::all(&guest)[0];
        let listener = route.listen();
        let mut pairs: Vec<_> = (0..COUNT).map(|_| route.pair(&listener)).collect();
        let sent: Vec<Vec<u8>> = pairs.iter_mut().map(|(client, _)| stall(client)).collect();
        for (client, _) in &pairs {
            client.shutdown(Shutdown::Write).unwrap();
        }
        for ((_, service), sent) in pairs.iter_mut().zip(&sent) {
            assert_eq!(hash(&read_all(service)), hash(sent));
        }
        drop(pairs);
        running.await_flows(0);
    });
}
