//! What resolv.conf(5) says about name servers and the search list. A pure function on the text,
//! and a thin reader. Blanks and tabs separate; `#` and `;` begin comments; what cannot be used is
//! skipped with a reason.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;

use arrayvec::ArrayVec;

use crate::flow::network::MAX_DNS;

/// Entries taken from the search list.
const MAX_SEARCH: usize = 5;

/// Name servers that are looked at: those handed out, of both families.
const MAX_SERVERS: usize = 2 * MAX_DNS;

/// Bytes of the file that are read; real ones have hundreds.
pub(crate) const MAX_BYTES: u64 = 64 * 1024;

pub(crate) const PATH: &str = "/etc/resolv.conf";

/// A name server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// Its address.
    pub(crate) address: IpAddr,
    /// The interface, by name or index, that a link-local address belongs to.
    pub(crate) zone: Option<String>,
}

/// The parts of resolv.conf that are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    /// Name servers in order, at most three of each family.
    pub(crate) servers: ArrayVec<Server, MAX_SERVERS>,
    /// The first search list, at most five domains.
    pub(crate) search: ArrayVec<String, MAX_SEARCH>,
    /// Why lines were skipped, one line each.
    pub(crate) skipped: Vec<String>,
}

/// Reads the host's resolv.conf. A missing one is as good as an empty one.
///
/// # Errors
/// What the kernel says if it exists and cannot be read.
pub(crate) fn read() -> io::Result<String> {
    match read_some(PATH, MAX_BYTES) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// The first bytes of a file, at `most` so many. What is no file, such as a pipe, is not waited for.
///
/// # Errors
/// What the kernel says.
pub(crate) fn read_some(path: &str, most: u64) -> io::Result<Vec<u8>> {
    let at_once = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(at_once).open(path)?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads the text of a resolv.conf.
pub(crate) fn parse(text: &str) -> ResolvConf {
    let mut conf = ResolvConf::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => conf.add_server(words.next()),
            Some("search") if conf.search.is_empty() => {
                conf.search.extend(words.take(MAX_SEARCH).map(str::to_owned));
            }
            _ => {}
        }
    }
    conf
}

impl ResolvConf {
    fn add_server(&mut self, word: Option<&str>) {
        let word = word.unwrap_or_default();
        match server(word) {
            Ok(server) => self.keep(server),
            Err(reason) => {
                // As many reasons as servers: a file full of rubbish fills no memory.
                if self.skipped.len() < MAX_SERVERS {
                    self.skipped.push(format!("Ignoring nameserver {word} of {PATH}: {reason}"));
                }
            }
        }
    }

    fn keep(&mut self, server: Server) {
        let same_family = |other: &&Server| other.address.is_ipv4() == server.address.is_ipv4();
        if self.servers.iter().filter(same_family).count() < MAX_DNS {
            self.servers.push(server);
        }
    }
}

/// Reads an address, with its zone. As in resolv.conf(5), an unspecified one is the local host.
fn server(word: &str) -> Result<Server, &'static str> {
    let (address, zone) = match word.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (word, None),
    };
    let address: IpAddr = address.parse().map_err(|_| "not an address")?;
    let address = match address.to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    if address.is_multicast() {
        return Err("a multicast address");
    }
    let link_local = matches!(address, IpAddr::V6(v6) if Ipv6Addr::is_unicast_link_local(&v6));
    match zone {
        Some(zone) if zone.is_empty() || !link_local => Err("a zone that means nothing"),
        zone => Ok(Server { address, zone: zone.map(str::to_owned) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(text: &str) -> Vec<String> {
        let shown = |server: &Server| match &server.zone {
            Some(zone) => format!("{}%{zone}", server.address),
            None => server.address.to_string(),
        };
        parse(text).servers.iter().map(shown).collect()
    }

    #[test]
    fn blanks_tabs_and_comments() {
        for text in [
            "nameserver 192.0.2.53\n",
            "nameserver 192.0.2.53",
            "nameserver\t192.0.2.53",
            "nameserver \t 192.0.2.53 \t",
            "  nameserver 192.0.2.53",
            "nameserver 192.0.2.53 # the office",
            "nameserver 192.0.2.53;the office",
            "nameserver 192.0.2.53\r\n",
            "# nameserver 198.51.100.1\nnameserver 192.0.2.53",
            "; nameserver 198.51.100.1\nnameserver 192.0.2.53",
            "options edns0\nnameserver 192.0.2.53\nsortlist 192.0.2.0",
            "nameservers 198.51.100.1\nnameserver 192.0.2.53",
        ] {
            assert_eq!(servers(text), ["192.0.2.53"], "{text:?}");
        }
    }

    #[test]
    fn at_most_three_servers_of_each_family() {
        let text = "nameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver 192.0.2.2\n\
                    nameserver 192.0.2.3\nnameserver 192.0.2.4\nnameserver 2001:db8::2\n\
                    nameserver 2001:db8::3\nnameserver 2001:db8::4\n";
        let expected =
            ["192.0.2.1", "2001:db8::1", "192.0.2.2", "192.0.2.3", "2001:db8::2", "2001:db8::3"];
        assert_eq!(servers(text), expected);
    }

    #[test]
    fn rfc4007_zones_stay_with_link_local_servers() {
        assert_eq!(servers("nameserver fe80::53%eth0"), ["fe80::53%eth0"]);
        assert_eq!(servers("nameserver fe80::53"), ["fe80::53"]);
    }

    #[test]
    fn what_cannot_be_used_is_skipped_with_a_reason() {
        for (word, reason) in [
            ("", "not an address"),
            ("localhost", "not an address"),
            ("192.0.2", "not an address"),
            ("224.0.0.1", "a multicast address"),
            ("ff02::1", "a multicast address"),
            ("2001:db8::1%eth0", "a zone that means nothing"),
            ("fe80::1%", "a zone that means nothing"),
        ] {
            let conf = parse(&format!("nameserver {word}\nnameserver 192.0.2.53"));
            assert_eq!(conf.servers.len(), 1, "{word}");
            let expected = format!("Ignoring nameserver {word} of /etc/resolv.conf: {reason}");
            assert_eq!(conf.skipped, [expected]);
        }
        let rubbish = parse(&"nameserver x\n".repeat(1000));
        assert_eq!(rubbish.skipped.len(), MAX_SERVERS);
    }

    #[test]
    fn what_has_no_end_is_read_in_part_and_what_has_no_beginning_not_waited_for() {
        assert_eq!(read_some("/dev/zero", 1000).unwrap(), [0; 1000]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        assert!(read_some(path.to_str().unwrap(), 1000).unwrap().is_empty());
    }

    #[test]
    fn unspecified_server_is_the_local_host() {
        assert_eq!(servers("nameserver 0.0.0.0\nnameserver ::"), ["127.0.0.1", "::1"]);
    }

    #[test]
    fn first_search_list_counts() {
        let conf = parse("domain no.example\nsearch\ta.example  b.example\nsearch c.example\n");
        assert_eq!(conf.search.as_slice(), ["a.example", "b.example"]);
        let conf = parse("search 1 2 3 4 5 6 7");
        assert_eq!(conf.search.as_slice(), ["1", "2", "3", "4", "5"]);
    }
}
