//! The bytes of the configuration protocol, version 2: what a server says of its forwarding rules, and what a client
//! wants them to be. All numbers are big endian.
//!
//! ```text
//! server:  hello  { table }  0
//! client:  { wanted }  0                  or nothing, and the end: nothing is to change
//! server:  verdict                        of this program's servers only
//!
//! hello    magic[8]  version:u32  bytes of a name:u32  bytes of an interface's name:u32
//! table    pif:u8  name[128]  capabilities:u32  count:u32  { rule }
//! wanted   pif:u8  count:u32  { rule }
//! rule     listen[16]  target[16]  interface[16]  first:u16  last:u16  target first:u16  protocol:u8  flags:u8
//! verdict  0                              the rules are in force
//!          1  text                        they are not, and why
//! ```
//!
//! Addresses of IPv4 are v4-mapped; a target of `::` is the guest's own address. A table that a client does not
//! mention is to be empty. The verdict is an addition: a server of others closes the connection without a word, and a
//! client of others does not wait for it.

use std::net::{IpAddr, Ipv6Addr};

use crate::flow::fwd::{InterfaceName, ListenAddr, MAX_RULES, Proto, Rule};
use crate::flow::side::Pif;

/// What a server's first bytes are.
const MAGIC: [u8; 8] = *b"basil:s\0";

/// The version that both ends speak.
pub(crate) const VERSION: u32 = 2;

/// Bytes of the name of a table, and of an interface.
const NAME_BYTES: usize = 128;
const INTERFACE_BYTES: usize = 16;

/// Bytes of the parts.
pub(crate) const HELLO_BYTES: usize = 20;
pub(crate) const TABLE_BYTES: usize = 1 + NAME_BYTES + 4 + 4;
const WANTED_BYTES: usize = 1 + 4;
pub(crate) const RULE_BYTES: usize = 56;

/// The most that there can be of each: tables for the two ways.
const MAX_TABLES: usize = 2;
pub(crate) const MAX_REQUEST_BYTES: usize =
    MAX_TABLES * (WANTED_BYTES + MAX_RULES * RULE_BYTES) + 1;
pub(crate) const MAX_TOLD_BYTES: usize =
    HELLO_BYTES + MAX_TABLES * (TABLE_BYTES + MAX_RULES * RULE_BYTES) + 1;

/// What ends the tables.
pub(crate) const END: u8 = 0;

/// The verdict: the rules are in force, or not.
pub(crate) const ACCEPTED: u8 = 0;
pub(crate) const REFUSED: u8 = 1;

const DUAL_STACK: u8 = 1;
const WEAK: u8 = 2;
const SCAN: u8 = 4;

/// What the rules of a table may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities(pub(crate) u32);

impl Capabilities {
    pub(crate) const V4: Self = Self(1);
    pub(crate) const V6: Self = Self(2);
    pub(crate) const TCP: Self = Self(4);
    pub(crate) const UDP: Self = Self(8);
    pub(crate) const SCAN: Self = Self(16);
    pub(crate) const INTERFACE: Self = Self(32);

    /// Each with its name.
    pub(crate) const NAMES: [(Self, &'static str); 6] = [
        (Self::V4, "IPv4"),
        (Self::V6, "IPv6"),
        (Self::TCP, "TCP"),
        (Self::UDP, "UDP"),
        (Self::SCAN, "scan"),
        (Self::INTERFACE, "ifname"),
    ];

    /// These, and `other` if that is `wanted`.
    pub(crate) fn with(self, other: Self, wanted: bool) -> Self {
        if wanted { Self(self.0 | other.0) } else { self }
    }

    /// Whether `other` is among these.
    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What is wrong with bytes of the other end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// This is no server.
    #[error("Bad magic number from server")]
    Magic,
    /// A version that nobody speaks any more.
    #[error("Unsupported experimental server protocol version 0")]
    Experimental,
    /// A version of old, with shorter rules.
    #[error(
        "Unsupported server protocol version {0} < {VERSION}: update the program that listens there"
    )]
    Old(u32),
    /// A version of later.
    #[error("Unknown server protocol version {0} > {VERSION}")]
    Unknown(u32),
    /// Names have another size.
    #[error("Server has unexpected {0} name size {1} (not {2})")]
    Size(&'static str, u32, usize),
    /// The first byte is an opening brace.
    #[error("The client speaks JSON: give it the path of --control, as this one is of --conf-path")]
    Json,
    /// A table has no such number.
    #[error("Unknown table {0}")]
    Table(u8),
    /// A table comes twice.
    #[error("Table {0} is given twice")]
    Twice(u8),
    /// There are too many rules.
    #[error("Too many rules ({0}, maximum {MAX_RULES})")]
    Count(u32),
    /// The name of a table has no end, or is no text.
    #[error("Table {0} has no readable name")]
    Name(u8),
    /// A rule is for neither TCP nor UDP.
    #[error("Rule for unknown protocol {0}")]
    Protocol(u8),
    /// A rule has flags that mean nothing.
    #[error("Rule with unknown flags {0:#x}")]
    Flags(u8),
    /// The name of an interface has no end, or is none.
    #[error("Rule with an invalid interface name")]
    Interface,
    /// A rule for both families has an address.
    #[error("Dual stack rule with listening address {0}")]
    DualStackAddress(Ipv6Addr),
}

/// The number of a table.
pub(crate) fn pif_of(number: u8) -> Option<Pif> {
    [Pif::Host, Pif::Splice].into_iter().find(|pif| *pif as u8 == number)
}

/// A server's first words.
pub(crate) fn hello() -> [u8; HELLO_BYTES] {
    let mut bytes = [0; HELLO_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_be_bytes());
    bytes[12..16].copy_from_slice(&(NAME_BYTES as u32).to_be_bytes());
    bytes[16..].copy_from_slice(&(INTERFACE_BYTES as u32).to_be_bytes());
    bytes
}

/// Whether a server's first words are those of one that is understood.
///
/// # Errors
/// Why not.
pub(crate) fn check_hello(bytes: &[u8; HELLO_BYTES]) -> Result<(), FormatError> {
    if bytes[..8] != MAGIC {
        return Err(FormatError::Magic);
    }
    match number(&bytes[8..12]) {
        0 => return Err(FormatError::Experimental),
        version if version < VERSION => return Err(FormatError::Old(version)),
        VERSION => {}
        version => return Err(FormatError::Unknown(version)),
    }
    for (what, found, size) in [
        ("pif", number(&bytes[12..16]), NAME_BYTES),
        ("interface", number(&bytes[16..]), INTERFACE_BYTES),
    ] {
        if found as usize != size {
            return Err(FormatError::Size(what, found, size));
        }
    }
    Ok(())
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn port(bytes: &[u8]) -> u16 {
    number(bytes) as u16
}

/// What a server says of a table before its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableHead {
    pub(crate) pif: u8,
    pub(crate) name: String,
    pub(crate) capabilities: Capabilities,
    pub(crate) count: u32,
}

impl TableHead {
    /// Its bytes.
    pub(crate) fn to_bytes(&self) -> [u8; TABLE_BYTES] {
        let mut bytes = [0; TABLE_BYTES];
        bytes[0] = self.pif;
        bytes[1..=self.name.len()].copy_from_slice(self.name.as_bytes());
        bytes[1 + NAME_BYTES..][..4].copy_from_slice(&self.capabilities.0.to_be_bytes());
        bytes[5 + NAME_BYTES..].copy_from_slice(&self.count.to_be_bytes());
        bytes
    }

    /// The inverse.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn from_bytes(bytes: &[u8; TABLE_BYTES]) -> Result<Self, FormatError> {
        let pif = bytes[0];
        let name = text(&bytes[1..=NAME_BYTES]).filter(|name| !name.contains(char::is_control));
        let count = number(&bytes[5 + NAME_BYTES..]);
        if count as usize > MAX_RULES {
            return Err(FormatError::Count(count));
        }
        Ok(Self {
            pif,
            name: name.ok_or(FormatError::Name(pif))?.to_owned(),
            capabilities: Capabilities(number(&bytes[1 + NAME_BYTES..5 + NAME_BYTES])),
            count,
        })
    }
}

/// Text that ends with a zero byte within `bytes`.
fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&bytes[..end]).ok()
}

/// The bytes of a rule.
pub(crate) fn rule_to_bytes(rule: &Rule) -> [u8; RULE_BYTES] {
    let mut bytes = [0; RULE_BYTES];
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let (listen, dual_stack) = match rule.listen {
        ListenAddr::Dual => (Ipv6Addr::UNSPECIFIED.octets(), DUAL_STACK),
        ListenAddr::V4(v4) => (mapped(v4.into()), 0),
        ListenAddr::V6(v6) => (mapped(v6.into()), 0),
    };
    bytes[..16].copy_from_slice(&listen);
    if let Some(target) = rule.target_addr {
        bytes[16..32].copy_from_slice(&mapped(target));
    }
    if let Some(interface) = &rule.interface {
        bytes[32..][..interface.as_str().len()].copy_from_slice(interface.as_str().as_bytes());
    }
    bytes[48..50].copy_from_slice(&rule.first.to_be_bytes());
    bytes[50..52].copy_from_slice(&rule.last.to_be_bytes());
    bytes[52..54].copy_from_slice(&rule.target_first.to_be_bytes());
    bytes[54] =
        if rule.proto == Proto::Udp { libc::IPPROTO_UDP as u8 } else { libc::IPPROTO_TCP as u8 };
    let flag = |flag, wanted| if wanted { flag } else { 0 };
    bytes[55] = dual_stack | flag(WEAK, rule.weak) | flag(SCAN, rule.scan);
    bytes
}

/// The inverse. Whether the rule makes sense is for the table to say that it becomes part of.
///
/// # Errors
/// What is wrong with the bytes.
pub(crate) fn rule_from_bytes(bytes: &[u8; RULE_BYTES]) -> Result<Rule, FormatError> {
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&bytes[at..at + 16]);
        Ipv6Addr::from(octets)
    };
    let flags = bytes[55];
    if flags & !(DUAL_STACK | WEAK | SCAN) != 0 {
        return Err(FormatError::Flags(flags));
    }
    let proto = match i32::from(bytes[54]) {
        libc::IPPROTO_TCP => Proto::Tcp,
        libc::IPPROTO_UDP => Proto::Udp,
        _ => return Err(FormatError::Protocol(bytes[54])),
    };
    let listen = match (flags & DUAL_STACK != 0, address(0)) {
        (false, listen) => listen.to_canonical().into(),
        (true, Ipv6Addr::UNSPECIFIED) => ListenAddr::Dual,
        (true, listen) => return Err(FormatError::DualStackAddress(listen)),
    };
    let target = Some(address(16)).filter(|target| !target.is_unspecified());
    let interface = match text(&bytes[32..48]).ok_or(FormatError::Interface)? {
        "" => None,
        name => Some(InterfaceName::new(name).ok_or(FormatError::Interface)?),
    };
    Ok(Rule {
        proto,
        listen,
        interface,
        first: port(&bytes[48..50]),
        last: port(&bytes[50..52]),
        target_addr: target.map(|target| target.to_canonical()),
        target_first: port(&bytes[52..54]),
        weak: flags & WEAK != 0,
        scan: flags & SCAN != 0,
        spec_index: 0,
    })
}

/// A client's wish for one table.
pub(crate) fn wanted_head(pif: u8, count: usize) -> [u8; WANTED_BYTES] {
    let mut bytes = [0; WANTED_BYTES];
    bytes[0] = pif;
    bytes[1..].copy_from_slice(&(count as u32).to_be_bytes());
    bytes
}

/// What a client wants: each table that it mentions, with its rules.
pub(crate) type Wanted = Vec<(Pif, Vec<Rule>)>;

/// A client's request, once it is all there; `None` until then. Nothing is kept between two calls.
///
/// # Errors
/// What is wrong with it, as soon as that can be seen.
pub(crate) fn request(bytes: &[u8]) -> Result<Option<Wanted>, FormatError> {
    let Some(tables) = tables(bytes)? else { return Ok(None) };
    let rules = |bytes: &[u8]| {
        let (rules, _) = bytes.as_chunks::<RULE_BYTES>();
        rules.iter().map(rule_from_bytes).collect::<Result<Vec<_>, _>>()
    };
    let wanted = tables.into_iter().map(|(pif, bytes)| Ok((pif, rules(bytes)?)));
    wanted.collect::<Result<_, _>>().map(Some)
}

/// Tables, each with the bytes of its rules.
type RawTables<'a> = Vec<(Pif, &'a [u8])>;

/// The tables of a request that is all there, each with the bytes of its rules.
fn tables(bytes: &[u8]) -> Result<Option<RawTables<'_>>, FormatError> {
    let mut tables = RawTables::new();
    let mut rest = bytes;
    loop {
        let Some(&first) = rest.first() else { return Ok(None) };
        if first == END {
            return Ok(Some(tables));
        }
        let pif = pif_of(first).ok_or(match first {
            b'{' if tables.is_empty() => FormatError::Json,
            other => FormatError::Table(other),
        })?;
        if tables.iter().any(|(other, _)| *other == pif) {
            return Err(FormatError::Twice(first));
        }
        let Some((head, behind)) = rest.split_at_checked(WANTED_BYTES) else { return Ok(None) };
        let count = number(&head[1..]);
        if count as usize > MAX_RULES {
            return Err(FormatError::Count(count));
        }
        let Some((rules, behind)) = behind.split_at_checked(count as usize * RULE_BYTES) else {
            return Ok(None);
        };
        tables.push((pif, rules));
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of a namespace with `-t 127.0.0.1/8080:80`.
    fn example() -> Rule {
        let listen = ListenAddr::V4([127, 0, 0, 1].into());
        Rule { listen, ..Rule::plain(Proto::Tcp, (8080, 8080), 80) }
    }

    #[test]
    fn the_example_byte_for_byte() {
        let wanted =
            [0x62, 0x61, 0x73, 0x69, 0x6c, 0x3a, 0x73, 0, 0, 0, 0, 2, 0, 0, 0, 0x80, 0, 0, 0, 0x10];
        assert_eq!(hello(), wanted);
        assert_eq!(check_hello(&wanted), Ok(()));

        let head = TableHead {
            pif: 1,
            name: "HOST".to_owned(),
            capabilities: Capabilities(0x3f),
            count: 1,
        };
        let mut bytes = [0; TABLE_BYTES];
        bytes[..5].copy_from_slice(b"\x01HOST");
        bytes[TABLE_BYTES - 8..].copy_from_slice(&[0, 0, 0, 0x3f, 0, 0, 0, 1]);
        assert_eq!(head.to_bytes(), bytes);
        assert_eq!(TableHead::from_bytes(&bytes), Ok(head));

        let mut bytes = [0; RULE_BYTES];
        bytes[10..16].copy_from_slice(&[0xff, 0xff, 0x7f, 0, 0, 1]);
        bytes[48..].copy_from_slice(&[0x1f, 0x90, 0x1f, 0x90, 0, 0x50, 6, 0]);
        assert_eq!(rule_to_bytes(&example()), bytes);
        assert_eq!(rule_from_bytes(&bytes), Ok(example()));

        let nothing = [1, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0];
        let empty = vec![(Pif::Host, Vec::new()), (Pif::Splice, Vec::new())];
        assert_eq!(request(&nothing), Ok(Some(empty)));
        let told = [&wanted_head(1, 0)[..], &wanted_head(3, 0), &[END]].concat();
        assert_eq!(told, nothing);
    }

    /// Each field at its place, of a rule that has all of them, and the table of a namespace's ports.
    #[test]
    fn every_field_byte_for_byte() {
        let v6 = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
        let rule = Rule {
            listen: ListenAddr::V6(v6(1)),
            target_addr: Some(v6(2).into()),
            interface: InterfaceName::new("eth0"),
            weak: true,
            scan: true,
            ..Rule::plain(Proto::Udp, (0x0102, 0x0304), 0x0506)
        };
        let mut bytes = [0; RULE_BYTES];
        bytes[..16].copy_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        bytes[16..32].copy_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        bytes[32..36].copy_from_slice(b"eth0");
        bytes[48..].copy_from_slice(&[1, 2, 3, 4, 5, 6, 17, 6]);
        assert_eq!(rule_to_bytes(&rule), bytes);
        assert_eq!(rule_from_bytes(&bytes), Ok(rule));

        let dual = Rule { target_addr: None, ..Rule::plain(Proto::Tcp, (80, 81), 8080) };
        let mut bytes = [0; RULE_BYTES];
        bytes[48..].copy_from_slice(&[0, 80, 0, 81, 0x1f, 0x90, 6, 1]);
        assert_eq!(rule_to_bytes(&dual), bytes);

        let (name, capabilities) = ("SPLICE".to_owned(), Capabilities(0x3f));
        let head = TableHead { pif: 3, name, capabilities, count: 0x0102 };
        let bytes = head.to_bytes();
        assert_eq!((&bytes[..8], bytes.len()), (&b"\x03SPLICE\0"[..], 137));
        assert_eq!(bytes[129..], [0, 0, 0, 0x3f, 0, 0, 1, 2]);
    }

    #[test]
    fn all_kinds_of_rules_survive() {
        let lo = InterfaceName::new("lo");
        let v6 = |text: &str| ListenAddr::V6(text.parse().expect("an address"));
        for rule in [
            example(),
            Rule::plain(Proto::Udp, (1, 32767), 1),
            Rule { weak: true, scan: true, ..Rule::plain(Proto::Tcp, (1, 65535), 1) },
            Rule { interface: lo, listen: v6("::"), ..example() },
            Rule {
                listen: v6("2001:db8::1"),
                target_addr: "2001:db8::2".parse().ok(),
                ..example()
            },
            Rule {
                listen: ListenAddr::V4([0; 4].into()),
                target_addr: "192.0.2.2".parse().ok(),
                ..example()
            },
            Rule { interface: InterfaceName::new("fifteen-bytes-x"), ..example() },
        ] {
            assert_eq!(rule_from_bytes(&rule_to_bytes(&rule)), Ok(rule), "{rule}");
        }
    }

    #[test]
    fn what_is_no_rule_is_named() {
        let with = |at: usize, byte: u8| {
            let mut bytes = rule_to_bytes(&example());
            bytes[at] = byte;
            rule_from_bytes(&bytes).expect_err("refused").to_string()
        };
        assert_eq!(with(54, 1), "Rule for unknown protocol 1");
        assert_eq!(with(55, 8), "Rule with unknown flags 0x8");
        assert_eq!(with(55, 1), "Dual stack rule with listening address ::ffff:127.0.0.1");
        assert_eq!(with(32, b'/'), "Rule with an invalid interface name");
        assert_eq!(with(32, 0xff), "Rule with an invalid interface name");
        let mut unterminated = rule_to_bytes(&example());
        unterminated[32..48].fill(b'x');
        assert_eq!(rule_from_bytes(&unterminated), Err(FormatError::Interface));
    }

    #[test]
    fn servers_that_are_not_understood_are_named() {
        let with = |at: usize, byte: u8| {
            let mut bytes = hello();
            bytes[at] = byte;
            check_hello(&bytes).expect_err("refused").to_string()
        };
        assert_eq!(with(0, b'x'), "Bad magic number from server");
        assert_eq!(with(11, 3), "Unknown server protocol version 3 > 2");
        assert!(with(11, 1).starts_with("Unsupported server protocol version 1 < 2"));
        assert_eq!(with(11, 0), "Unsupported experimental server protocol version 0");
        assert_eq!(with(15, 64), "Server has unexpected pif name size 64 (not 128)");
        assert_eq!(with(19, 15), "Server has unexpected interface name size 15 (not 16)");
    }

    #[test]
    fn a_request_is_understood_when_it_is_there_and_refused_as_soon_as_it_is_wrong() {
        let rule = rule_to_bytes(&example());
        let whole = [&wanted_head(1, 2)[..], &rule, &rule, &wanted_head(3, 0), &[END]].concat();
        for cut in 0..whole.len() {
            assert_eq!(request(&whole[..cut]), Ok(None), "{cut} bytes");
        }
        let wanted = vec![(Pif::Host, vec![example(); 2]), (Pif::Splice, Vec::new())];
        assert_eq!(request(&whole), Ok(Some(wanted.clone())));
        assert_eq!(request(&[&whole[..], b"more"].concat()), Ok(Some(wanted)));
        assert_eq!(request(&[END]), Ok(Some(Vec::new())));
        for (bytes, error) in [
            (&[2][..], FormatError::Table(2)),
            (&[0xff], FormatError::Table(0xff)),
            (&[1, 0, 0, 1, 0], FormatError::Count(256)),
            (&[1, 0xff, 0xff, 0xff, 0xff], FormatError::Count(u32::MAX)),
            (&[1, 0, 0, 0, 0, 1], FormatError::Twice(1)),
        ] {
            assert_eq!(request(bytes), Err(error));
        }
        let most = [&wanted_head(1, MAX_RULES)[..], &wanted_head(3, MAX_RULES), &[END]].concat();
        assert_eq!(most.len() + 2 * MAX_RULES * RULE_BYTES, MAX_REQUEST_BYTES);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _any = request(&bytes);
        }

        #[test]
        fn whatever_rule_comes_is_the_same_when_it_is_understood(
            bytes in proptest::collection::vec(any::<u8>(), RULE_BYTES),
            plain in any::<bool>(),
        ) {
            let mut bytes: [u8; RULE_BYTES] = bytes.try_into().expect("so many");
            if plain {
                bytes[32..48].fill(0);
                bytes[54] = 17;
                bytes[55] &= 6;
            }
            if let Ok(rule) = rule_from_bytes(&bytes) {
                let again = rule_from_bytes(&rule_to_bytes(&rule));
                prop_assert_eq!(again, Ok(rule));
            }
        }
    }
}
