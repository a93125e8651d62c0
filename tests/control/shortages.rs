//! Limits that turn the guest's traffic away, and what is said of them.

use std::net::TcpListener;

use passt_support::namespace::isolated;
use passt_support::wait::until;

use crate::guest::{ACK, Guest, RST, SYN};
use crate::rig::{Program, SETUP};

/// The lines that tell of a limit in these words.
fn lines(messages: &str, words: &str) -> Vec<String> {
    messages.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
}

#[test]
fn without_descriptors_there_is_a_line_with_the_cure_and_one_at_the_end() {
    const WORDS: &str = "There was no descriptor left for a flow";
    isolated(SETUP, || {
        let program = Program::limited(64, &["-t", "none"]);
        let (mut client, mut guest) = (program.client(), Guest::of(&program));
        let most = client.answer("status")["limits"]["flows"].as_u64().unwrap() as u16;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for n in 0..most {
            guest.connects(40_000 + n, port);
        }
        assert_eq!(lines(&program.messages(), WORDS), [""; 0]);
        guest.knocks(50_000, port);
        let line = until("a line", || lines(&program.messages(), WORDS).pop());
        assert!(
            line.contains(
                ", once: raise the hard limit of open descriptors, which is 64: ulimit -Hn"
            ),
            "{line}"
        );
        for n in 1..6 {
            guest.knocks(50_000 + n, port);
        }
        guest.asks_for_gateway();
        assert_eq!(lines(&program.messages(), WORDS).len(), 1, "no more in the same minute");
        let told = lines(&program.last_messages(), WORDS);
        assert!(told.len() == 2 && told[1].contains(", 5 times: "), "{told:?}");
    });
}

#[test]
fn where_descriptors_leave_few_handshakes_their_limit_is_what_is_to_be_raised() {
    // Whoever is asked for hears nothing, and does not answer.
    let quiet = "ip link add quiet0 type veth peer name quiet1; ip link set quiet0 arp off up
        ip link set quiet1 up; ip addr add 198.51.100.1/24 dev quiet0";
    isolated(&format!("{SETUP}; {quiet}"), || {
        let program = Program::limited(64, &["-t", "none"]);
        let mut guest = Guest::of(&program);
        (0..60).for_each(|n| guest.knocks_at([198, 51, 100, 2], (50_000 + n, 80)));
        let line = until("a line", || {
            lines(&program.messages(), "A connection that was not made yet").pop()
        });
        assert!(line.contains("raise the hard limit of open descriptors, which is 64"), "{line}");
    });
}

#[test]
fn without_ports_of_the_host_the_guest_is_refused_and_there_is_a_line_with_the_cure() {
    let setup = format!("{SETUP}; echo 40000 40003 >/proc/sys/net/ipv4/ip_local_port_range");
    isolated(&setup, || {
        let program = Program::passt(&["-t", "none"]);
        let mut guest = Guest::of(&program);
        let listener = TcpListener::bind("127.0.0.1:41000").unwrap();
        let mut open: Vec<_> = (0..4).map(|n| guest.connects(30_000 + n, 41_000)).collect();
        let mut theirs: Vec<_> = (0..4).map(|_| listener.accept().unwrap().0).collect();
        let (_, flags) = guest.tries(30_010, 41_000);
        assert_eq!(flags, RST | ACK);
        let line = until("a line", || lines(&program.messages(), "no port left").pop());
        assert!(line.contains("widen net.ipv4.ip_local_port_range"), "{line}");
        // What was not read has the connection reset, which leaves no port behind.
        guest.writes(&mut open[0], &[1]);
        until("a byte", || theirs[0].peek(&mut [0]).ok().filter(|&len| len == 1));
        drop(theirs.remove(0));
        guest.is_reset(&open[0]);
        let (_, flags) = guest.tries(30_011, 41_000);
        assert_eq!(flags, SYN | ACK);
    });
}

#[test]
fn without_the_address_of_outbound_the_line_names_it() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "none", "--outbound", "192.0.2.77"]);
        let mut guest = Guest::of(&program);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (_, flags) = guest.tries(30_000, listener.local_addr().unwrap().port());
        assert_eq!(flags, RST | ACK);
        let line =
            until("a line", || lines(&program.messages(), "a flow was to be sent from").pop());
        assert!(line.contains("the address of --outbound"), "{line}");
        assert!(line.contains(", once: give 192.0.2.77 to one of the host's interfaces"), "{line}");
    });
}
