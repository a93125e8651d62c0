//! The load generator: `nbench server` at one end, a client command at the other.
//!
//! Everything is one thread and one level-triggered epoll loop for each process, with large
//! buffers and few system calls, so that the generator costs the same whatever it measures.

mod crr;
mod device;
mod echo;
mod hold;
mod hostile;
mod pattern;
mod proto;
mod relay;
mod ring;
mod rr;
mod server;
mod soak;
mod sock;
mod source;
mod start;
mod storm;
mod stream;
mod udp;
mod wan;

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::args::Args;

/// What a command comes to: nothing, or why there is no result.
pub type Outcome = Result<(), Box<dyn Error>>;

/// How long a client waits for what does not depend on the daemon's speed.
const PATIENCE: Duration = Duration::from_secs(10);

const USAGE: &str = "\
usage: nbench COMMAND ARGUMENT... [KEY=VALUE...]
  server ADDR:PORT             serve all clients, TCP and UDP; answers to datagrams come from ADDR
  stream ADDR:PORT             way=put|get|both streams=1 stalled=0 verify=0
  rr ADDR:PORT                 proto=tcp|udp flows=1 size=1 idle=0 lost_ms=200 (a datagram is lost)
  crr ADDR:PORT                concurrent=1 count=0 (with a number, until so many are over)
  udp ADDR:PORT                way=put|get size=1400 gso=1 rate=0 (datagrams a second, 0: all)
                               limit=PERCENT (search the best rate that loses no more)
  storm ADDR:PORT              rate=1000 questions a second, each from a port of its own
  soak ADDR:PORT               streams=2 mbit=100 (each, both ways) gap_ms=1000: a longer one is a
                               stall; every byte is compared at both ends
  hold ADDR:PORT               count=1000 (0: all that there can be) seconds=5; says `holding`
                               and their number in between
  hostile NEAR ADDR:PORT       rate=1000 frames a second by way of the neighbour NEAR, floods and broken
                               ones, sources=own|made-up seed=1
  start -- COMMAND WORD...     count=10 pid=FILE stale=FILE, before the --: time until the file is
                               there, or until the command ends; a stale file is removed before
  ring SOCKET ADDR:PORT        way=put|get size=1400: as udp, by a driver at a vhost-user socket
  relay SOCKET TAP             connect a new tap device to a qemu stream socket
  wan NEAR FAR NAMESPACE       rtt_ms=20 lost_ppm=0 seed=1: connect a new tun device here and one in
                               another network namespace by a long way
  segmentation on|off          whether this namespace's devices cut and join segments
Measuring commands take seconds=5 warmup=1, and print one line of JSON.";

/// Runs the command that the words name.
///
/// # Errors
/// Why there is no result: the arguments, or what happened on the way.
pub fn run(words: &[&str]) -> Outcome {
    match words {
        ["server", at] => server::serve(parse(at)?),
        ["stream", to, rest @ ..] => print(&stream::run(parse(to)?, rest)?),
        ["rr", to, rest @ ..] => print(&rr::run(parse(to)?, rest)?),
        ["crr", to, rest @ ..] => print(&crr::run(parse(to)?, rest)?),
        ["storm", to, rest @ ..] => print(&storm::run(parse(to)?, rest)?),
        ["udp", to, rest @ ..] => print(&udp::run(parse(to)?, rest)?),
        ["soak", to, rest @ ..] => print(&soak::run(parse(to)?, rest)?),
        ["hold", to, rest @ ..] => print(&hold::run(parse(to)?, rest)?),
        ["hostile", near, to, rest @ ..] => print(&hostile::run(parse(near)?, parse(to)?, rest)?),
        ["start", rest @ ..] => print(&start::run(rest)?),
        ["ring", socket, to, rest @ ..] => print(&ring::run(socket, parse(to)?, rest)?),
        ["relay", socket, tap] => relay::run(socket, tap),
        ["wan", near, far, namespace, rest @ ..] => wan::run(near, far, namespace, rest),
        ["segmentation", "on"] => Ok(device::set_segmentation(true)?),
        ["segmentation", "off"] => Ok(device::set_segmentation(false)?),
        _ => Err(USAGE.into()),
    }
}

fn print(report: &impl Serialize) -> Outcome {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}

fn parse<T: std::str::FromStr>(word: &str) -> Result<T, Box<dyn Error>> {
    word.parse().map_err(|_| format!("cannot read '{word}'").into())
}

/// Warm-up and measured time of a run.
#[derive(Clone, Copy, Debug)]
struct Window {
    begin: Instant,
    warmup: Duration,
    length: Duration,
}

impl Window {
    /// A window whose warm-up begins now, from `warmup` and `seconds`.
    fn begin(args: &Args<'_>) -> Result<Self, Box<dyn Error>> {
        let seconds = |key, otherwise| -> Result<Duration, Box<dyn Error>> {
            let value: f64 = args.value(key, otherwise)?;
            Ok(Duration::try_from_secs_f64(value)?)
        };
        Ok(Self::of(seconds("warmup", 1.0)?, seconds("seconds", 5.0)?))
    }

    fn of(warmup: Duration, length: Duration) -> Self {
        Self { begin: Instant::now(), warmup, length }
    }

    /// The same durations, beginning now.
    fn again(self) -> Self {
        Self { begin: Instant::now(), ..self }
    }

    fn end(&self) -> Instant {
        self.begin + self.warmup + self.length
    }

    /// Whether what ends at `now` counts.
    fn holds(&self, now: Instant) -> bool {
        now >= self.begin + self.warmup && now < self.end()
    }

    fn gbit_per_s(&self, bytes: u64) -> f64 {
        bytes as f64 * 8e-9 / self.length.as_secs_f64()
    }

    fn per_s(&self, count: u64) -> f64 {
        count as f64 / self.length.as_secs_f64()
    }
}

/// Raises the limit of descriptors as far as it goes.
fn raise_descriptor_limit() {
    raise_descriptor_limit_to(0);
}

/// The same, and to `count` where root may do that: guests begin with few.
fn raise_descriptor_limit_to(count: u64) {
    let limit = getrlimit(Resource::Nofile);
    let raise = |maximum| setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let lower = limit.maximum.is_some_and(|maximum| maximum < count);
    if lower && raise(Some(count)).is_ok() {
        return;
    }
    // Without it fewer connections are made, and that is reported where it happens.
    let _ = raise(limit.maximum);
}

/// The wildcard address of the family of `to`.
fn any_address(to: SocketAddr) -> SocketAddr {
    match to {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0_u16; 8], 0)),
    }
}
