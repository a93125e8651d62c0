//! The soak of bulk: half of what goes through, for many minutes, both ways, with every byte compared at
//! both ends, and short connections beside it. It fails when nothing moves for a while, when
//! a byte differs, or when the daemon has more memory or descriptors at the end than it had
//! after a minute, under the same load.

use std::time::Duration;

use super::Result;
use super::cells::Mode;
use super::measure::{Found, PATIENCE, Times, daemon, only, report, serve};
use super::rig::{Place, Rig, Setup};
use super::usage::{Memory, descriptors};
use crate::report::{Soak, Stream};

/// Connections for bulk each way.
const STREAMS: u32 = 2;
/// Longer than that, nothing may stand still.
pub const GAP_MS: u32 = 2000;
/// When the daemon is looked at first, unless the soak is shorter than two of it.
const SETTLED: Duration = Duration::from_secs(60);
/// So long before the end it is looked at again.
pub const BEFORE_END: Duration = Duration::from_secs(3);
/// Growth that is none: a few pages, and a short connection that is just there.
const MEMORY_SLACK_KIB: f64 = 256.0;
const DESCRIPTOR_SLACK: usize = 8;
/// What memory goes up and down by beside floods: buffers of control sockets, which are touched as far as they are used.
const FLOOD_SLACK_KIB: f64 = 1024.0;
/// Sockets of the guest's namespace that are fetched together, for connections that pass the link by: between two
/// looks the daemon may have got some (`NAMESPACE_STOCK` of its limits).
const STOCK: usize = 32;

/// By how much a daemon may have grown between two looks.
#[derive(Clone, Copy)]
pub struct Slack {
    pss_kib: f64,
    pub descriptors: usize,
}

impl Slack {
    /// Everywhere but beside floods.
    pub fn of(mode: Mode) -> Self {
        let stock = if mode == Mode::Bypass { STOCK } else { 0 };
        Self { pss_kib: MEMORY_SLACK_KIB, descriptors: DESCRIPTOR_SLACK + stock }
    }

    /// Beside floods.
    pub fn of_floods(mode: Mode) -> Self {
        Self { pss_kib: FLOOD_SLACK_KIB, ..Self::of(mode) }
    }
}

/// The daemon at one time.
pub struct Look {
    pub pss_kib: f64,
    pub descriptors: usize,
}

impl Look {
    /// # Errors
    /// When the daemon has ended, or does not show what it has.
    pub fn at(rig: &Rig) -> Result<Self> {
        let daemon = daemon(rig)?;
        Ok(Self { pss_kib: Memory::read(daemon)?.pss_kib, descriptors: descriptors(daemon)? })
    }

    /// Whether `last` has no more than this and some slack.
    ///
    /// # Errors
    /// Says what there is more of.
    pub fn grown(&self, last: &Self, slack: Slack) -> Result<()> {
        self.memory_grown(last, slack)?;
        if last.descriptors > self.descriptors + slack.descriptors {
            let (first, last) = (self.descriptors, last.descriptors);
            return Err(format!("descriptors have grown from {first} to {last}").into());
        }
        Ok(())
    }

    /// As [`Self::grown`], where descriptors come and go.
    ///
    /// # Errors
    /// Says how much there is more.
    pub fn memory_grown(&self, last: &Self, slack: Slack) -> Result<()> {
        if last.pss_kib > self.pss_kib + slack.pss_kib {
            let (first, last) = (self.pss_kib, last.pss_kib);
            return Err(format!("memory has grown from {first} to {last} KiB").into());
        }
        Ok(())
    }
}

/// # Errors
/// What went wrong in it.
pub fn bulk(setup: &Setup<'_>, times: Times) -> Found {
    let inside = setup.cell.mode != Mode::Bypass;
    let (client, at) =
        if inside { (Place::Inside, Place::Outside) } else { (Place::Outside, Place::Inside) };
    let mut rig = Rig::start(setup)?;
    let _server = serve(&mut rig, at)?;
    let (to, streams) = (rig.target(at), format!("streams={STREAMS}"));
    let all = ["stream", &to, "way=both", &streams, "verify=1", "seconds=3", "warmup=1"];
    let job = rig.begin(client, &all)?;
    let most: Stream = report(&rig.finish(job, PATIENCE)?)?;
    let mbit = most.gbit_per_s * 1000.0 / 2.0 / f64::from(2 * STREAMS);
    let length = Duration::from_secs_f64(times.minutes * 60.0);
    let words = [
        format!("mbit={mbit:.1}"),
        format!("gap_ms={GAP_MS}"),
        format!("seconds={}", length.as_secs_f64()),
    ];
    let job = rig.begin(client, &["soak", &to, &streams, &words[0], &words[1], &words[2]])?;
    let settled = SETTLED.min(length / 2);
    std::thread::sleep(settled);
    let first = Look::at(&rig)?;
    std::thread::sleep(length.saturating_sub(settled + BEFORE_END));
    let last = Look::at(&rig)?;
    let found: Soak = report(&rig.finish(job, BEFORE_END + PATIENCE)?)?;
    first.grown(&last, Slack::of(setup.cell.mode))?;
    let gib = found.total_bytes as f64 / f64::from(1 << 30);
    Ok(only(
        found.gbit_per_s,
        &[
            ("most", most.gbit_per_s),
            ("gib", gib),
            ("longest_gap_ms", found.longest_gap_ms),
            ("short_connections", found.connections as f64),
            ("first_pss_kib", first.pss_kib),
            ("last_pss_kib", last.pss_kib),
            ("first_descriptors", first.descriptors as f64),
            ("last_descriptors", last.descriptors as f64),
        ],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_an_error() {
        let look = |pss_kib, descriptors| Look { pss_kib, descriptors };
        let grown = |last: Look, slack: Slack| look(1000.0, 20).grown(&last, slack).is_err();
        let (few, floods) = (Slack::of(Mode::Tap), Slack::of_floods(Mode::Tap));
        assert!(!grown(look(1100.0, 24), few));
        assert!(grown(look(1300.0, 20), few));
        assert!(grown(look(900.0, 40), few));
        assert!(!grown(look(1400.0, 20), floods));
        assert!(grown(look(2100.0, 20), floods));
        assert!(!grown(look(1000.0, 50), Slack::of_floods(Mode::Bypass)));
        assert!(grown(look(1000.0, 70), Slack::of_floods(Mode::Bypass)));
    }
}
