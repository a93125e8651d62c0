//! `nettool`: both ends of the traffic that guest tests and the demo send.
//!
//! One static binary runs inside guests and outside them. A server answers the
//! small line protocol of [`tcp`] and echoes datagrams; every client command makes
//! one promise, prints one line about it and exits 0 if it was kept, 1 if not.
//! The tool never decides what is right for the program under test beyond that:
//! the scripts under `tests/guests` compare the lines.

mod ask;
mod carry;
mod crowd;
mod dhcpv6;
mod dns;
mod group;
mod hostile;
mod http;
mod pattern;
mod pulse;
mod punch;
mod queues;
mod serve;
mod storm;
mod tcp;
mod tftp;
mod udp;

use std::error::Error;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

/// What a command says: one line, or why its promise was not kept.
pub type Outcome = Result<String, Box<dyn Error>>;

const USAGE: &str = "\
usage: nettool COMMAND ARGUMENT...
  serve ADDR:PORT...            answer TCP requests and echo UDP
  dns ADDR:PORT NAME V4 V6      answer A and AAAA questions for NAME
  http ADDR:PORT FILE           serve FILE by HTTP, whatever it is called
  dhcpv6 INTERFACE              ask for an address, print it and the DNS servers
  get ADDR:PORT BYTES SEED      receive a pattern
  put ADDR:PORT BYTES SEED      send a pattern, half-close, wait for the verdict
  slow ADDR:PORT BYTES SEED     as put, the server reads slowly
  late ADDR:PORT BYTES SEED     the server half-closes first, then as put
  short ADDR:PORT COUNT         COUNT connections, each an echo of 16 bytes
  gather ADDR:PORT COUNT        take COUNT connections at a time, echo 16 bytes on each
  crowd COUNT ADDR:PORT...      COUNT connections at a time, held until standard input ends
  carry SECONDS|FILE COUNT KINDS ADDR:PORT...  COUNT connections of these kinds, or all, for so long or until there is FILE; compare all
  connect ADDR:PORT             say what becomes of a TCP connection
  udp ADDR:PORT MAX             echo datagrams at every edge from 1 to MAX bytes
  udp-error ADDR:PORT           say which error a datagram provokes
  storm ADDR:PORT RATE SECONDS  ask RATE questions a second, each from a port of its own; all must be echoed
  tftp ADDR:PORT BYTES SEED     serve a pattern by TFTP, each transfer from a port of its own
  hear ADDR:PORT INTERFACE      hear what is sent to a group or all of a network; answer its sender
  call ADDR:PORT INTERFACE TEXT [FROM]  send to a group or all of a network, until answered
  ask PATH TEXT                 ask on a UNIX socket, say what is answered
  introduce ADDR:PORT THIRD:PORT  say who one is, and have a third party write there
  punch PORT ADDR:PORT          ask that from PORT, and say who the third party is
  hostile SECONDS COUNT PATH... COUNT clients at a time at each control socket, none of them well
  queues INTERFACE [PAIRS]      have the driver use PAIRS queue pairs; say what each has moved";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Outcome {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve", addresses @ ..] if !addresses.is_empty() => serve::serve(&parse_all(addresses)?),
        ["dns", at, name, v4, v6] => dns::serve(parse(at)?, name, parse(v4)?, parse(v6)?),
        ["http", at, file] => http::serve(parse(at)?, file),
        ["dhcpv6", interface] => dhcpv6::lease(interface),
        [command @ ("get" | "put" | "slow" | "late"), to, bytes, seed] => {
            tcp::transfer(command, parse(to)?, parse(bytes)?, parse(seed)?)
        }
        ["short", to, count] => tcp::short(parse(to)?, parse(count)?),
        ["gather", at, count] => crowd::gather(parse(at)?, parse(count)?),
        ["crowd", count, to @ ..] if !to.is_empty() => crowd::crowd(parse(count)?, &parse_all(to)?),
        ["carry", end, count, kinds, to @ ..] if !to.is_empty() => {
            let kinds = carry::kinds(kinds).map_err(|failure| failure as Box<dyn Error>)?;
            carry::carry(&carry::End::parse(end), parse(count)?, &kinds, &parse_all(to)?)
        }
        ["connect", to] => Ok(tcp::connect(parse(to)?)),
        ["udp", to, max] => udp::edges(parse(to)?, parse(max)?),
        ["udp-error", to] => udp::error(parse(to)?),
        ["storm", to, rate, seconds] => storm::storm(parse(to)?, parse(rate)?, parse(seconds)?),
        ["tftp", at, bytes, seed] => tftp::serve(parse(at)?, parse(bytes)?, parse(seed)?),
        ["hear", at, interface] => group::hear(parse(at)?, interface),
        ["call", to, interface, text] => group::call(None, parse(to)?, interface, text),
        ["call", to, interface, text, from] => {
            group::call(Some(parse(from)?), parse(to)?, interface, text)
        }
        ["ask", path, question] => ask::ask(path, question),
        ["introduce", at, third] => punch::introduce(parse(at)?, parse(third)?),
        ["punch", port, to] => punch::punch(parse(port)?, parse(to)?),
        ["hostile", seconds, count, paths @ ..] if !paths.is_empty() => {
            hostile::clients(Duration::from_secs(parse(seconds)?), parse(count)?, paths)
        }
        ["queues", interface] => queues::queues(interface, None),
        ["queues", interface, pairs] => queues::queues(interface, Some(parse(pairs)?)),
        _ => Err(USAGE.into()),
    }
}

fn parse<T: FromStr>(word: &str) -> Result<T, Box<dyn Error>> {
    word.parse().map_err(|_| format!("cannot read '{word}'").into())
}

fn parse_all(words: &[&str]) -> Result<Vec<SocketAddr>, Box<dyn Error>> {
    words.iter().map(|word| parse(word)).collect()
}
