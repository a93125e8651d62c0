//! The end of the program, as whoever it has connected sees it: what was ended arrives whole, what was not is cut off.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use passt_support::namespace::{Netns, isolated};
use passt_support::wait::{PATIENCE, until};
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::NETWORK;

const LOOPBACK: &str = "ip link set lo up";

/// Out of the guest's namespace through the tap device, and past it.
const WAYS: [(&str, u16); 2] = [("192.0.2.1", 2101), ("127.0.0.1", 2102)];

/// pasta in the foreground.
fn pasta() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pasta"));
    command.args(NETWORK).args(["-f", "--config-net", "-t", "none", "-u", "none", "-T", "2102"]);
    command.args(["-U", "none"]).stderr(Stdio::null());
    command
}

/// Listens where both ways lead.
fn servers() -> [TcpListener; 2] {
    WAYS.map(|(_, port)| TcpListener::bind(("127.0.0.1", port)).unwrap())
}

/// How many bytes come, and how they end.
fn read_to_end(stream: &mut TcpStream) -> (usize, Option<ErrorKind>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut got, mut chunk) = (0, vec![0; 1 << 16]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return (got, None),
            Ok(read) => got += read,
            Err(error) => return (got, Some(error.kind())),
        }
    }
}

fn connect(guest: &Netns, way: usize) -> TcpStream {
    let to = WAYS[way];
    until("a connection", || guest.run(move || TcpStream::connect(to).ok()))
}

/// Ends the program by a signal; returns how long that took.
fn end(mut program: Child) -> Duration {
    let since = Instant::now();
    kill_process(Pid::from_child(&program), Signal::TERM).unwrap();
    until("the end", || program.try_wait().unwrap());
    since.elapsed()
}

#[test]
fn a_signal_ends_no_stream_that_its_sender_has_not_ended() {
    isolated(LOOPBACK, || {
        passt::sys::process::raise_descriptor_limit();
        let (servers, guest) = (servers(), Netns::new(LOOPBACK));
        let path = format!("/proc/{}/fd/{}", std::process::id(), guest.file().as_raw_fd());
        let program = pasta().args(["--netns", &path, "--no-netns-quit"]).spawn().unwrap();
        let mut pairs = Vec::new();
        for index in 0..400 {
            let (way, ends) = (index % 2, index % 4 < 2);
            let mut client = connect(&guest, way);
            let (mut server, _) = servers[way].accept().unwrap();
            client.write_all(&[7; 1000]).unwrap();
            if ends {
                client.shutdown(Shutdown::Write).unwrap();
            }
            // Nobody reads that, and what the client has said is not lost by it.
            server.write_all(b"unread").unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            server.read_exact(&mut [0; 900]).unwrap();
            pairs.push((client, server, way, ends));
        }
        std::thread::sleep(Duration::from_millis(300));
        let took = end(program);
        assert!(took < Duration::from_secs(1), "{took:?}");
        for (mut client, mut server, way, ends) in pairs {
            let expected = if ends { None } else { Some(ErrorKind::ConnectionReset) };
            assert_eq!(read_to_end(&mut server), (100, expected), "{:?}", WAYS[way]);
            // The tap device is gone, and with it all that could tell a guest.
            if way == 1 {
                assert_eq!(read_to_end(&mut client), (6, Some(ErrorKind::ConnectionReset)));
            }
        }
    });
}

/// The receiver's buffers are full at the end, ours hold the rest of a stream that was ended.
#[test]
fn what_is_left_in_a_socket_of_a_stream_that_was_ended_arrives() {
    isolated(LOOPBACK, || {
        let (servers, guest) = (servers(), Netns::new(LOOPBACK));
        let path = format!("/proc/{}/fd/{}", std::process::id(), guest.file().as_raw_fd());
        let program = pasta().args(["--netns", &path, "--no-netns-quit"]).spawn().unwrap();
        let pairs = [0, 1].map(|way| {
            let mut client = connect(&guest, way);
            let (mut server, _) = servers[way].accept().unwrap();
            client.write_all(&[7; 1_000_000]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            server.write_all(b"unread").unwrap();
            (client, server)
        });
        std::thread::sleep(Duration::from_millis(500));
        end(program);
        for (_client, mut server) in pairs {
            assert_eq!(read_to_end(&mut server), (1_000_000, None));
        }
    });
}

/// A command writes, closes and ends: its kernel has not sent all of that then.
#[test]
fn what_a_command_has_written_arrives_after_its_end() {
    isolated(LOOPBACK, || {
        let servers = servers();
        for bytes in [1, 100_000, 2_000_000] {
            for (way, (address, port)) in WAYS.into_iter().enumerate() {
                for _ in 0..4 {
                    let script = format!("head -c {bytes} /dev/zero > /dev/tcp/{address}/{port}");
                    let mut program = pasta().args(["--", "bash", "-c", &script]).spawn().unwrap();
                    let (mut server, _) = servers[way].accept().unwrap();
                    std::thread::sleep(Duration::from_millis(20));
                    assert_eq!(read_to_end(&mut server), (bytes, None), "{address}");
                    assert!(program.wait().unwrap().success());
                }
            }
        }
    });
}

/// The receiver reads nothing for as long as the program may wait for it.
#[test]
fn what_a_receiver_does_not_take_in_time_is_cut_off() {
    isolated(LOOPBACK, || {
        let servers = servers();
        for (way, (address, port)) in WAYS.into_iter().enumerate() {
            let script = format!("head -c 20000000 /dev/zero > /dev/tcp/{address}/{port}");
            let script = format!("({script}) & exec sleep 1");
            let mut program = pasta().args(["--", "bash", "-c", &script]).spawn().unwrap();
            let (mut server, _) = servers[way].accept().unwrap();
            let since = Instant::now();
            assert!(program.wait().unwrap().success());
            assert!(since.elapsed() < Duration::from_millis(2500), "{:?}", since.elapsed());
            let (got, error) = read_to_end(&mut server);
            assert!(got < 20_000_000, "{got}");
            assert_eq!(error, Some(ErrorKind::ConnectionReset), "{address}");
        }
    });
}
