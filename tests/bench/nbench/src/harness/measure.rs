//! One sample: what is started, what runs at which end, and what is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use super::cells::{Cell, Condition, Load, Mode, Proto, Soak, Way, Work};
use super::peers::Program;
use super::process::Task;
use super::results::Sample;
use super::rig::{Job, Place, Rig, Setup};
use super::stats::jain;
use super::usage::{Memory, Usage};
use super::world::{self, NBENCH};
use super::{Result, endurance, hold, soak};
use crate::report::{Datagrams, Starts, Stream, Transactions};

/// Bytes of a GiB.
const GIB: f64 = (1 << 30) as f64;
/// What a client may take beside its window.
pub const PATIENCE: Duration = Duration::from_secs(45);

/// How long things are measured.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Seconds measured.
    pub seconds: f64,
    /// Seconds before that.
    pub warmup: f64,
    /// Starts of a program.
    pub starts: u32,
    /// Minutes of a soak.
    pub minutes: f64,
    /// Connections of a soak, if it is not as many as the cell has by itself.
    pub count: Option<u64>,
}

impl Times {
    /// What a cell asks for: far away, everything takes longer, first of all finding out how much
    /// the path can take, unless that is what is measured.
    pub fn of(self, cell: &Cell) -> Self {
        let (seconds, warmup) = match cell.condition {
            Condition::Far { begins: true, .. } => (FIRST_SECONDS, 0.0),
            Condition::Far { .. } => (self.seconds * FAR_FACTOR, self.warmup * FAR_FACTOR),
            Condition::Usual | Condition::NoOffloads => (self.seconds, self.warmup),
        };
        Self { seconds, warmup, ..self }
    }

    /// Warm-up and measured time.
    pub fn all_s(self) -> f64 {
        self.seconds + self.warmup
    }
}

/// The begin of a connection.
const FIRST_SECONDS: f64 = 1.0;

/// How much longer it is measured over a long way.
const FAR_FACTOR: f64 = 4.0;

/// Values of a sample; peer and block are known to the caller.
pub type Found = Result<Sample>;

/// Measures what the cell of `setup` says.
///
/// # Errors
/// Whatever kept it from giving a number.
pub fn measure(setup: &Setup<'_>, times: Times) -> Found {
    let times = times.of(setup.cell);
    match setup.cell.work {
        Work::Load(load) => traffic(setup, times, load),
        Work::Memory { connections: 0 } => memory(&Rig::start(setup)?),
        Work::Memory { connections } => hold::memory_each(setup, connections),
        Work::Most => hold::most(setup),
        Work::Soak(Soak::Bulk) => soak::bulk(setup, times),
        Work::Soak(Soak::Connections) => endurance::connections(setup, times),
        Work::Soak(Soak::Idle) => endurance::idle(setup, times),
        Work::Soak(Soak::Hostile) => endurance::hostile(setup, times),
        Work::Ready { ports } => ready(setup, times, ports),
        Work::Command => command(setup, times),
        Work::Idle { .. } => idle(&Rig::start(setup)?, times),
    }
}

/// A client, its server, and how the client is told what to do.
struct Roles {
    client: Place,
    words: Vec<String>,
}

impl Roles {
    /// Bulk is made by the guest, whichever way it goes, so that every peer can do it; past
    /// the tap device, and for connections, by the end that the name says.
    fn of(mode: Mode, load: Load) -> Self {
        let by_guest = |way| mode != Mode::Bypass || way != Way::In;
        let place = |inside| if inside { Place::Inside } else { Place::Outside };
        let way_word = |way| match way {
            Way::In if mode != Mode::Bypass => "way=get",
            Way::Both => "way=both",
            Way::In | Way::Out => "way=put",
        };
        let (inside, words) = match load {
            Load::Stream { way, streams, stalled } => (
                by_guest(way),
                format!("stream {} streams={streams} stalled={stalled}", way_word(way)),
            ),
            Load::Udp { way, size, gso, limit } => {
                let limit = if limit { " limit=0.1" } else { "" };
                (by_guest(way), format!("udp {} size={size} gso={gso}{limit}", way_word(way)))
            }
            Load::Rr { proto, flows, idle, .. } => {
                let proto = if proto == Proto::Tcp { "tcp" } else { "udp" };
                (mode != Mode::Bypass, format!("rr proto={proto} flows={flows} idle={idle}"))
            }
            Load::Crr { way, concurrent } => {
                (way == Way::Out, format!("crr concurrent={concurrent}"))
            }
            Load::Storm { rate } => (true, format!("storm rate={rate}")),
            Load::Iperf { way } => {
                let reverse = if by_guest(way) && way == Way::In { " --reverse" } else { "" };
                (by_guest(way), format!("iperf3{reverse}"))
            }
        };
        Self { client: place(inside), words: words.split(' ').map(str::to_owned).collect() }
    }

    fn server(&self) -> Place {
        if self.client == Place::Inside { Place::Outside } else { Place::Inside }
    }

    /// The whole command line of `words`, of which the first is the command.
    fn line(&self, rig: &Rig, words: &[String], times: Times) -> Vec<String> {
        let mut line = vec![words[0].clone(), rig.target(self.server())];
        line.extend(words[1..].iter().cloned());
        line.extend([format!("seconds={}", times.seconds), format!("warmup={}", times.warmup)]);
        line
    }
}

pub fn serve(rig: &mut Rig, at: Place) -> Result<Job> {
    let listening = rig.listening(at);
    rig.begin_until(at, &["server", &listening], "ready")
}

fn begin(rig: &mut Rig, at: Place, line: &[String]) -> Result<Job> {
    rig.begin(at, &line.iter().map(String::as_str).collect::<Vec<_>>())
}

fn traffic(setup: &Setup<'_>, times: Times, load: Load) -> Found {
    let roles = Roles::of(setup.cell.mode, load);
    let mut rig = Rig::start(setup)?;
    if let Load::Iperf { .. } = load {
        return iperf(&mut rig, &roles, times);
    }
    let server = serve(&mut rig, roles.server())?;
    let within = PATIENCE + Duration::from_secs_f64(times.seconds + times.warmup);
    let beside = if let Load::Rr { beside, .. } = load { beside } else { None };
    let burden = beside.map(|way| burden(&mut rig, &roles, way, times)).transpose()?;
    let before = Usage::read(rig.daemon())?;
    let line = roles.line(&rig, &roles.words, times);
    let client = begin(&mut rig, roles.client, &line)?;
    let said = rig.finish(client, within)?;
    let used = Usage::read(rig.daemon())?.since(&before);
    let burden = burden.map(|burden| rig.finish(burden, within)).transpose()?;
    drop(server);
    let mut sample = read_report(load, &said, &used)?;
    if let Some(said) = burden {
        // It goes on for a moment alone, so that this is too much where that makes a difference.
        let found: Stream = report(&said)?;
        sample.more.insert("beside_gbit_per_s".to_owned(), found.gbit_per_s);
    }
    match rig.daemon() {
        Some(daemon) => {
            sample.more.insert("daemon_pss_kib".to_owned(), Memory::read(daemon)?.pss_kib);
        }
        None => sample.cpu = None,
    }
    Ok(sample)
}

/// A stream beside the measured load, which lasts a little longer on both sides.
fn burden(rig: &mut Rig, roles: &Roles, way: Way, times: Times) -> Result<Job> {
    let gets = (way == Way::In) == (roles.client == Place::Inside);
    let words = ["stream".to_owned(), if gets { "way=get" } else { "way=put" }.to_owned()];
    let longer = Times { seconds: times.seconds + 1.5, ..times };
    let line = roles.line(rig, &words, longer);
    let job = begin(rig, roles.client, &line)?;
    std::thread::sleep(Duration::from_millis(500));
    Ok(job)
}

pub fn report<T: DeserializeOwned>(said: &str) -> Result<T> {
    let last = said.lines().last().unwrap_or_default();
    serde_json::from_str(last).map_err(|error| format!("no report: {error}: {said}").into())
}

fn read_report(load: Load, said: &str, used: &Usage) -> Found {
    match load {
        Load::Stream { .. } => {
            let found: Stream = report(said)?;
            let more = [("jain".to_owned(), jain(&found.each_gbit_per_s))];
            Ok(per(found.gbit_per_s, used, found.total_bytes as f64 / GIB, BTreeMap::from(more)))
        }
        Load::Udp { .. } => {
            let found: Datagrams = report(said)?;
            let more = [("loss".to_owned(), found.loss), ("per_s".to_owned(), found.per_s)];
            Ok(per(found.gbit_per_s, used, found.total_bytes as f64 / GIB, BTreeMap::from(more)))
        }
        Load::Rr { .. } | Load::Crr { .. } | Load::Storm { .. } | Load::Iperf { .. } => {
            let found: Transactions = report(said)?;
            let latency = found.latency;
            let is_rr = matches!(load, Load::Rr { .. });
            let more = [
                ("per_s", found.per_s),
                ("p50_us", latency.p50_us),
                ("p99_us", latency.p99_us),
                ("p999_us", latency.p999_us),
                ("lost", found.lost as f64),
            ];
            let value = if is_rr { latency.p50_us } else { found.per_s };
            if found.per_s <= 0.0 {
                return Err("not one transaction".into());
            }
            let more = more.map(|(name, value)| (name.to_owned(), value));
            Ok(per(value, used, found.total as f64 / 1e6, BTreeMap::from(more)))
        }
    }
}

/// A sample with processor times for each of `units`.
fn per(value: f64, used: &Usage, units: f64, more: BTreeMap<String, f64>) -> Sample {
    let each = |seconds: f64| (units > 0.0).then(|| seconds / units);
    Sample {
        value: Some(value),
        cpu: each(used.daemon_s),
        system_cpu: each(used.system_s),
        more,
        ..Sample::default()
    }
}

pub fn only(value: f64, more: &[(&str, f64)]) -> Sample {
    let more = more.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
    Sample { value: Some(value), more, ..Sample::default() }
}

fn iperf(rig: &mut Rig, roles: &Roles, times: Times) -> Found {
    let (address, port) = (rig.address(roles.server()), rig.port(roles.server()).to_string());
    let server = ["iperf3", "--server", "--one-off", "--forceflush", "--port", &port];
    let server = rig.begin_until(roles.server(), &server, "Server listening")?;
    let seconds = times.seconds.ceil().to_string();
    let warmup = times.warmup.ceil().to_string();
    let mut line = vec!["iperf3", "--json", "--client", address, "--port", &port];
    line.extend(["--time", &seconds, "--omit", &warmup]);
    line.extend(roles.words[1..].iter().map(String::as_str));
    let client = rig.begin(roles.client, &line)?;
    let said =
        rig.finish(client, PATIENCE + Duration::from_secs_f64(times.seconds + times.warmup))?;
    drop(server);
    let found: serde_json::Value = serde_json::from_str(&said)?;
    let rate =
        found.pointer("/end/sum_received/bits_per_second").and_then(serde_json::Value::as_f64);
    Ok(only(rate.ok_or("iperf3 gave no rate")? * 1e-9, &[]))
}

pub fn daemon(rig: &Rig) -> Result<u32> {
    rig.daemon().ok_or_else(|| "there is no daemon".into())
}

/// How long it takes until what only starting has needed is given back, and some.
pub const STARTED: Duration = Duration::from_millis(1500);

fn memory(rig: &Rig) -> Found {
    std::thread::sleep(STARTED);
    let found = Memory::read(daemon(rig)?)?;
    Ok(only(found.pss_kib, &[("uss_kib", found.uss_kib)]))
}

fn idle(rig: &Rig, times: Times) -> Found {
    std::thread::sleep(Duration::from_secs(1));
    let (before, begin) = (Usage::read(rig.daemon())?, Instant::now());
    std::thread::sleep(Duration::from_secs_f64(times.seconds));
    let used = Usage::read(Some(daemon(rig)?))?.since(&before);
    Ok(only(used.daemon_s / begin.elapsed().as_secs_f64() * 100.0, &[]))
}

fn ready(setup: &Setup<'_>, times: Times, ports: u32) -> Found {
    let (pid, socket) = (setup.path("pid"), setup.path("socket"));
    let first = u32::from(setup.port);
    let range =
        if ports == 0 { "none".to_owned() } else { format!("{first}-{}", first + ports - 1) };
    let files = [format!("pid={pid}"), format!("stale={socket}")];
    let line = ["passt", "-f", "-q", "-P", &pid, "-s", &socket, "-t", &range, "-u", &range];
    starts(setup, times, &files, &line)
}

fn command(setup: &Setup<'_>, times: Times) -> Found {
    starts(setup, times, &[], &["pasta", "-q", "--config-net", "--", "true"])
}

fn starts(setup: &Setup<'_>, times: Times, files: &[String], line: &[&str]) -> Found {
    let Program::Passt(folder) = &setup.peer.program else {
        return Err("cannot be started".into());
    };
    let mut starter = world::ordinary(NBENCH);
    starter.args(["start", &format!("count={}", times.starts)]).args(files).arg("--");
    starter.arg(folder.join(line[0])).args(&line[1..]);
    let log: &File = &setup.log;
    let found: Starts = report(&Task::start("start", starter, log)?.result(PATIENCE)?)?;
    let latency = found.latency;
    let more = [("p90_ms", latency.p90_us / 1e3), ("max_ms", latency.max_us / 1e3)];
    Ok(only(latency.p50_us / 1e3, &more))
}
