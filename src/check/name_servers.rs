//! The name servers of resolv.conf: what the guest is told of each, and whether something answers on those of this host.
//!
//! Nothing is sent to others: a check is no reason to talk to them. A server here is asked for a name that it knows itself,
//! and not to ask others (RFC 1035 section 4.1.1, RFC 6761 section 6.3); whatever it answers, it is there.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::finding::Finding;
use crate::conf::host::{self, HostFacts};
use crate::conf::resolv::{self, Server};
use crate::conf::{self, Mode, Options};
use crate::sys::io_error_text;

const TOPIC: &str = "name servers";

/// For how long the servers on this host are waited for, together. A question without recursion is answered at once.
const PATIENCE: Duration = Duration::from_millis(500);

/// A question for the address of `localhost`, without recursion.
const QUESTION: &[u8] =
    b"\x2a\x2a\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x09localhost\x00\x00\x01\x00\x01";

const DNS_PORT: u16 = 53;

/// What there is to say of them on a host that looks like that.
pub(super) fn findings(mode: Mode, facts: &HostFacts) -> Vec<Finding> {
    let text = match resolv::read() {
        Ok(text) => text,
        Err(error) => {
            let text = format!("{}: {}", resolv::PATH, io_error_text(&error));
            return vec![Finding::limits(
                TOPIC,
                text,
                "make it readable, or give servers by --dns",
            )];
        }
    };
    let conf = resolv::parse(&text);
    if conf.servers.is_empty() {
        let why = conf.skipped.first().map(|why| format!(" ({why})")).unwrap_or_default();
        let text = format!("{} has none that can be used{why}", resolv::PATH);
        return vec![Finding::limits(TOPIC, text, "write one there, or give one by --dns")];
    }
    let own = host::surroundings().unwrap_or_default().addresses;
    let own: Vec<IpAddr> = own.iter().map(|(address, _)| *address).collect();
    let mut options = Options::default();
    options.mode = mode;
    let here = conf.servers.iter().map(|server| {
        let address = facts.socket_address(server.address, server.zone.as_deref(), DNS_PORT);
        is_here(address, &own).then_some(address)
    });
    let judged = conf.servers.iter().zip(ask_all(here));
    judged
        .map(|(server, answers)| judge(server, told_as(&options, facts, server), answers))
        .collect()
}

/// Whether a server is on this host, which has the addresses `own`. That of a link may be had by others on other links,
/// and a socket has it on its own link alone.
fn is_here(server: SocketAddr, own: &[IpAddr]) -> bool {
    let zone = if let SocketAddr::V6(v6) = server { v6.scope_id() } else { 0 };
    let on_its_link = || {
        let mut any_port = server;
        any_port.set_port(0);
        zone == 0 || UdpSocket::bind(any_port).is_ok()
    };
    server.ip().is_loopback() || own.contains(&server.ip()) && on_its_link()
}

/// The server as resolv.conf writes it.
fn shown(server: &Server) -> String {
    let zone = server.zone.as_ref().map(|zone| format!("%{zone}")).unwrap_or_default();
    format!("{}{zone}", server.address)
}

/// The address under which the guest knows a server, if it does.
fn told_as(options: &Options, facts: &HostFacts, server: &Server) -> Option<IpAddr> {
    let alone = format!("nameserver {}\n", shown(server));
    let network = conf::told(options, facts, &alone, &mut Vec::new()).network;
    if server.address.is_ipv4() {
        network.v4.and_then(|v4| v4.dns.first().copied()).map(IpAddr::from)
    } else {
        network.v6.and_then(|v6| v6.dns.first().copied()).map(IpAddr::from)
    }
}

/// What there is to say of a server that is `told` so, and of one on this host, whether it answers.
fn judge(server: &Server, told: Option<IpAddr>, answers: Option<bool>) -> Finding {
    let name = shown(server);
    let Some(told) = told else {
        let text = format!("{name} is nowhere in the guest's network");
        return Finding::limits(TOPIC, text, "give it an address there by --dns-forward");
    };
    let place = if answers.is_some() { " on this host" } else { "" };
    let known = if told == server.address {
        format!("{name}{place}")
    } else {
        format!("{name}{place}, which the guest knows as {told}")
    };
    if answers.unwrap_or(true) {
        return Finding::fine(TOPIC, known);
    }
    let cure = "start the server, or give another one by --dns";
    Finding::limits(TOPIC, format!("{known}: nothing answers on port {DNS_PORT}"), cure)
}

/// Asks each server that is given, and then waits for all. Whether anything is answered by each.
fn ask_all(servers: impl Iterator<Item = Option<SocketAddr>>) -> Vec<Option<bool>> {
    let asked: Vec<_> = servers.map(|server| server.map(ask)).collect();
    let end = Instant::now() + PATIENCE;
    let answers = |socket: io::Result<UdpSocket>| socket.is_ok_and(|socket| answers(&socket, end));
    asked.into_iter().map(|asked| asked.map(answers)).collect()
}

/// Asks there. What is answered comes to the socket.
fn ask(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.send(QUESTION)?;
    Ok(socket)
}

/// Whether anything has been answered, or is until the `end`.
fn answers(socket: &UdpSocket, end: Instant) -> bool {
    let left = end.saturating_duration_since(Instant::now());
    // No time at all would be for ever.
    let waits = socket.set_read_timeout(Some(left.max(Duration::from_millis(1))));
    waits.and_then(|()| socket.recv(&mut [0; 512])).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Server {
        resolv::parse(&format!("nameserver {text}")).servers.remove(0)
    }

    #[test]
    fn a_server_is_shown_as_the_guest_knows_it() {
        let text = |name, told: Option<&str>, answers| {
            judge(&server(name), told.map(|told| told.parse().unwrap()), answers).text
        };
        assert_eq!(text("192.0.2.53", Some("192.0.2.53"), None), "192.0.2.53");
        let local = text("127.0.0.53", Some("192.0.2.1"), Some(true));
        assert_eq!(local, "127.0.0.53 on this host, which the guest knows as 192.0.2.1");
        let silent = text("127.0.0.53", Some("192.0.2.1"), Some(false));
        assert_eq!(silent, format!("{local}: nothing answers on port 53"));
        let nowhere = text("fe80::53%eth0", None, None);
        assert_eq!(nowhere, "fe80::53%eth0 is nowhere in the guest's network");
    }

    #[test]
    fn without_a_model_loopback_servers_have_the_address_of_local_mode() {
        let told =
            |name| told_as(&Options::default(), &HostFacts::default(), &server(name)).unwrap();
        assert_eq!(told("127.0.0.1"), conf::LOCAL_GATEWAY_V4);
        assert_eq!(told("192.0.2.53"), server("192.0.2.53").address);
    }

    #[test]
    fn who_answers_anything_is_there() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut question = [0; 512];
            let (len, from) = socket.recv_from(&mut question).unwrap();
            assert_eq!(&question[..len], QUESTION);
            socket.send_to(&question[..12], from).unwrap();
        });
        assert_eq!(ask_all([Some(address), None].into_iter()), [Some(true), None]);
        server.join().unwrap();
        assert_eq!(ask_all([Some(address)].into_iter()), [Some(false)], "closed");
    }

    #[test]
    fn who_is_silent_is_waited_for_with_the_others() {
        let sockets = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let begun = Instant::now();
        let answers = ask_all(sockets.iter().map(|socket| socket.local_addr().ok()));
        assert_eq!(answers, [Some(false); 3]);
        assert!(begun.elapsed() < 2 * PATIENCE, "{:?}", begun.elapsed());
    }
}
