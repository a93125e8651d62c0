//! What is said on a JSON control socket, as types: the program writes them, `pesto` reads them, and
//! `contrib/control.schema.json` describes them to everybody else. Units stand last in names. What is not known is
//! absent or null, never 0.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The field of the request that is wrong; empty where that is the whole line.
    pub field: String,
    /// What failed.
    pub problem: String,
    /// What to do about it.
    pub cure: String,
}

impl Problem {
    /// Something is wrong with `field`.
    pub(crate) fn new(field: &str, problem: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { field: field.to_owned(), problem: problem.into(), cure: cure.into() }
    }
}

/// The program, and what its guest is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `passt` or `pasta`.
    pub program: String,
    /// Its version.
    pub version: String,
    /// How the program was started: `stream`, also for vhost-user front-ends on its socket, `vhost-user` or
    /// `namespace`.
    pub mode: String,
    /// `up` if frames reach the guest, else `down`.
    pub link: String,
    /// Time since start.
    pub uptime_ms: u64,
    /// What the guest is told.
    pub told: Told,
    /// What its traffic has told.
    pub learned: Learned,
    /// Addresses of the guest's that stand for others.
    pub mapped: Vec<Mapped>,
    /// How many flows there are.
    pub flows: u64,
    /// Sockets that listen.
    pub listening: u64,
    /// Caps.
    pub limits: Limits,
}

/// What the guest is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Our Ethernet address.
    pub mac: String,
    /// MTU; absent if it is told none.
    pub mtu: Option<u16>,
    /// IPv4, unless it is off.
    pub ipv4: Option<ToldFamily>,
    /// IPv6, likewise.
    pub ipv6: Option<ToldFamily>,
    /// Search list.
    pub search: Vec<String>,
    /// Its name.
    pub hostname: Option<String>,
    /// Its full name.
    pub fqdn: Option<String>,
}

/// What the guest is told of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldFamily {
    /// Its address; in local mode there may be none yet.
    pub address: Option<String>,
    /// Length of the prefix.
    pub prefix_length: u8,
    /// The gateway, which is the program.
    pub gateway: Option<String>,
    /// Name servers.
    pub dns: Vec<String>,
}

/// What the guest's traffic has told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// Its Ethernet address.
    pub mac: Option<String>,
    /// The address that forwarded ports lead to.
    pub ipv4: Option<String>,
    /// Likewise.
    pub ipv6: Option<String>,
    /// Its link-local address.
    pub ipv6_link_local: Option<String>,
}

/// An address of the guest's that stands for another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    /// What the guest sees.
    pub address: String,
    /// `host-loopback`, `guest-address` or `dns`.
    pub means: String,
    /// Where it leads, if that is one address.
    pub to: Option<String>,
}

/// Caps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Descriptors that the program may have open.
    pub descriptors: u64,
    /// Flows that there may be, by what that limit leaves beside sockets that listen, and by the size of the table.
    pub flows: u64,
    /// Forwarding rules each way.
    pub rules: u64,
    /// Egress rules.
    pub egress_rules: u64,
    /// TCP flows whose handshake has not finished.
    pub half_open: u64,
}

/// All counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Time since start.
    pub uptime_ms: u64,
    /// Flows that are there, by kind.
    pub flows: BTreeMap<String, u64>,
    /// Flows that have begun, by kind.
    pub flows_begun: BTreeMap<String, u64>,
    /// TCP flows whose handshake has not finished.
    pub half_open: u64,
    /// Sockets that listen.
    pub listening: u64,
    /// Drops, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Events of the loop, by type.
    pub events: BTreeMap<String, u64>,
    /// Counters of the link.
    pub link: BTreeMap<String, u64>,
}

/// A page of the list of flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// Flows.
    pub flows: Vec<Flow>,
    /// The `from` of the request for the next page; null at the end.
    pub next: Option<u32>,
}

/// A flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// Its name, for `flow-reset`.
    pub flow: String,
    /// `tcp`, `udp` or `icmp`.
    pub proto: String,
    /// Where it stands.
    pub state: String,
    /// It passes the guest's link by.
    pub bypass: bool,
    /// The side that has begun it.
    pub initiator: Side,
    /// The other one.
    pub target: Side,
    /// Bytes of payload from the side that has begun it.
    pub bytes_forward: Option<u64>,
    /// Bytes of payload to it.
    pub bytes_back: Option<u64>,
    /// How long it has been here.
    pub age_ms: u64,
    /// Time since something happened.
    pub idle_ms: u64,
    /// Round-trip time to the peer on the host's side, as the kernel has measured it.
    pub rtt_us: Option<u64>,
}

/// One side of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// `host`, `guest`, or `namespace` past the link.
    pub place: String,
    /// The other end's address.
    pub address: String,
    /// Its port, or the identifier of echo requests.
    pub port: u16,
    /// Our address toward it; `0.0.0.0` or `::` is the kernel's choice.
    pub our_address: String,
    /// Our port.
    pub our_port: u16,
}

/// The forwarding rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// All of them.
    pub rules: Vec<Rule>,
    /// What a change has led to, that the operator has hardly meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A forwarding rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its number, which no other rule of the same way gets.
    pub rule: u64,
    /// `guest`, or `host` for ports of the guest's namespace.
    pub to: String,
    /// `tcp` or `udp`.
    pub proto: String,
    /// What it listens on: an address, or `*`.
    pub address: String,
    /// The interface that it listens on.
    pub interface: Option<String>,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// Where it leads, if not to the guest's own address.
    pub target_address: Option<String>,
    /// The port that the first one leads to.
    pub target_first: u16,
    /// Single ports may fail to open.
    pub weak: bool,
    /// Ports are open only while their target listens.
    pub auto: bool,
    /// Sockets that listen for it.
    pub listening: u64,
}

/// The egress policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    /// Its rules; the first one that matches decides. Without any, everything is allowed.
    pub rules: Vec<EgressRule>,
    /// How often none of them has matched: rejected.
    pub unmatched: u64,
    /// What the operator has hardly meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// An egress rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressRule {
    /// As it was written.
    pub rule: String,
    /// How often it has decided about a new flow.
    pub decided: u64,
    /// It is one of `--isolate`.
    pub isolate: bool,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// Where messages go: `stderr`, `file`, `syslog`.
    pub to: Vec<String>,
}

/// What is followed from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Names of events.
    pub events: Vec<String>,
}
