//! Soaks beside that of bulk (`soak`): a great many short connections, many that do nothing for a long time, and good traffic
//! beside hostile traffic. Each fails when its promise is broken once, or when the daemon has more than it had.

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Result;
use super::cells::Mode;
use super::measure::{Found, PATIENCE, Times, daemon, only, report, serve};
use super::process::Task;
use super::rig::{Job, Place, Rig, Setup};
use super::soak::{BEFORE_END, GAP_MS, Look, Slack};
use super::usage::Usage;
use super::world::{self, GATEWAY4, HOST, HOST4};
use crate::report::{Held, Sent, Soak, Stream, Transactions};

/// Short connections, if nothing else is said, and how many are under way at once from each end.
const CONNECTIONS: u64 = 1_000_000;
const CONCURRENT: u32 = 8;
/// Of the slowest guest.
const SLOWEST_PER_S: f64 = 200.0;
/// The part of them that comes before the daemon is looked at first: tables have grown then.
const FIRST_PART: u64 = 10;

/// Idle connections, if nothing else is said, and what else there is to open.
const IDLE: u64 = 20_000;
const SPARE_DESCRIPTORS: u64 = 1000;

/// How many of them are made in a second, and answer, where others have nearly all of the processors: one by one, each of
/// which the generator waits for.
const RAMP_PER_S: f64 = 20.0;

/// How many descriptors the program that has the most of them needs for so many connections: the daemon has both ends of
/// what passes the link by.
fn descriptors_for(count: u64, mode: Mode) -> u64 {
    let each = if mode == Mode::Bypass { 2 } else { 1 };
    each * count + SPARE_DESCRIPTORS
}

/// Hostile frames a second, at each end.
const FLOOD_PER_S: u32 = 1000;
/// Hostile clients of each control socket at once. They do what they can, and get little of the processors: what they take
/// from the daemon by being many is the machine's time, which is not what is looked at.
const BAD_CLIENTS: u32 = 16;
/// When floods have as many flows as they ever have: the longest time that one of datagrams is kept in silence is two
/// minutes.
const FLOODED: Duration = Duration::from_secs(180);
/// How long what is left of floods may stay.
const LEFT_FOR: Duration = Duration::from_secs(200);
/// How often streams are looked at.
const LOOKED_AT: Duration = Duration::from_secs(1);
/// Without an answer for so long a datagram is lost.
const LOST_MS: u32 = 2000;
const NETTOOL: &str = "/run/bin/nettool";

/// Where clients and servers are: in the guest, but for what passes the link by.
fn ends(setup: &Setup<'_>) -> (Place, Place) {
    if setup.cell.mode == Mode::Bypass {
        (Place::Outside, Place::Inside)
    } else {
        (Place::Inside, Place::Outside)
    }
}

fn begin(rig: &mut Rig, at: Place, words: &[String]) -> Result<Job> {
    rig.begin(at, &words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Connect, request, response, close, by both ends at once.
///
/// # Errors
/// When one of them does not get its answer, and when something of them is left.
pub fn connections(setup: &Setup<'_>, times: Times) -> Found {
    let count = times.count.unwrap_or(CONNECTIONS);
    let mut rig = Rig::start(setup)?;
    let unused = Look::at(&rig)?;
    let _servers = [serve(&mut rig, Place::Outside)?, serve(&mut rig, Place::Inside)?];
    make(&mut rig, count / FIRST_PART)?;
    let first = Look::at(&rig)?;
    let begin = Instant::now();
    let longest_us = make(&mut rig, count - count / FIRST_PART)?;
    let took = begin.elapsed();
    let slack = Slack::of(setup.cell.mode);
    given_back(&rig, &unused, slack)?;
    let last = Look::at(&rig)?;
    first.grown(&last, slack)?;
    let per_s = (count - count / FIRST_PART) as f64 / took.as_secs_f64();
    Ok(only(
        per_s,
        &[
            ("connections", count as f64),
            ("longest_ms", longest_us / 1e3),
            ("first_pss_kib", first.pss_kib),
            ("last_pss_kib", last.pss_kib),
            ("unused_descriptors", unused.descriptors as f64),
            ("last_descriptors", last.descriptors as f64),
        ],
    ))
}

/// So many connections, half of them from each end. The longest took so many microseconds.
fn make(rig: &mut Rig, count: u64) -> Result<f64> {
    let halves = [(Place::Inside, count.div_ceil(2)), (Place::Outside, count / 2)];
    let within = PATIENCE + Duration::from_secs_f64(count as f64 / SLOWEST_PER_S);
    let mut jobs = Vec::new();
    for (client, count) in halves.into_iter().filter(|(_, count)| *count > 0) {
        let server = if client == Place::Inside { Place::Outside } else { Place::Inside };
        let words = ["crr".to_owned(), rig.target(server), format!("concurrent={CONCURRENT}")];
        let words = [&words[..], &[format!("count={count}")]].concat();
        jobs.push((client, count, begin(rig, client, &words)?));
    }
    let mut longest_us = 0.0_f64;
    for (client, count, job) in jobs {
        let found: Transactions = report(&rig.finish(job, within)?)?;
        if found.lost > 0 || found.total != count {
            let (total, lost) = (found.total, found.lost);
            return Err(format!(
                "{client:?}: of {count} connections {total} were good and {lost} were not: see the log"
            )
            .into());
        }
        longest_us = longest_us.max(found.latency.max_us);
    }
    Ok(longest_us)
}

/// Waits until the daemon has as few descriptors as before.
fn given_back(rig: &Rig, before: &Look, slack: Slack) -> Result<Duration> {
    let begin = Instant::now();
    loop {
        let now = Look::at(rig)?;
        if now.descriptors <= before.descriptors + slack.descriptors {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() > LEFT_FOR {
            let (before, now) = (before.descriptors, now.descriptors);
            return Err(format!("of {now} descriptors only {before} were there before").into());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Makes so many connections, does nothing, and looks whether all of them are still good.
///
/// # Errors
/// When one does not answer in the end, or the daemon has grown meanwhile.
pub fn idle(setup: &Setup<'_>, times: Times) -> Found {
    let count = times.count.unwrap_or(IDLE);
    allow_descriptors(descriptors_for(count, setup.cell.mode))?;
    let length = Duration::from_secs_f64(times.minutes * 60.0);
    let (client, at) = ends(setup);
    let mut rig = Rig::start(setup)?;
    let _server = serve(&mut rig, at)?;
    let words =
        [rig.target(at), format!("count={count}"), format!("seconds={}", length.as_secs_f64())];
    let ramp = PATIENCE + Duration::from_secs_f64(count as f64 / RAMP_PER_S);
    let hold = ["hold", &words[0], &words[1], &words[2]];
    let holder = rig.begin_within(client, &hold, "holding", ramp)?;
    let (first, before) = (Look::at(&rig)?, Usage::read(rig.daemon())?);
    std::thread::sleep(length.saturating_sub(BEFORE_END));
    let (last, used) = (Look::at(&rig)?, Usage::read(rig.daemon())?.since(&before));
    let held: Held = report(&rig.finish(holder, BEFORE_END + PATIENCE + ramp)?)?;
    if held.answered < count {
        return Err(format!("only {} of {count} connections answered", held.answered).into());
    }
    first.grown(&last, Slack::of(setup.cell.mode))?;
    let seconds = length.saturating_sub(BEFORE_END).as_secs_f64();
    Ok(only(
        held.answered as f64,
        &[
            ("ramp_s", held.ramp_s),
            ("daemon_percent", if seconds > 0.0 { used.daemon_s / seconds * 100.0 } else { 0.0 }),
            ("first_pss_kib", first.pss_kib),
            ("last_pss_kib", last.pss_kib),
            ("first_descriptors", first.descriptors as f64),
            ("last_descriptors", last.descriptors as f64),
        ],
    ))
}

/// That all processes which are started from here on may open so many.
fn allow_descriptors(count: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_none_or(|maximum| maximum >= count) {
        return Ok(());
    }
    let raised = Rlimit { current: Some(count), maximum: Some(count) };
    setrlimit(Resource::Nofile, raised).map_err(|error| {
        let limit = limit.maximum.unwrap_or_default();
        format!("{count} descriptors are needed and {limit} allowed (ulimit -Hn), which only root of the machine \
                 may change ({error}): raise it, or ask for fewer with --count")
            .into()
    })
}

/// Those who mean well, and those who do not.
struct Crowd {
    good: Vec<(&'static str, Job)>,
    datagrams: Job,
    floods: Vec<Job>,
    clients: Task,
}

/// Streams, short connections and questions of both ends, beside floods of both ends and bad clients of control sockets.
///
/// # Errors
/// When something good stalls, breaks or is lost, or when the daemon grows.
pub fn hostile(setup: &Setup<'_>, times: Times) -> Found {
    let length = Duration::from_secs_f64(times.minutes * 60.0);
    let mut rig = Rig::start(setup)?;
    let unused = Look::at(&rig)?;
    let _servers = [serve(&mut rig, Place::Outside)?, serve(&mut rig, Place::Inside)?];
    let to = rig.target(Place::Outside);
    let job = rig.begin(Place::Inside, &["stream", &to, "way=both", "seconds=3", "warmup=1"])?;
    let most: Stream = report(&rig.finish(job, PATIENCE)?)?;
    // A quarter of it, by two connections of each end.
    let mbit = most.gbit_per_s * 1000.0 / 4.0 / 4.0;
    let mut crowd = Crowd::begin(&mut rig, setup, mbit, length)?;
    let (begin, before) = (Instant::now(), Usage::read(rig.daemon())?);
    let settled = FLOODED.min(length / 2);
    crowd.wait(settled);
    let first = Look::at(&rig)?;
    crowd.wait(length.saturating_sub(settled + BEFORE_END));
    let last = Look::at(&rig)?;
    // Of a daemon that gets no processor for long this says nothing.
    let waited_s = Usage::read(rig.daemon())?.since(&before).waited_s;
    let waited = waited_s / begin.elapsed().as_secs_f64() * 100.0;
    let mut more = crowd.finish(&mut rig).map_err(|error| {
        format!("{error}; the daemon has waited {waited:.0} % of the time for a processor")
    })?;
    // Flows of floods come and go: what is left of them is looked at in the end. Until then their tables grow.
    let slack = Slack::of_floods(setup.cell.mode);
    if settled == FLOODED {
        first.memory_grown(&last, slack)?;
    }
    let left_for = given_back(&rig, &unused, slack)?;
    more.extend([
        ("most", most.gbit_per_s),
        ("daemon_waited_percent", waited),
        ("first_pss_kib", first.pss_kib),
        ("last_pss_kib", last.pss_kib),
        ("unused_descriptors", unused.descriptors as f64),
        ("last_descriptors", last.descriptors as f64),
        ("given_back_s", left_for.as_secs_f64()),
    ]);
    let carried =
        more.iter().find(|(name, _)| *name == "gbit_per_s").map_or(0.0, |(_, rate)| *rate);
    Ok(only(carried, &more))
}

impl Crowd {
    fn begin(rig: &mut Rig, setup: &Setup<'_>, mbit: f64, length: Duration) -> Result<Self> {
        let (out, inwards) = (rig.target(Place::Outside), rig.target(Place::Inside));
        let seconds = format!("seconds={}", length.as_secs_f64());
        let words = |text: String| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let soak = |to: &str| {
            words(format!("soak {to} streams=1 mbit={mbit:.1} gap_ms={GAP_MS} {seconds}"))
        };
        let rate = format!("rate={FLOOD_PER_S}");
        let good = vec![
            ("streams from the guest", begin(rig, Place::Inside, &soak(&out))?),
            ("streams to the guest", begin(rig, Place::Outside, &soak(&inwards))?),
        ];
        let asked =
            words(format!("rr {out} proto=udp flows=4 lost_ms={LOST_MS} {seconds} warmup=0"));
        let datagrams = begin(rig, Place::Inside, &asked)?;
        let flood = words(format!("hostile {GATEWAY4} {out} {rate} {seconds} seed=1"));
        let made_up =
            words(format!("hostile {HOST4} {inwards} {rate} {seconds} seed=2 sources=made-up"));
        let floods =
            vec![begin(rig, Place::Inside, &flood)?, begin(rig, Place::Outside, &made_up)?];
        let mut command = world::in_net(HOST, "nice");
        let whole = length.as_secs().max(1).to_string();
        command.args(["-n", "19", NETTOOL, "hostile", &whole, &BAD_CLIENTS.to_string()]);
        command.args(setup.control_sockets().map(|(_, path)| path));
        let clients = Task::start("bad clients", command, &setup.log)?;
        Ok(Self { good, datagrams, floods, clients })
    }

    /// Lets them go on for so long, or until streams have ended, which is too early.
    fn wait(&mut self, length: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < length && !self.good.iter_mut().any(|(_, job)| job.has_ended()) {
            std::thread::sleep(LOOKED_AT.min(length));
        }
    }

    /// What has come of them all; the good have lost nothing.
    fn finish(mut self, rig: &mut Rig) -> Result<Vec<(&'static str, f64)>> {
        let within = BEFORE_END + PATIENCE;
        let (mut gbit_per_s, mut connections, mut gap_ms) = (0.0, 0, 0.0_f64);
        // Those that have ended early say why.
        if let Some(ended) = self.good.iter_mut().position(|(_, job)| job.has_ended()) {
            self.good.swap(0, ended);
        }
        for (what, job) in self.good {
            let said = rig.finish(job, within).map_err(|error| format!("{what}: {error}"))?;
            let found: Soak = report(&said)?;
            gbit_per_s += found.gbit_per_s;
            connections += found.connections;
            gap_ms = gap_ms.max(found.longest_gap_ms);
        }
        let asked: Transactions = report(&rig.finish(self.datagrams, within)?)?;
        if asked.lost > 0 || asked.total == 0 {
            let (lost, total) = (asked.lost, asked.total);
            return Err(format!("{lost} datagrams were lost, {total} answered").into());
        }
        let mut frames = 0;
        for job in self.floods {
            let sent: Sent = report(&rig.finish(job, within)?)?;
            frames += sent.frames;
        }
        self.clients.result(within)?;
        daemon(rig)?;
        Ok(vec![
            ("gbit_per_s", gbit_per_s),
            ("short_connections", connections as f64),
            ("longest_gap_ms", gap_ms),
            ("datagrams", asked.total as f64),
            ("datagram_max_ms", asked.latency.max_us / 1e3),
            ("hostile_frames", frames as f64),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_the_link_by_needs_a_descriptor_for_each_end() {
        assert_eq!(descriptors_for(20_000, Mode::Tap), 21_000);
        assert_eq!(descriptors_for(20_000, Mode::Bypass), 41_000);
    }
}
