//! The one retransmission timer of a connection: RFC 6298 without the measurement (the guest is
//! one link away, so the timeout is the minimum of section 2.4), and RFC 9293, section 3.8.6.1
//! for the probes of a closed window.

use std::time::Duration;

use crate::time::Timestamp;

use super::limits::{DATA_RETRIES, RTO_AFTER_SYN_RETRY, RTO_INITIAL, SYN_RETRIES_MAX, WINDOW_MAX};

/// What the host's kernel uses for its own connections, read once at start, and what we add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpConfig {
    /// `net.ipv4.tcp_syn_retries`.
    pub syn_retries: u8,
    /// `net.ipv4.tcp_syn_linear_timeouts`: repetitions of a SYN before its timeout doubles.
    pub syn_linear_timeouts: u8,
    /// `net.ipv4.tcp_rto_max_ms`: no timeout is longer. Whole seconds, at least one, count.
    pub rto_max: Duration,
    /// Whether acknowledgements of data may wait for a fraction of a millisecond.
    pub acks_may_wait: bool,
    /// The most that a guest is told it may send, in bytes: what may wait in the link. A power of two, [`WINDOW_MAX`]
    /// at most.
    pub window_max: u32,
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            syn_retries: 6,
            syn_linear_timeouts: 4,
            rto_max: Duration::from_secs(120),
            acks_may_wait: false,
            window_max: WINDOW_MAX,
        }
    }
}

/// A timer that does not run. Not an `Option`: a connection shall fit two cache lines.
const NEVER: Timestamp = Timestamp::from_micros(u64::MAX);

/// How the handshake goes or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handshake {
    UnderWay,
    /// The SYN was sent again before its time since the last timeout.
    Hastened,
    /// It is done, and no SYN had to be repeated for want of an answer.
    Done,
    /// It is done, and one had to.
    Slow,
}

/// The timer and what it has counted.
#[derive(Debug)]
pub(super) struct Retry {
    /// When the timer expires; [`NEVER`] if it does not run.
    at: Timestamp,
    rto_max_s: u16,
    syn_limit: u8,
    syn_linear: u8,
    /// Timeouts since the guest last gave a sign of progress.
    count: u8,
    /// Doublings of the timeout. Answered window probes reset `count` but not this.
    backoff: u8,
    handshake: Handshake,
    /// A probe of a silent guest or a closed window is to be sent.
    pub(crate) probe_due: bool,
}

impl Retry {
    pub(crate) fn new(config: &TcpConfig) -> Self {
        let limit = config.syn_retries.saturating_add(config.syn_linear_timeouts);
        let rto_max_s = config.rto_max.as_millis().div_ceil(1000).max(1);
        Self {
            at: NEVER,
            rto_max_s: u16::try_from(rto_max_s).unwrap_or(u16::MAX),
            syn_limit: limit.min(SYN_RETRIES_MAX),
            syn_linear: config.syn_linear_timeouts,
            count: 0,
            backoff: 0,
            handshake: Handshake::UnderWay,
            probe_due: false,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        (self.at != NEVER).then_some(self.at)
    }

    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        self.at <= now
    }

    /// Whether a timeout has passed without an answer.
    pub(crate) fn is_waiting(&self) -> bool {
        self.count > 0
    }

    /// Starts the timer unless it runs.
    pub(crate) fn start(&mut self, now: Timestamp) {
        if self.at == NEVER {
            self.restart(now);
        }
    }

    /// Starts the timer afresh.
    pub(crate) fn restart(&mut self, now: Timestamp) {
        self.at = now + self.timeout();
    }

    pub(crate) fn stop(&mut self) {
        self.at = NEVER;
    }

    /// The guest made progress: counting starts again.
    pub(crate) fn progress(&mut self) {
        self.count = 0;
        self.backoff = 0;
        self.at = NEVER;
    }

    /// The guest answered a window probe: it lives, but the probes keep their pace.
    pub(crate) fn answered(&mut self) {
        self.count = 0;
    }

    /// Whether the SYN may be sent again before its time: once for each timeout.
    pub(crate) fn take_haste(&mut self) -> bool {
        std::mem::replace(&mut self.handshake, Handshake::Hastened) == Handshake::UnderWay
    }

    /// Timeouts since the guest last gave a sign of progress.
    pub(crate) fn count(&self) -> u8 {
        self.count
    }

    /// Goes on after `count` timeouts of data.
    pub(crate) fn resume(&mut self, count: u8) {
        (self.count, self.backoff) = (count, count);
    }

    /// The handshake is done.
    pub(crate) fn established(&mut self) {
        self.handshake = if self.count > 0 { Handshake::Slow } else { Handshake::Done };
        self.progress();
    }

    /// Whether a SYN had to be repeated.
    pub(crate) fn is_slow(&self) -> bool {
        self.handshake == Handshake::Slow
    }

    /// Counts a timeout of a SYN or SYN-ACK; false if it was the last one allowed.
    pub(crate) fn expire_handshake(&mut self, now: Timestamp) -> bool {
        if self.count >= self.syn_limit {
            return false;
        }
        self.count += 1;
        self.handshake = Handshake::UnderWay;
        self.backoff = self.count.saturating_sub(self.syn_linear);
        self.restart(now);
        true
    }

    /// Counts a timeout of data, a FIN or a window probe; false if it was the last one allowed.
    pub(crate) fn expire_data(&mut self, now: Timestamp) -> bool {
        if self.count >= DATA_RETRIES {
            return false;
        }
        self.count += 1;
        self.backoff = self.backoff.saturating_add(1);
        self.restart(now);
        true
    }

    fn timeout(&self) -> Duration {
        let base = match self.handshake {
            Handshake::Slow => RTO_AFTER_SYN_RETRY,
            _ => RTO_INITIAL,
        };
        let factor = 1 << self.backoff.min(16);
        (base * factor).min(Duration::from_secs(self.rto_max_s.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(mut expire: impl FnMut(Timestamp) -> Option<Timestamp>) -> Vec<u64> {
        let mut now = Timestamp::ZERO;
        let mut gaps = Vec::new();
        while let Some(next) = expire(now) {
            gaps.push(next.since(now).as_secs());
            now = next;
        }
        gaps
    }

    #[test]
    fn rfc6298_5_5_data_timeouts_double_up_to_the_cap() {
        let mut retry = Retry::new(&TcpConfig::default());
        retry.restart(Timestamp::ZERO);
        assert_eq!(retry.deadline(), Some(Timestamp::from_micros(1_000_000)));
        let gaps = gaps(|now| retry.expire_data(now).then(|| retry.deadline().expect("runs")));
        assert_eq!(gaps, [2, 4, 8, 16, 32, 64, 120]);
    }

    #[test]
    fn handshake_timeouts_are_linear_first() {
        let mut retry = Retry::new(&TcpConfig::default());
        let gaps = gaps(|now| retry.expire_handshake(now).then(|| retry.deadline().expect("runs")));
        assert_eq!(gaps, [1, 1, 1, 1, 2, 4, 8]);
    }

    #[test]
    fn rfc6298_5_7_timeout_is_longer_once_a_syn_was_repeated() {
        let mut retry = Retry::new(&TcpConfig::default());
        assert!(retry.expire_handshake(Timestamp::ZERO));
        retry.established();
        retry.start(Timestamp::ZERO);
        assert_eq!(retry.deadline(), Some(Timestamp::ZERO + RTO_AFTER_SYN_RETRY));
    }
}
