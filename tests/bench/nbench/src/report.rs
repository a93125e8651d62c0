//! What each command of the load generator prints: one line of JSON.
//!
//! *Window* is the measured time, after the warm-up. Totals include the warm-up; the
//! daemon's processor time, which is read around the whole command, is divided by them.

use serde::{Deserialize, Serialize};

/// Quantiles of a latency, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Median.
    pub p50_us: f64,
    /// 90 % are not longer.
    pub p90_us: f64,
    /// 99 % are not longer.
    pub p99_us: f64,
    /// 99.9 % are not longer.
    pub p999_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// `nbench stream`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// Gigabits of payload received in each second of the window.
    pub gbit_per_s: f64,
    /// The same of each connection.
    pub each_gbit_per_s: Vec<f64>,
    /// Bytes received in all.
    pub total_bytes: u64,
}

/// `nbench rr` and `nbench crr`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Transactions {
    /// Transactions in each second of the window.
    pub per_s: f64,
    /// How long they took.
    pub latency: Latency,
    /// Transactions in all.
    pub total: u64,
    /// Transactions that got no answer.
    pub lost: u64,
}

/// `nbench udp`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Datagrams {
    /// Gigabits of payload received in each second of the window.
    pub gbit_per_s: f64,
    /// Datagrams received in each second of the window.
    pub per_s: f64,
    /// Part of the datagrams sent that did not arrive, 0 to 1.
    pub loss: f64,
    /// Bytes of payload received in all.
    pub total_bytes: u64,
}

/// `nbench hold`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Connections that were made.
    pub connections: u64,
    /// How many of them still echoed one byte at the end.
    pub answered: u64,
    /// How long it took to make them, in seconds.
    pub ramp_s: f64,
    /// Why there are not more, if as many as possible were wanted.
    pub ended: String,
}

/// `nbench soak`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Soak {
    /// Gigabits of payload in each second, both ways together.
    pub gbit_per_s: f64,
    /// Bytes carried in all.
    pub total_bytes: u64,
    /// The longest that one call waited, in milliseconds.
    pub longest_gap_ms: f64,
    /// Short connections that came and went.
    pub connections: u64,
}

/// `nbench hostile`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// Frames that a device has taken.
    pub frames: u64,
    /// Frames that it has not.
    pub refused: u64,
}

/// `nbench start`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Starts {
    /// How long each took.
    pub latency: Latency,
}
