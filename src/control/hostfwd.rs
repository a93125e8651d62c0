//! The protocol of slirp4netns's `--api-socket`: one request on each connection, one reply, both JSON objects.
//!
//! ```text
//! {"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_addr": "0.0.0.0", "host_port": 8080,
//!                                          "guest_addr": "10.0.2.100", "guest_port": 80}}
//! {"return": {"id": 1}}
//! {"execute": "list_hostfwd"}
//! {"return": {"entries": [{"id": 1, "proto": "tcp", "host_addr": "0.0.0.0", ...}]}}
//! {"execute": "remove_hostfwd", "arguments": {"id": 1}}
//! {"return": {}}
//! {"error": {"desc": "bad request: ..."}}
//! ```
//!
//! A request is answered when it is a whole object, whether or not its client ends the line or its side, or when nothing
//! that may come could make it one. A request that is too long is refused, and the rest of it discarded: the kernel would
//! take the answer for lost where its client has written what nobody has read. A port is a [`Rule`], and its id comes
//! from that of the rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use passt_frame::ToGuest;
use serde_json::{Value, json};

use super::channel::Channel;
use super::protocol::{Next, Protocol};
use super::server::Kind;
use super::words::words_of;
use crate::conf::{ConfError, as_slirp4netns_says, is_reached};
use crate::engine::{Engine, NetView};
use crate::flow::fwd::{ListenAddr, MAX_RULES, Proto, Rule, RuleId};
use crate::flow::network::Network;
use crate::limits::CONFIGURATION_WITHIN;

/// Bytes of the longest request: several times what one has.
const MAX_REQUEST_BYTES: usize = 4096;

/// Bytes that are discarded of one that is longer.
const MAX_DISCARDED_BYTES: usize = 1 << 20;

/// Bytes of the longest reply: a list of all rules that there may be, with the longest addresses.
const MAX_REPLY_BYTES: usize = MAX_RULES * 256 + 256;

/// How the server of such clients is made.
pub const KIND: Kind = Kind {
    name: "api",
    arrivals: log::Level::Debug,
    input_bytes: MAX_REQUEST_BYTES,
    output_bytes: MAX_REPLY_BYTES,
};

/// What is said on one connection. Nothing is left of it behind the reply, but that a request was too long.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostForward {
    /// The request was refused, and so many more bytes of it may come.
    discards_bytes: Option<usize>,
}

impl HostForward {
    /// Waits for the client to end its side.
    fn discard(&mut self, left: usize, channel: &mut Channel) -> Next {
        let count = channel.input().len();
        channel.use_up(count);
        self.discards_bytes = left.checked_sub(count);
        if self.discards_bytes.is_some() { Next::Wait } else { Next::Close }
    }
}

impl Protocol for HostForward {
    fn begin(&mut self) {
        *self = Self::default();
    }

    fn go_on(
        &mut self,
        engine: &mut Engine,
        _out: &mut dyn ToGuest,
        channel: &mut Channel,
    ) -> Next {
        if let Some(left) = self.discards_bytes {
            return self.discard(left, channel);
        }
        let input = channel.input();
        let (ended, full) = (channel.input_has_ended(), channel.input_is_full());
        if ended && input.trim_ascii().is_empty() {
            return Next::Wait;
        }
        let reply = match serde_json::from_slice::<Value>(input) {
            // The rest of it may come.
            Err(error) if error.is_eof() && !ended && !full => return Next::Wait,
            Err(_) if full => Err(format!("it is longer than {MAX_REQUEST_BYTES} bytes")),
            Err(error) => Err(format!("no JSON object: {error}")),
            Ok(request) => answer(engine, &request),
        };
        let reply = match reply {
            Ok(result) => json!({ "return": result }),
            Err(problem) => json!({ "error": { "desc": format!("bad request: {problem}") } }),
        };
        channel.use_up(channel.input().len());
        // A client that has just come has all of the room.
        channel.write(format!("{reply}\n").as_bytes());
        if full && !ended {
            return self.discard(MAX_DISCARDED_BYTES, channel);
        }
        Next::Close
    }

    fn patience(&self) -> Option<Duration> {
        Some(CONFIGURATION_WITHIN)
    }
}

fn answer(engine: &mut Engine, request: &Value) -> Result<Value, String> {
    let arguments = &request["arguments"];
    match request["execute"].as_str() {
        Some("add_hostfwd") => add(engine, arguments).map_err(|why| format!("add_hostfwd: {why}")),
        Some("list_hostfwd") => Ok(list(engine)),
        Some("remove_hostfwd") => {
            remove(engine, arguments).map_err(|why| format!("remove_hostfwd: {why}"))
        }
        Some(other) => Err(format!(
            "execute: there is no '{other}': take add_hostfwd, list_hostfwd or remove_hostfwd"
        )),
        None => Err("there is no text 'execute'".to_owned()),
    }
}

/// Forwards a port.
fn add(engine: &mut Engine, arguments: &Value) -> Result<Value, String> {
    let (mut view, bypass) = (engine.view(), engine.bypass());
    let NetView { network, inbound, .. } = &mut view;
    let rule = rule(arguments, Own::of(network))?;
    if let Some(guest) = rule.target_addr.filter(|guest| !is_reached(*guest, bypass)) {
        return Err(format!(
            "nothing gets to 'guest_addr' {guest}, a loopback address of the guest's own: leave it out"
        ));
    }
    inbound.add(rule, &*network).map_err(|warning| {
        let error = ConfError::Rule { warning, rule: Box::new(rule) };
        let problem = error.to_string().trim_end().replace('\n', "; ");
        in_these_words(&problem, &error.cure().unwrap_or_default())
    })?;
    put_in_force(engine, view)?;
    // It has got its name there.
    let inbound = engine.view().inbound;
    let id = inbound.iter().find(|(_, other)| **other == rule).map(|(id, _)| number(id));
    Ok(json!({ "id": id }))
}

/// What is asked for.
fn rule(arguments: &Value, own: Own) -> Result<Rule, String> {
    let (proto, family) = match arguments["proto"].as_str() {
        Some("tcp") => (Proto::Tcp, None),
        Some("tcp4") => (Proto::Tcp, Some(true)),
        Some("tcp6") => (Proto::Tcp, Some(false)),
        Some("udp") => (Proto::Udp, None),
        Some("udp4") => (Proto::Udp, Some(true)),
        Some("udp6") => (Proto::Udp, Some(false)),
        _ => return Err("'proto' must be \"tcp\" or \"udp\"".to_owned()),
    };
    let anywhere = match family {
        Some(false) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let host = address(arguments, "host_addr")?.unwrap_or(anywhere);
    if family.is_some_and(|v4| v4 != host.is_ipv4()) {
        return Err(format!("'host_addr' {host} is not of the family that 'proto' names"));
    }
    let guest = address(arguments, "guest_addr")?;
    let guest = guest.filter(|guest| Some(*guest) != own.like(host));
    let (from, to) = (port(arguments, "host_port")?, port(arguments, "guest_port")?);
    let plain = Rule::plain(proto, (from, from), to);
    Ok(Rule { listen: ListenAddr::from(host), target_addr: guest, ..plain })
}

/// The guest's own addresses.
#[derive(Clone, Copy)]
struct Own {
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

impl Own {
    fn of(network: &Network) -> Self {
        let v4 = network.v4.as_ref().map(|v4| v4.addr.into());
        let v6 = network.v6.as_ref().and_then(|v6| v6.addr).map(IpAddr::from);
        Self { v4, v6 }
    }

    /// The one of the family that `host` is of.
    fn like(self, host: IpAddr) -> Option<IpAddr> {
        if host.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// An address, if one is given.
fn address(arguments: &Value, name: &str) -> Result<Option<IpAddr>, String> {
    match &arguments[name] {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) => {
            text.parse().map(Some).map_err(|_| format!("'{name}' is no address: {text}"))
        }
        other => Err(format!("'{name}' must be a text, not {other}")),
    }
}

fn port(arguments: &Value, name: &str) -> Result<u16, String> {
    let port = arguments[name].as_u64().and_then(|port| u16::try_from(port).ok());
    port.filter(|port| *port > 0).ok_or_else(|| {
        format!("'{name}' must be a number from 1 to 65535, not {}", arguments[name])
    })
}

/// All ports that are forwarded.
fn list(engine: &Engine) -> Value {
    let NetView { network, inbound, .. } = engine.view();
    let own = Own::of(&network);
    let entries = inbound.iter().map(|(id, rule)| {
        let host: IpAddr = match rule.listen {
            ListenAddr::V4(address) => address.into(),
            ListenAddr::V6(address) => address.into(),
            ListenAddr::Dual => Ipv6Addr::UNSPECIFIED.into(),
        };
        json!({
            "id": number(id),
            "proto": rule.proto.to_string().to_lowercase(),
            "host_addr": host,
            "host_port": rule.first,
            "guest_addr": rule.target_addr.or(own.like(host)),
            "guest_port": rule.target_first,
        })
    });
    json!({ "entries": entries.collect::<Vec<_>>() })
}

/// Forwards a port no more. Its connections go on.
fn remove(engine: &mut Engine, arguments: &Value) -> Result<Value, String> {
    let wanted = &arguments["id"];
    let mut view = engine.view();
    let found = view.inbound.iter().find(|(id, _)| wanted.as_u64() == Some(number(*id)));
    let (id, _) =
        found.ok_or_else(|| format!("there is no 'id' {wanted}: take one of list_hostfwd"))?;
    view.inbound.remove(id);
    put_in_force(engine, view)?;
    Ok(json!({}))
}

fn number(id: RuleId) -> u64 {
    id.number() + 1
}

fn put_in_force(engine: &mut Engine, view: NetView) -> Result<(), String> {
    engine.replace_net(view).map_err(|error| {
        let (problem, cure) = words_of(&error.to_string());
        in_these_words(&problem, &cure)
    })?;
    log::info!("New forwarding rules by an api client");
    Ok(())
}

/// What failed and what to do, with the options that there are under this name.
fn in_these_words(problem: &str, cure: &str) -> String {
    let separator = if cure.is_empty() { "" } else { ": " };
    as_slirp4netns_says(&format!("{problem}{separator}{cure}"))
}

#[cfg(test)]
mod tests {
    use passt_frame::Errno;

    use super::*;
    use crate::engine::ListenError;
    use crate::flow::fwd::RuleError;

    fn read(arguments: &Value) -> Result<Rule, String> {
        let [v4, v6] = ["10.0.2.100", "fd00::100"].map(|address| address.parse().ok());
        rule(arguments, Own { v4, v6 })
    }

    #[test]
    fn what_is_left_out_is_any_address_and_the_guests_own() {
        let plain = Rule {
            listen: ListenAddr::V4(Ipv4Addr::UNSPECIFIED),
            ..Rule::plain(Proto::Tcp, (8080, 8080), 80)
        };
        let short = json!({ "proto": "tcp", "host_port": 8080, "guest_port": 80 });
        assert_eq!(read(&short), Ok(plain));
        let long = json!({ "proto": "tcp4", "host_addr": "0.0.0.0", "host_port": 8080,
            "guest_addr": "10.0.2.100", "guest_port": 80 });
        assert_eq!(read(&long), Ok(plain));
        let empty = json!({ "proto": "tcp", "host_addr": "", "host_port": 8080,
            "guest_addr": null, "guest_port": 80 });
        assert_eq!(read(&empty), Ok(plain));
    }

    #[test]
    fn other_addresses_and_ipv6_are_what_they_are() {
        let other = json!({ "proto": "udp", "host_addr": "127.0.0.1", "host_port": 53,
            "guest_addr": "10.0.2.101", "guest_port": 5353 });
        let rule = read(&other).expect("it is read");
        assert_eq!(rule.listen, ListenAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!(rule.target_addr, "10.0.2.101".parse().ok());
        assert_eq!((rule.proto, rule.first, rule.target_first), (Proto::Udp, 53, 5353));
        let six = json!({ "proto": "tcp6", "host_port": 8080, "guest_addr": "fd00::100",
            "guest_port": 80 });
        let rule = read(&six).expect("it is read");
        assert_eq!(rule.listen, ListenAddr::V6(Ipv6Addr::UNSPECIFIED));
        assert_eq!(rule.target_addr, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (arguments, wanted) in [
            (json!(null), "'proto'"),
            (json!({ "proto": "sctp" }), "'proto'"),
            (json!({ "proto": "tcp", "host_port": "80", "guest_port": 80 }), "'host_port'"),
            (json!({ "proto": "tcp", "host_port": 65536, "guest_port": 80 }), "'host_port'"),
            (json!({ "proto": "tcp", "host_port": 80, "guest_port": 0 }), "'guest_port'"),
            (json!({ "proto": "tcp", "host_port": 80 }), "'guest_port'"),
            (json!({ "proto": "tcp", "host_addr": "x" }), "'host_addr' is no address: x"),
            (json!({ "proto": "tcp", "host_addr": 5 }), "'host_addr' must be a text"),
            (json!({ "proto": "tcp6", "host_addr": "127.0.0.1" }), "not of the family"),
        ] {
            let said = read(&arguments).expect_err("it is refused");
            assert!(said.contains(wanted), "{arguments}: {said}");
        }
    }

    /// Whatever cannot be listened on, and whatever rule is refused: there are no options of pasta's under this name.
    #[test]
    fn no_cure_is_an_option_that_this_name_does_not_have() {
        let (place, option) = (String::new(), Proto::Tcp.option(false));
        let listen = (1..134).map(|errno| {
            let (place, errno) = (place.clone(), Errno::from_raw_os_error(errno));
            let error = ListenError::Port { place, option, port: 1, errno, rule: None };
            words_of(&error.to_string())
        });
        let rule = Rule::plain(Proto::Tcp, (1, 1), 1);
        let refused = [RuleError::FamilyDisabled("IPv6"), RuleError::TooManyRules].map(|warning| {
            let error = ConfError::Rule { warning, rule: Box::new(rule) };
            (String::new(), error.cure().unwrap_or_default())
        });
        for (problem, cure) in listen.chain(refused) {
            let said = in_these_words(&problem, &cure);
            let said = said.replace("--enable-ipv6", "");
            assert!(
                !said.contains("--") && !said.contains("option") && !said.contains("%IF"),
                "{said}"
            );
        }
    }
}
