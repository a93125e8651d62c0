//! What the operator adds to DHCP, DHCPv6 and router advertisements: `N=VALUE`, encoded by the type of option N.
//!
//! The types are tables, in the order of their numbers; an option that is in none takes bytes, as `hex:`, which every
//! option does. What belongs to the protocols themselves, or has an option of its own, is refused.

use std::net::{Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::Options;
use crate::flow::network::{Boot, ExtraOption};
use crate::responder::{dhcp_options, dhcpv6, labels, ndp};

type Refusal = Result<(), String>;

/// Lifetime that never ends.
const FOREVER: [u8; 4] = [0xff; 4];

/// Smallest MTU that a router may advertise (RFC 8200, section 5).
const MIN_MTU_V6: u32 = 1280;

/// How the value of an option is written and encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Flag,
    U8,
    U16,
    U32,
    Text,
    /// One IPv4 address.
    Address,
    /// IPv4 addresses.
    Addresses,
    /// Pairs of IPv4 addresses.
    AddressPairs,
    /// Destinations and routers (RFC 3442).
    Routes,
    /// IPv6 addresses.
    Addresses6,
    /// Domain names, each as labels.
    Domains,
    /// IPv6 addresses or a name of NTP servers (RFC 5908).
    Ntp6,
    /// Router advertisements: MTU (RFC 4861, 4.6.4), route (RFC 4191), name servers and search list (RFC 8106),
    /// text, prefix of a translator (RFC 8781).
    RaMtu,
    RaRoute,
    RaServers,
    RaSearch,
    RaText,
    RaTranslator,
}

/// Types of DHCP options.
const DHCP: &[(Type, &[u16])] = &[
    (Type::Flag, &[19, 20, 27, 29, 30, 31, 34, 36, 39]),
    (Type::U8, &[23, 37, 46, 116]),
    (Type::U16, &[13, 22, 26]),
    (Type::U32, &[2, 24, 35, 38, 51, 58, 59, 108]),
    (Type::Text, &[12, 14, 15, 17, 18, 40, 47, 60, 62, 64, 66, 67, 100, 101, 114, 209, 210, 252]),
    (Type::Address, &[1, 16, 28, 32]),
    (
        Type::Addresses,
        &[
            3, 4, 5, 6, 7, 8, 9, 10, 11, 41, 42, 44, 45, 48, 49, 65, 68, 69, 70, 71, 72, 73, 74,
            75, 76, 150,
        ],
    ),
    (Type::AddressPairs, &[21, 33]),
    (Type::Routes, &[121, 249]),
];

/// Types of DHCPv6 options.
const DHCPV6: &[(Type, &[u16])] = &[
    (Type::U8, &[7]),
    (Type::U32, &[32, 82, 83]),
    (Type::Text, &[41, 42, 59, 103]),
    (Type::Addresses6, &[22, 23, 27, 28, 31]),
    (Type::Domains, &[21, 24, 29, 30, 64]),
    (Type::Ntp6, &[56]),
];

/// Types of options of router advertisements.
const RA: &[(Type, &[u16])] = &[
    (Type::RaMtu, &[5]),
    (Type::RaRoute, &[ndp::OPTION_ROUTE]),
    (Type::RaServers, &[25]),
    (Type::RaSearch, &[31]),
    (Type::RaText, &[37]),
    (Type::RaTranslator, &[ndp::OPTION_TRANSLATOR]),
];

impl Type {
    /// What is accepted, for error messages.
    const fn takes(self) -> &'static str {
        match self {
            Self::Flag => "0 or 1",
            Self::U8 => "a number up to 255",
            Self::U16 => "a number up to 65535",
            Self::U32 => "a number up to 4294967295",
            Self::Text | Self::RaText => "text of printable ASCII characters",
            Self::Address => "an IPv4 address",
            Self::Addresses => "IPv4 addresses, separated by commas",
            Self::AddressPairs => "pairs of IPv4 addresses, separated by commas",
            Self::Routes => "routes: DESTINATION/LENGTH,ROUTER, and more behind commas",
            Self::Addresses6 | Self::RaServers => "IPv6 addresses, separated by commas",
            Self::Domains | Self::RaSearch => "domain names, separated by commas",
            Self::Ntp6 => "IPv6 addresses or domain names, separated by commas",
            Self::RaMtu => "a number of bytes from 1280 on",
            Self::RaRoute => "PREFIX/LENGTH, perhaps with ,SECONDS and ,low or ,medium or ,high",
            Self::RaTranslator => "PREFIX/LENGTH, with a length of 32, 40, 48, 56, 64 or 96",
        }
    }

    /// The bytes of a value, `None` if it is not one of this type.
    fn encode(self, text: &str) -> Option<Vec<u8>> {
        let list = || text.split(',');
        match self {
            Self::Flag => text.parse::<u8>().ok().filter(|n| *n <= 1).map(|n| vec![n]),
            Self::U8 => text.parse::<u8>().ok().map(|n| vec![n]),
            Self::U16 => text.parse::<u16>().ok().map(|n| n.to_be_bytes().to_vec()),
            Self::U32 => text.parse::<u32>().ok().map(|n| n.to_be_bytes().to_vec()),
            Self::Text | Self::RaText => printable(text).map(|text| text.as_bytes().to_vec()),
            Self::Address => text.parse::<Ipv4Addr>().ok().map(|a| a.octets().to_vec()),
            Self::Addresses => joined(list().map(v4)),
            Self::AddressPairs => joined(list().map(v4)).filter(|v| v.len().is_multiple_of(8)),
            Self::Routes => routes(text),
            Self::Addresses6 => joined(list().map(v6)),
            Self::Domains => joined(list().map(domain)),
            Self::Ntp6 => joined(list().map(ntp)),
            Self::RaMtu => {
                let mtu = text.parse().ok().filter(|mtu: &u32| *mtu >= MIN_MTU_V6)?;
                Some([&[0, 0][..], &mtu.to_be_bytes()].concat())
            }
            Self::RaRoute => ra_route(text),
            Self::RaServers => behind_lifetime(&joined(list().map(v6))?),
            Self::RaSearch => behind_lifetime(&joined(list().map(domain))?),
            Self::RaTranslator => ra_translator(text),
        }
    }
}

/// All parts, if each is one.
fn joined(parts: impl Iterator<Item = Option<Vec<u8>>>) -> Option<Vec<u8>> {
    parts.collect::<Option<Vec<_>>>().map(|parts| parts.concat())
}

fn printable(text: &str) -> Option<&str> {
    let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    Some(text).filter(|text| printable && !text.is_empty())
}

fn v4(text: &str) -> Option<Vec<u8>> {
    text.parse::<Ipv4Addr>().ok().map(|address| address.octets().to_vec())
}

fn v6(text: &str) -> Option<Vec<u8>> {
    text.parse::<Ipv6Addr>().ok().map(|address| address.octets().to_vec())
}

fn domain(text: &str) -> Option<Vec<u8>> {
    let mut name = ArrayVec::<u8, { labels::MAX_NAME }>::new();
    (printable(text).is_some() && labels::append(&mut name, text)).then(|| name.to_vec())
}

/// A server's address, suboption 1, or name, suboption 3.
fn ntp(text: &str) -> Option<Vec<u8>> {
    let (code, value) = v6(text).map_or_else(|| (3, domain(text)), |value| (1, Some(value)));
    let value = value?;
    Some([&[0, code, 0, u8::try_from(value.len()).ok()?][..], &value].concat())
}

/// A prefix, and its length of at most `bits`; nothing may be set behind it.
fn prefix(text: &str, bits: u32) -> Option<(Ipv6Addr, u8)> {
    let (address, length) = text.split_once('/')?;
    let length: u8 = length.parse().ok().filter(|length| u32::from(*length) <= bits)?;
    let address: Ipv6Addr = address.parse().ok()?;
    let host_bits = u128::MAX.checked_shr(length.into()).unwrap_or(0);
    (address.to_bits() & host_bits == 0).then_some((address, length))
}

/// Classless routes: of each destination as many bytes as its prefix has, then the router.
fn routes(text: &str) -> Option<Vec<u8>> {
    let words: Vec<&str> = text.split(',').collect();
    let (pairs, rest) = words.as_chunks::<2>();
    let route = |[to, router]: &[&str; 2]| {
        let (address, length) = to.split_once('/')?;
        let length: u8 = length.parse().ok().filter(|length| *length <= 32)?;
        let address: Ipv4Addr = address.parse().ok()?;
        let host_bits = u32::MAX.checked_shr(length.into()).unwrap_or(0);
        let significant = usize::from(length).div_ceil(8);
        let clean = address.to_bits() & host_bits == 0;
        clean.then_some([&[length][..], &address.octets()[..significant], &v4(router)?].concat())
    };
    if rest.is_empty() { joined(pairs.iter().map(route)) } else { None }
}

fn ra_route(text: &str) -> Option<Vec<u8>> {
    let mut words = text.split(',');
    let (prefix, length) = prefix(words.next()?, 128)?;
    let lifetime = words.next().map_or(Some(u32::MAX), |seconds| seconds.parse().ok())?;
    // Two's complement of two bits, in the middle of the byte (RFC 4191, section 2.1).
    let preference = match words.next() {
        None | Some("medium") => 0b00,
        Some("high") => 0b01,
        Some("low") => 0b11,
        Some(_) => return None,
    };
    let significant = usize::from(length).div_ceil(64) * 8;
    let head = [length, preference << 3];
    let value = [&head[..], &lifetime.to_be_bytes(), &prefix.octets()[..significant]].concat();
    words.next().is_none().then_some(value)
}

/// A prefix for as long as there can be one, 65528 s, and the code of its length (RFC 8781, section 4).
fn ra_translator(text: &str) -> Option<Vec<u8>> {
    let (prefix, length) = prefix(text, 96)?;
    let code = [96, 64, 56, 48, 40, 32].iter().position(|known| *known == length)?;
    let head = 0xfff8 | u16::try_from(code).ok()?;
    Some([&head.to_be_bytes()[..], &prefix.octets()[..12]].concat())
}

fn behind_lifetime(value: &[u8]) -> Option<Vec<u8>> {
    Some([&[0, 0][..], &FOREVER, value].concat())
}

/// Bytes as pairs of hexadecimal digits.
fn hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digits = text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() && digits { pairs.iter().map(byte).collect() } else { None }
}

/// A kind of messages that options are added to.
struct Target {
    /// The option of ours.
    option: &'static str,
    types: &'static [(Type, &'static [u16])],
    /// Codes that belong to the protocol.
    own: &'static [u16],
    /// Codes that have an option of ours, and which.
    elsewhere: &'static [(u16, &'static str)],
    max_code: u16,
    /// Most bytes of one value, and of all options with their headers.
    max_value: usize,
    max_bytes: usize,
    header_bytes: usize,
    /// Codes that may be given several times.
    repeated: &'static [u16],
}

impl Target {
    /// Reads `N=VALUE`.
    fn parse(&self, text: &str) -> Result<ExtraOption, String> {
        let invalid = |why: &str| format!("Invalid --{} {text}: {why}", self.option);
        let (number, value) = text.split_once('=').ok_or_else(|| invalid("not N=VALUE"))?;
        let code = number.parse().ok().filter(|code| *code <= self.max_code);
        let code = code.ok_or_else(|| invalid("N is the number of no option"))?;
        if let Some((_, option)) = self.elsewhere.iter().find(|(known, _)| *known == code) {
            return Err(invalid(&format!("use --{option}")));
        }
        if self.own.contains(&code) {
            return Err(invalid(&format!("option {code} belongs to the protocol itself")));
        }
        let known = self.types.iter().find(|(_, codes)| codes.contains(&code)).map(|(t, _)| *t);
        let value = match (value.strip_prefix("hex:"), known) {
            (Some(digits), _) => {
                hex(digits).ok_or_else(|| invalid("hex: wants pairs of hexadecimal digits"))?
            }
            (None, Some(known)) => known
                .encode(value)
                .ok_or_else(|| invalid(&format!("option {code} takes {}", known.takes())))?,
            (None, None) => {
                return Err(invalid("the type of this option is not known; write hex:BYTES"));
            }
        };
        if value.len() > self.max_value {
            let max = self.max_value;
            return Err(invalid(&format!("{} bytes, more than {max}", value.len())));
        }
        Ok(ExtraOption { code, value })
    }

    /// Adds `N=VALUE` to `options`; what was said of option N before is forgotten.
    fn add(&self, options: &mut Vec<ExtraOption>, text: &str) -> Refusal {
        let option = self.parse(text)?;
        if !self.repeated.contains(&option.code) {
            options.retain(|other| other.code != option.code);
        }
        options.push(option);
        let bytes = options.iter().map(|option| self.header_bytes + option.value.len());
        let bytes: usize = bytes.sum();
        if bytes > self.max_bytes {
            let (name, max) = (self.option, self.max_bytes);
            return Err(format!("Invalid --{name} {text}: {bytes} bytes in all, more than {max}"));
        }
        Ok(())
    }
}

/// DHCP options that have an option of the command line of their own.
const DHCP_ELSEWHERE: [(u16, &str); 2] =
    [(dhcp_options::CODE_FQDN as u16, "fqdn"), (dhcp_options::CODE_SEARCH as u16, "search")];

/// `N=VALUE` of DHCP.
pub(super) fn dhcp_option(o: &mut Options, text: &str) -> Refusal {
    let target = Target {
        option: "dhcp-option",
        types: DHCP,
        own: &dhcp_options::OWN,
        elsewhere: &DHCP_ELSEWHERE,
        max_code: 254,
        max_value: 255,
        max_bytes: dhcp_options::MAX_EXTRA_LEN,
        header_bytes: 2,
        repeated: &[],
    };
    target.add(&mut o.extra.dhcp, text)
}

/// `N=VALUE` of DHCPv6.
pub(super) fn dhcpv6_option(o: &mut Options, text: &str) -> Refusal {
    let target = Target {
        option: "dhcpv6-option",
        types: DHCPV6,
        own: &dhcpv6::OWN,
        elsewhere: &[(dhcpv6::OPTION_FQDN, "fqdn")],
        max_code: u16::MAX,
        max_value: dhcpv6::MAX_EXTRA_LEN,
        max_bytes: dhcpv6::MAX_EXTRA_LEN,
        header_bytes: 4,
        repeated: &[],
    };
    target.add(&mut o.extra.dhcpv6, text)
}

/// `N=VALUE` of router advertisements, which consist of units of 8 bytes.
pub(super) fn ra_option(o: &mut Options, text: &str) -> Refusal {
    let target = Target {
        option: "ra-option",
        types: RA,
        own: &[0, 1, 2, 3, 4],
        elsewhere: &[],
        max_code: 255,
        max_value: ndp::MAX_EXTRA_LEN - 2,
        max_bytes: ndp::MAX_EXTRA_LEN,
        header_bytes: 2,
        repeated: &[ndp::OPTION_ROUTE, ndp::OPTION_TRANSLATOR],
    };
    let mut padded = o.extra.ra.clone();
    let before = target.add(&mut padded, text);
    for option in &mut padded {
        option.value.resize((option.value.len() + 2).next_multiple_of(8) - 2, 0);
    }
    let bytes: usize = padded.iter().map(|option| option.value.len() + 2).sum();
    before?;
    if bytes > ndp::MAX_EXTRA_LEN {
        let max = ndp::MAX_EXTRA_LEN;
        return Err(format!("Invalid --ra-option {text}: {bytes} bytes in all, more than {max}"));
    }
    o.extra.ra = padded;
    Ok(())
}

/// `NAME[,SERVER]`.
pub(super) fn dhcp_boot(o: &mut Options, text: &str) -> Refusal {
    let invalid = |why: &str| format!("Invalid --dhcp-boot {text}: {why}");
    let (file, server) = match text.split_once(',') {
        Some((file, server)) => (file, Some(server)),
        None => (text, None),
    };
    let server = server.map(str::parse::<Ipv4Addr>).transpose();
    let server = server.map_err(|_| invalid("SERVER is no IPv4 address"))?;
    let file = printable(file).filter(|file| file.len() <= 255);
    let file = file.ok_or_else(|| invalid("NAME has 1 to 255 printable ASCII characters"))?;
    o.extra.boot = Some(Boot { file: file.to_owned(), server });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of option `code` with `value`, in hex.
    fn encoded(add: fn(&mut Options, &str) -> Refusal, text: &str) -> Result<String, String> {
        let mut options = Options::default();
        add(&mut options, text)?;
        let extra = options.extra;
        let all = [extra.dhcp, extra.dhcpv6, extra.ra].concat();
        let last = all.last().expect("an option");
        Ok(last.value.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    #[test]
    fn dhcp_options_are_encoded_by_their_type() {
        for (text, bytes) in [
            ("19=1", "01"),
            ("23=64", "40"),
            ("26=1400", "0578"),
            ("51=3600", "00000e10"),
            ("15=a.example", "612e6578616d706c65"),
            ("252=http://w/", "687474703a2f2f772f"),
            ("114=https://p/", "68747470733a2f2f702f"),
            ("28=192.0.2.255", "c00002ff"),
            ("42=192.0.2.3,192.0.2.4", "c0000203c0000204"),
            ("33=198.51.100.7,192.0.2.9", "c6336407c0000209"),
            ("121=198.51.100.0/24,192.0.2.9,0.0.0.0/0,192.0.2.1", "18c63364c000020900c0000201"),
            ("121=198.51.100.128/25,192.0.2.9", "19c6336480c0000209"),
            ("43=hex:0102fF", "0102ff"),
            ("224=hex:", ""),
        ] {
            assert_eq!(encoded(dhcp_option, text).as_deref(), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn dhcpv6_options_are_encoded_by_their_type() {
        let server = "20010db8000000000000000000000003";
        for (text, bytes) in [
            ("7=255", "ff".to_owned()),
            ("32=3600", "00000e10".to_owned()),
            ("31=2001:db8::3", server.to_owned()),
            ("24=a.b,c", "0161016200".to_owned() + "016300"),
            ("103=https://p/", "68747470733a2f2f702f".to_owned()),
            ("56=2001:db8::3", format!("00010010{server}")),
            ("56=n.b", "00030005016e016200".to_owned()),
            ("17=hex:00000001", "00000001".to_owned()),
        ] {
            assert_eq!(encoded(dhcpv6_option, text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn options_of_router_advertisements_fill_units_of_8_bytes() {
        let server = "20010db8000000000000000000000003";
        for (text, bytes) in [
            ("5=1400", "000000000578".to_owned()),
            ("24=::/0", "0000ffffffff".to_owned()),
            ("24=2001:db8:7::/48,600,high", "30080000025820010db800070000".to_owned()),
            ("24=2001:db8::/65,0,low", "411800000000".to_owned() + "20010db8" + &"0".repeat(24)),
            ("25=2001:db8::3", format!("0000ffffffff{server}")),
            ("31=a.b", "0000ffffffff0161016200000000".to_owned()),
            ("37=https://p/", "68747470733a2f2f702f00000000".to_owned()),
            ("38=64:ff9b::/96", "fff80064ff9b0000000000000000".to_owned()),
            ("38=2001:db8::/32", "fffd20010db80000000000000000".to_owned()),
            ("200=hex:01", "010000000000".to_owned()),
        ] {
            assert_eq!(encoded(ra_option, text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_right() {
        for (add, text, why) in [
            (dhcp_option as fn(&mut Options, &str) -> Refusal, "42", "not N=VALUE"),
            (dhcp_option, "255=1", "N is the number of no option"),
            (dhcp_option, "x=1", "N is the number of no option"),
            (dhcp_option, "0=1", "option 0 belongs to the protocol itself"),
            (dhcp_option, "53=1", "option 53 belongs to the protocol itself"),
            (dhcp_option, "81=a.b", "use --fqdn"),
            (dhcp_option, "119=a.b", "use --search"),
            (dhcp_option, "42=2001:db8::3", "option 42 takes IPv4 addresses, separated by commas"),
            (dhcp_option, "42=", "option 42 takes IPv4 addresses, separated by commas"),
            (dhcp_option, "26=65536", "option 26 takes a number up to 65535"),
            (dhcp_option, "19=2", "option 19 takes 0 or 1"),
            (dhcp_option, "15=\u{e4}", "option 15 takes text of printable ASCII characters"),
            (
                dhcp_option,
                "33=192.0.2.1",
                "option 33 takes pairs of IPv4 addresses, separated by commas",
            ),
            (
                dhcp_option,
                "121=198.51.100.7/24,192.0.2.9",
                "option 121 takes routes: DESTINATION/LENGTH,ROUTER, and more behind commas",
            ),
            (
                dhcp_option,
                "121=198.51.100.0/24",
                "option 121 takes routes: DESTINATION/LENGTH,ROUTER, and more behind commas",
            ),
            (dhcp_option, "224=abc", "the type of this option is not known; write hex:BYTES"),
            (dhcp_option, "224=hex:abc", "hex: wants pairs of hexadecimal digits"),
            (dhcpv6_option, "3=hex:00", "option 3 belongs to the protocol itself"),
            (dhcpv6_option, "39=a.b", "use --fqdn"),
            (dhcpv6_option, "24=.", "option 24 takes domain names, separated by commas"),
            (ra_option, "3=hex:00", "option 3 belongs to the protocol itself"),
            (ra_option, "5=1279", "option 5 takes a number of bytes from 1280 on"),
            (
                ra_option,
                "38=2001:db8::/33",
                "option 38 takes PREFIX/LENGTH, with a length of 32, 40, 48, 56, 64 or 96",
            ),
            (
                ra_option,
                "24=2001:db8::1/64",
                "option 24 takes PREFIX/LENGTH, perhaps with ,SECONDS and ,low or ,medium or ,high",
            ),
        ] {
            let refusal = encoded(add, text).expect_err(text);
            assert!(refusal.ends_with(&format!(" {text}: {why}")), "{refusal}");
            assert!(refusal.starts_with("Invalid --"), "{refusal}");
        }
    }

    #[test]
    fn the_last_word_about_an_option_counts_and_all_have_a_limit() {
        let mut o = Options::default();
        for text in ["42=192.0.2.3", "26=1400", "42=192.0.2.4"] {
            dhcp_option(&mut o, text).expect(text);
        }
        let codes: Vec<u16> = o.extra.dhcp.iter().map(|option| option.code).collect();
        assert_eq!((codes, &o.extra.dhcp[1].value[..]), (vec![26, 42], &[192, 0, 2, 4][..]));
        for text in ["24=2001:db8:1::/48", "24=2001:db8:2::/48"] {
            ra_option(&mut o, text).expect(text);
        }
        assert_eq!(o.extra.ra.len(), 2, "routes may be many");

        let long = |code: u16, bytes: usize| format!("{code}=hex:{}", "07".repeat(bytes));
        let refused = dhcp_option(&mut o, &long(224, 190)).expect_err("too long");
        assert!(refused.ends_with(": 202 bytes in all, more than 200"), "{refused}");
        assert!(dhcp_option(&mut Options::default(), &long(224, 256)).is_err());
        assert!(dhcpv6_option(&mut Options::default(), &long(17, 196)).is_ok());
        assert!(dhcpv6_option(&mut Options::default(), &long(17, 197)).is_err());
        assert!(ra_option(&mut Options::default(), &long(200, 510)).is_ok());
        assert!(ra_option(&mut Options::default(), &long(200, 511)).is_err());
    }

    #[test]
    fn what_to_boot() {
        let mut o = Options::default();
        let mut read = |text: &str| {
            dhcp_boot(&mut o, text)?;
            let boot = o.extra.boot.clone().expect("it was given");
            Ok::<_, String>((boot.file, boot.server))
        };
        let server = Some(Ipv4Addr::new(192, 0, 2, 9));
        assert_eq!(read("a/b.efi,192.0.2.9"), Ok(("a/b.efi".to_owned(), server)));
        assert_eq!(read("a"), Ok(("a".to_owned(), None)));
        assert!(read("a,b").expect_err("no address").ends_with("SERVER is no IPv4 address"));
        assert!(
            read("").is_err() && read(",192.0.2.9").is_err() && read(&"x".repeat(256)).is_err()
        );
    }
}
