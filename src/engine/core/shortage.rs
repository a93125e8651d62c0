//! What runs short, said in the log: who is turned away by a limit hears nothing of it, and most limits are the
//! operator's to raise. There is a line when a limit is first met, and in the minute behind that only a number, as long
//! as it goes on: whoever may send packets could fill the log otherwise. Which limit it was is known by the
//! counters of drops, wherever it was met; those that are no fault of a limit's are not looked at, nor are limits of
//! what may be said at a time (`error-limited`), which every router has, and of what only takes longer beyond them (pipes,
//! bytes kept for sockets, admissions to a port).

use std::fmt;
use std::net::SocketAddr;

use crate::limits::{
    GROUP_SOCKETS, MAX_FLOWS, MAX_GROUPS, MAX_HALF_OPEN, REASSEMBLY_SLOTS, SHORTAGE_PAUSE,
};
use crate::sys::socket::is_foreign;
use crate::time::{OncePer, Timestamp};
use crate::wire::DropReason;
use crate::wire::drop_reason::DropCounters;

/// A limit that turns traffic away.
#[derive(Debug)]
struct Limit {
    /// What it makes of traffic.
    reason: DropReason,
    /// What it has led to.
    what: &'static str,
    /// What the operator can do.
    cure: fn(Most) -> String,
}

const fn limit(reason: DropReason, what: &'static str, cure: fn(Most) -> String) -> Limit {
    Limit { reason, what, cure }
}

/// All that are told of.
static LIMITS: [Limit; 10] = [
    limit(
        DropReason::DescriptorsExhausted,
        "There was no descriptor left for a flow",
        more_descriptors,
    ),
    limit(DropReason::MemoryExhausted, "The host had no memory for a socket", |_| {
        "raise the memory limit of the host's control group, net.ipv4.tcp_mem or fs.epoll.max_user_watches".to_owned()
    }),
    limit(DropReason::NoLocalPort, "The host had no port left for a flow", |_| {
        "widen net.ipv4.ip_local_port_range, or see that the host has an address to send from"
            .to_owned()
    }),
    limit(
        DropReason::NoOutboundAddress,
        "The host did not have the address of --outbound that a flow was to be sent from",
        the_address,
    ),
    limit(DropReason::FlowTableFull, "There was no place for another flow", |_| {
        format!("{MAX_FLOWS} are the most, have fewer")
    }),
    limit(
        DropReason::DatagramFlowsFull,
        "There was no place for another UDP or ICMP flow",
        fewer_datagram_flows,
    ),
    limit(
        DropReason::DatagramFlowEvicted,
        "A UDP or ICMP flow that waited for an answer gave way to another",
        fewer_datagram_flows,
    ),
    limit(
        DropReason::HalfOpenEvicted,
        "A connection that was not made yet gave way to another",
        |most| {
            if most.half_open < MAX_HALF_OPEN {
                return more_descriptors(most);
            }
            format!("{MAX_HALF_OPEN} are the most, begin fewer connections at a time")
        },
    ),
    limit(DropReason::FragmentEvicted, "A datagram in fragments gave way to another", |_| {
        format!("{REASSEMBLY_SLOTS} are the most, have the guest send what fits its MTU")
    }),
    limit(DropReason::TooManyGroups, "A group was not joined", |_| {
        format!("{MAX_GROUPS} with {GROUP_SOCKETS} ports are the most, have the guest leave some")
    }),
];

/// The cure where what there may be depends on descriptors.
fn more_descriptors(most: Most) -> String {
    format!(
        "raise the hard limit of open descriptors, which is {}: ulimit -Hn, LimitNOFILE= of a service, --ulimit nofile= \
         of a container",
        most.descriptors
    )
}

/// The cure where flows are to have an address that the host has not: of IPv4 and IPv6 the one that it is about, unless
/// that has come meanwhile.
fn the_address(most: Most) -> String {
    let named = || most.sources.into_iter().flatten();
    let missing = named().find(|&address| is_foreign(address)).or_else(|| named().next());
    let address = missing.map_or_else(|| "it".to_owned(), |address| address.ip().to_string());
    format!("give {address} to one of the host's interfaces, or name another")
}

fn fewer_datagram_flows(most: Most) -> String {
    if most.flows < MAX_FLOWS {
        return more_descriptors(most);
    }
    format!("{MAX_FLOWS} flows are the most, of which they have a part: have fewer")
}

/// What was said of one limit.
#[derive(Clone, Copy, Debug)]
struct Told {
    /// When there was a line about it.
    lines: OncePer,
    /// How many drops were told of.
    count: u64,
}

/// What was said of all limits.
#[derive(Debug)]
pub(super) struct Shortages {
    told: [Told; LIMITS.len()],
    /// How often they were met.
    met: u64,
    /// When there is more to say.
    next: Option<Timestamp>,
}

/// What cures depend on: how many there may be of what is limited both by number and by descriptors, and the operator's
/// addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Most {
    /// Open descriptors.
    pub(super) descriptors: u64,
    /// Flows.
    pub(super) flows: usize,
    /// Connections whose handshake is under way.
    pub(super) half_open: usize,
    /// The addresses that the operator names for flows to be sent from (`--outbound`).
    pub(super) sources: [Option<SocketAddr>; 2],
}

/// A line for the log.
#[derive(Debug)]
pub(super) struct Shortage {
    limit: &'static Limit,
    /// How often it was since the line before.
    count: u64,
    most: Most,
}

/// How often any limit was met.
fn met(drops: &DropCounters) -> u64 {
    LIMITS.iter().map(|limit| drops.of(limit.reason)).sum()
}

impl Default for Shortages {
    fn default() -> Self {
        let told = Told { lines: OncePer::new(SHORTAGE_PAUSE), count: 0 };
        Self { told: [told; LIMITS.len()], met: 0, next: None }
    }
}

impl Shortages {
    /// Whether there may be something to say.
    pub(super) fn have_news(&self, now: Timestamp, drops: &DropCounters) -> bool {
        met(drops) != self.met || self.next.is_some_and(|next| next <= now)
    }

    /// When there will be more to say, if there is something that waits.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.next
    }

    /// Hands to `say` what is to be said at `now`, where so much was dropped.
    pub(super) fn tell(
        &mut self,
        now: Timestamp,
        (drops, most): (&DropCounters, Most),
        mut say: impl FnMut(Shortage),
    ) {
        if !self.have_news(now, drops) {
            return;
        }
        (self.met, self.next) = (met(drops), None);
        for (told, limit) in self.told.iter_mut().zip(&LIMITS) {
            let count = drops.of(limit.reason) - told.count;
            if count == 0 {
                continue;
            }
            if told.lines.take(now) {
                told.count += count;
                say(Shortage { limit, count, most });
            } else {
                self.next = Timestamp::earliest([self.next, told.lines.next()]);
            }
        }
    }

    /// Nothing more is dropped: what was not told yet may be told.
    pub(super) fn end(&mut self) {
        self.told.iter_mut().for_each(|told| told.lines.reset());
        self.next = Some(Timestamp::ZERO);
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit: Limit { what, cure, .. }, count, most } = self;
        let times = if *count == 1 { "once" } else { "times" };
        let number = if *count == 1 { String::new() } else { format!("{count} ") };
        write!(f, "{what}, {number}{times}: {}", cure(*most))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FEW: Most = Most { descriptors: 1024, flows: 864, half_open: 432, sources: [None; 2] };

    fn said(
        shortages: &mut Shortages,
        drops: &DropCounters,
        second: u64,
    ) -> (Vec<String>, Option<u64>) {
        let mut lines = Vec::new();
        let now = Timestamp::ZERO + Duration::from_secs(second);
        shortages.tell(now, (drops, FEW), |line| lines.push(line.to_string()));
        (lines, shortages.next().map(|next| next.since(Timestamp::ZERO).as_secs()))
    }

    #[test]
    fn a_limit_is_told_of_at_once_and_then_each_minute_while_it_is_met() {
        let (mut shortages, mut drops) = (Shortages::default(), DropCounters::default());
        drops.count(DropReason::NoRoute);
        assert_eq!(said(&mut shortages, &drops, 99), (vec![], None), "no limit");
        drops.count(DropReason::DescriptorsExhausted);
        let (lines, next) = said(&mut shortages, &drops, 100);
        assert_eq!(next, None);
        assert!(lines.len() == 1 && lines[0].contains(", once: "), "{lines:?}");
        assert!(lines[0].contains("which is 1024: ulimit -Hn, LimitNOFILE="), "{lines:?}");
        drops.add(DropReason::DescriptorsExhausted, 464);
        assert_eq!(said(&mut shortages, &drops, 101), (vec![], Some(160)));
        drops.count(DropReason::FlowTableFull);
        let (lines, next) = said(&mut shortages, &drops, 102);
        assert!(lines.len() == 1 && lines[0].contains("131072"), "each has its own: {lines:?}");
        assert_eq!(next, Some(160));
        let (lines, next) = said(&mut shortages, &drops, 160);
        assert!(lines.len() == 1 && lines[0].contains(", 464 times: "), "{lines:?}");
        assert_eq!(next, None);
        assert_eq!(said(&mut shortages, &drops, 1000), (vec![], None), "it is over");
    }

    #[test]
    fn the_end_tells_the_rest() {
        let (mut shortages, mut drops) = (Shortages::default(), DropCounters::default());
        drops.count(DropReason::NoLocalPort);
        assert_eq!(said(&mut shortages, &drops, 1).0.len(), 1);
        drops.add(DropReason::NoLocalPort, 5);
        assert_eq!(said(&mut shortages, &drops, 2).0.len(), 0);
        shortages.end();
        let (lines, next) = said(&mut shortages, &drops, 2);
        assert!(lines.len() == 1 && lines[0].contains(", 5 times: ") && next.is_none());
    }

    #[test]
    fn every_limit_has_a_line_of_its_own() {
        let line = |limit| Shortage { limit, count: 2, most: FEW }.to_string();
        let lines: std::collections::HashSet<_> = LIMITS.iter().map(line).collect();
        assert_eq!(lines.len(), LIMITS.len());
    }

    #[test]
    fn descriptors_are_the_cure_only_where_they_are_the_limit() {
        let many = Most { descriptors: 1 << 20, flows: MAX_FLOWS, half_open: MAX_HALF_OPEN, ..FEW };
        for (reason, number) in [
            (DropReason::HalfOpenEvicted, "4096 are the most"),
            (DropReason::DatagramFlowsFull, "131072 flows are the most"),
            (DropReason::DatagramFlowEvicted, "131072 flows are the most"),
        ] {
            let limit = LIMITS.iter().find(|limit| limit.reason == reason).expect("it is one");
            let line = |most| Shortage { limit, count: 2, most }.to_string();
            let (few, many) = (line(FEW), line(many));
            assert!(
                few.contains("open descriptors, which is 1024") && !few.contains(number),
                "{few}"
            );
            assert!(many.contains(number) && !many.contains("descriptors"), "{many}");
        }
    }
}
