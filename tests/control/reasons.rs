//! Why a connection has failed, in the log of who debugs: each end in the words of the host, with the flow.

use std::net::{TcpListener, UdpSocket};

use passt_support::namespace::isolated;
use passt_support::wait::until;
use rustix::net::sockopt;

use crate::guest::{ACK, Guest, RST};
use crate::rig::{Program, SETUP};

/// Waits for a message with all of these words.
fn await_message(program: &Program, words: &[&str]) {
    let has = |line: &str| words.iter().all(|word| line.contains(word));
    until(&words.join(" ... "), || program.messages().lines().any(has).then_some(()));
}

/// A port of the host without a service.
fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_refused_connection_says_so() {
    isolated(SETUP, || {
        let program = Program::passt(&["--debug"]);
        let mut guest = Guest::of(&program);
        let (_, flags) = guest.tries(5000, closed_port());
        assert_eq!(flags, RST | ACK);
        await_message(&program, &["Flow ", "(TCP connection): closed: Connection refused"]);
    });
}

#[test]
fn a_connection_that_its_peer_resets_says_so() {
    isolated(SETUP, || {
        let program = Program::passt(&["--debug"]);
        let mut guest = Guest::of(&program);
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = guest.connects(5000, server.local_addr().unwrap().port());
        let (accepted, _) = server.accept().unwrap();
        sockopt::set_socket_linger(&accepted, Some(std::time::Duration::ZERO)).unwrap();
        drop(accepted);
        guest.is_reset(&connection);
        await_message(&program, &["Flow ", "(TCP connection): closed: Connection reset by peer"]);
    });
}

#[test]
fn a_connection_that_fails_at_once_has_both_sides_in_its_message() {
    isolated("true", || {
        let program = Program::passt(&["--debug"]);
        let mut guest = Guest::of(&program);
        guest.syn(5000, 8080);
        let sides = ["192.0.2.2]:5000", "127.0.0.1", ":8080", "Network is unreachable"];
        await_message(&program, &sides);
    });
}

/// As often as it changes, and no more.
#[test]
fn a_datagram_that_nobody_takes_is_told_once() {
    isolated(SETUP, || {
        let program = Program::passt(&["--debug"]);
        let mut guest = Guest::of(&program);
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        for _ in 0..3 {
            guest.datagram(5000, port, b"hello");
            guest.next(|frame| (frame[12..14] == [8, 0] && frame[23] == 1).then_some(()));
        }
        let said = program.messages();
        let refused = said.lines().filter(|line| line.contains("Connection refused, says"));
        assert_eq!(refused.count(), 1, "{said}");
        await_message(&program, &["Flow ", "(UDP flow): Connection refused, says 127.0.0.1"]);
    });
}
