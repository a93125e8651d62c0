//! The name servers of resolv.conf: what the guest is told of each, and whether something answers on those of this host.
//!
//! Nothing is sent to others: a check is no reason to talk to them. A server here is asked for a name that it knows itself,
//! and not to ask others (RFC 1035 section 4.1.1, RFC 6761 section 6.3); whatever it answers, it is there.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::finding::Finding;
use crate::conf::host::{self, HostFacts};
use crate::conf::resolv::{self, Server};
use crate::conf::{self, Mode, Options};
use crate::sys::io_error_text;

const TOPIC: &str = "name servers";

/// For how long a server on this host is waited for. Others answer a question without recursion at once.
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
    let own: Vec<IpAddr> =
        host::own_networks().unwrap_or_default().iter().map(|(address, _)| *address).collect();
    let mut options = Options::default();
    options.mode = mode;
    let found = conf.servers.iter().map(|server| {
        let here = server.address.is_loopback() || own.contains(&server.address);
        let answers = !here || answers(SocketAddr::new(server.address, DNS_PORT));
        judge(server, told_as(&options, facts, server), here, answers)
    });
    found.collect()
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

fn judge(server: &Server, told: Option<IpAddr>, here: bool, answers: bool) -> Finding {
    let name = shown(server);
    let Some(told) = told else {
        let text = format!("{name} is nowhere in the guest's network");
        return Finding::limits(TOPIC, text, "give it an address there by --dns-forward");
    };
    let place = if here { " on this host" } else { "" };
    let known = if told == server.address {
        format!("{name}{place}")
    } else {
        format!("{name}{place}, which the guest knows as {told}")
    };
    if answers {
        return Finding::fine(TOPIC, known);
    }
    let cure = "start the server, or give another one by --dns";
    Finding::limits(TOPIC, format!("{known}: nothing answers on port {DNS_PORT}"), cure)
}

/// Whether anything answers a question there.
fn answers(server: SocketAddr) -> bool {
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let asked = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(QUESTION)?;
        socket.recv(&mut [0; 512])
    });
    asked.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Server {
        resolv::parse(&format!("nameserver {text}")).servers.remove(0)
    }

    #[test]
    fn a_server_is_shown_as_the_guest_knows_it() {
        let text = |name, told: Option<&str>, here, answers| {
            judge(&server(name), told.map(|told| told.parse().unwrap()), here, answers).text
        };
        assert_eq!(text("192.0.2.53", Some("192.0.2.53"), false, true), "192.0.2.53");
        let local = text("127.0.0.53", Some("192.0.2.1"), true, true);
        assert_eq!(local, "127.0.0.53 on this host, which the guest knows as 192.0.2.1");
        let silent = text("127.0.0.53", Some("192.0.2.1"), true, false);
        assert_eq!(silent, format!("{local}: nothing answers on port 53"));
        let nowhere = text("fe80::53%eth0", None, false, true);
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
        assert!(answers(address));
        server.join().unwrap();
        assert!(!answers(address), "closed");
    }
}
