//! What the host looks like, as the helper tells the program: lines of words, and at the end the text of resolv.conf.
//! One family has at most one line, `4` or `6`.

use std::collections::HashSet;
use std::fmt::{Display, Write};
use std::net::IpAddr;
use std::str::{FromStr, SplitAsciiWhitespace};

use crate::conf::host::{HostFacts, Template};
use crate::flow::fwd::{InterfaceName, Places, Prefix, Routed, Surroundings};
use crate::flow::network::MAX_ROUTES;

/// In place of what is not there.
const NONE: &str = "-";

/// One state of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Models of the guest's network. What no host changes while it runs is not told.
    pub(crate) facts: HostFacts,
    /// What the host is, by whatever address, and what is next to it.
    pub(crate) own: Surroundings,
    /// Those that the namespace has or had, if the helper configures one.
    pub(crate) held: Vec<IpAddr>,
    /// The text of resolv.conf.
    pub(crate) resolv: String,
}

impl Snapshot {
    /// The host's own.
    pub(super) fn addresses(&self) -> HashSet<IpAddr> {
        self.own.addresses.iter().map(|(own, _)| *own).collect()
    }

    /// Keeps only those interfaces that somebody names.
    pub(super) fn forget_links(&mut self, named: &[InterfaceName]) {
        let zone = |name: &str| self.resolv.split(['%', '\n', ' ', '\t']).any(|word| word == name);
        let wanted = |name: &InterfaceName| named.contains(name) || zone(name.as_str());
        self.facts.links.retain(|(name, index)| wanted(name) || zone(&index.to_string()));
    }

    /// The lines.
    pub(super) fn write(&self) -> String {
        let mut text = String::new();
        put_template(&mut text, '4', self.facts.v4.as_ref());
        put_template(&mut text, '6', self.facts.v6.as_ref());
        // One more than anybody is told of tells that there are more.
        for (destination, len, gateway) in self.facts.destinations_v4.iter().take(MAX_ROUTES + 1) {
            let gateway = gateway.map_or(NONE.to_owned(), |gateway| gateway.to_string());
            let _always = writeln!(text, "to {destination} {len} {gateway}");
        }
        if self.facts.beyond_link_v6 {
            text.push_str("beyond\n");
        }
        for (name, index) in &self.facts.links {
            let _always = writeln!(text, "link {name} {index}");
        }
        for address in self.facts.named.addresses() {
            let _always = writeln!(text, "named {address}");
        }
        for (address, len) in &self.own.addresses {
            let _always = writeln!(text, "own {address} {len}");
        }
        for Routed { places, network } in &self.own.routed {
            let (address, len) = network.parts();
            let _always = writeln!(text, "routed {} {address} {len}", places.name());
        }
        for address in &self.held {
            let _always = writeln!(text, "held {address}");
        }
        text.push_str("resolv\n");
        text.push_str(&self.resolv);
        text
    }

    /// Reads what [`write`](Self::write) has written; `None` for anything else.
    pub(super) fn read(text: &str) -> Option<Self> {
        let mut snapshot = Self::default();
        let mut rest = text;
        loop {
            let (line, after) = rest.split_once('\n')?;
            rest = after;
            let mut words = line.split_ascii_whitespace();
            match words.next()? {
                "4" => snapshot.facts.v4 = Some(template(&mut words)?),
                "6" => snapshot.facts.v6 = Some(template(&mut words)?),
                "to" => {
                    let to = (next(&mut words)?, next(&mut words)?, optional(&mut words)?);
                    snapshot.facts.destinations_v4.push(to);
                }
                "beyond" => snapshot.facts.beyond_link_v6 = true,
                "link" => {
                    let name = InterfaceName::new(words.next()?)?;
                    snapshot.facts.links.push((name, next(&mut words)?));
                }
                "named" if snapshot.facts.named.set(next(&mut words)?) => {}
                "own" => snapshot.own.addresses.push((next(&mut words)?, next(&mut words)?)),
                "routed" => snapshot.own.routed.push(routed(&mut words)?),
                "held" => snapshot.held.push(next(&mut words)?),
                "resolv" => break,
                _ => return None,
            }
        }
        rest.clone_into(&mut snapshot.resolv);
        Some(snapshot)
    }
}

fn put_template<A: Display + Copy>(
    text: &mut String,
    family: char,
    template: Option<&Template<A>>,
) {
    let Some(Template { name, index, address, link_local, default_route, gateway }) = template
    else {
        return;
    };
    let (address, len) = address.map_or((None, 0), |(address, len)| (Some(address), len));
    let [address, link_local, gateway] = [address, *link_local, *gateway]
        .map(|address| address.map_or(NONE.to_owned(), |address| address.to_string()));
    let default = u8::from(*default_route);
    let _always =
        writeln!(text, "{family} {name} {index} {address} {len} {link_local} {default} {gateway}");
}

fn template<A: FromStr>(words: &mut SplitAsciiWhitespace<'_>) -> Option<Template<A>> {
    let name = InterfaceName::new(words.next()?)?;
    let index = next(words)?;
    let address = optional(words)?;
    let len = next(words)?;
    let link_local = optional(words)?;
    let default_route = next::<u8>(words)? == 1;
    let gateway = optional(words)?;
    let address = address.map(|address| (address, len));
    Some(Template { name, index, address, link_local, default_route, gateway })
}

fn routed(words: &mut SplitAsciiWhitespace<'_>) -> Option<Routed> {
    let places = Places::named(words.next()?)?;
    let network = Prefix::new(next(words)?, next(words)?)?;
    Some(Routed { places, network })
}

fn next<T: FromStr>(words: &mut SplitAsciiWhitespace<'_>) -> Option<T> {
    words.next()?.parse().ok()
}

fn optional<T: FromStr>(words: &mut SplitAsciiWhitespace<'_>) -> Option<Option<T>> {
    match words.next()? {
        NONE => Some(None),
        word => word.parse().ok().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::host::NamedHost;

    fn example() -> Snapshot {
        let name = |name| InterfaceName::new(name).unwrap();
        let v4 = Template {
            name: name("eth0"),
            index: 2,
            address: Some(("192.0.2.5".parse().unwrap(), 24)),
            link_local: None,
            default_route: true,
            gateway: Some("192.0.2.1".parse().unwrap()),
        };
        let v6 = Template {
            name: name("tun-7"),
            index: 7,
            address: None,
            link_local: Some("fe80::7".parse().unwrap()),
            default_route: false,
            gateway: None,
        };
        let links = vec![(name("eth0"), 2), (name("wlan0"), 3), (name("br0"), 4)];
        let facts = HostFacts {
            v4: Some(v4),
            v6: Some(v6),
            destinations_v4: vec![
                ("198.51.100.0".parse().unwrap(), 24, Some("192.0.2.9".parse().unwrap())),
                ("203.0.113.0".parse().unwrap(), 25, None),
            ],
            beyond_link_v6: true,
            named: NamedHost {
                v4: Some("203.0.113.53".parse().unwrap()),
                v6: Some("2001:db8::53".parse().unwrap()),
            },
            links,
            ..HostFacts::default()
        };
        let own = vec![("192.0.2.5".parse().unwrap(), 24), ("fe80::7".parse().unwrap(), 64)];
        let routed = |places, address: &str, len| {
            let network = Prefix::new(address.parse().unwrap(), len).unwrap();
            Routed { places, network }
        };
        let routes = vec![
            routed(Places::HOST, "203.0.113.0", 28),
            routed(Places::MULTICAST, "192.0.2.127", 32),
            routed(Places::PRIVATE, "2001:db8:7::", 64),
        ];
        let own = Surroundings::new(own, routes);
        let resolv = "# own\nnameserver fe80::53%wlan0\n\nsearch example.org\n".to_owned();
        let held = ["192.0.2.5", "2001:db8::5"].map(|address| address.parse().unwrap()).to_vec();
        Snapshot { facts, own, held, resolv }
    }

    #[test]
    fn what_is_written_is_read() {
        for snapshot in [example(), Snapshot::default()] {
            assert_eq!(Snapshot::read(&snapshot.write()), Some(snapshot));
        }
    }

    #[test]
    fn what_is_cut_or_changed_is_not_taken_for_something_else() {
        let text = example().write();
        let end = text.find("resolv\n").unwrap() + "resolv\n".len();
        for length in 0..end {
            assert_eq!(Snapshot::read(&text[..length]), None, "{length} bytes");
        }
        for wrong in [
            "",
            "\n",
            "5 eth0\nresolv\n",
            "own x 1\nresolv\n",
            "routed @host ::/0\nresolv\n",
            "4 eth0 2\nresolv\n",
        ] {
            assert_eq!(Snapshot::read(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn only_links_that_somebody_names_are_told() {
        let mut snapshot = example();
        snapshot.forget_links(&[InterfaceName::new("br0").unwrap()]);
        let names: Vec<&str> = snapshot.facts.links.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["wlan0", "br0"]);
    }
}
