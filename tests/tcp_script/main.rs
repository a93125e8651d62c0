//! The TCP machine by script: each state with each input, named by clause where an RFC has one.
//! The language is `player`'s.

#![allow(clippy::panic, reason = "helpers of tests fail by panic, as tests do")]

mod closing;
mod established;
mod opening;
mod player;
mod recovery;
mod set_back;

use player::play;

/// The guest opens; the peer is reached.
const OUTBOUND: &str = "
    > S 0 mss=1460 ws=7 win=10000
    ! connected
    < SA 0 ack=1 win=50000 mss=1000 ws=8";

/// The same, done.
const OPEN: &str = "
    > S 0 mss=1460 win=10000
    ! connected
    < SA 0 ack=1 mss=1000
    > A 1 ack=1";

/// The peer opens.
const INBOUND: &str = "
    accept
    < S 0 win=50000 mss=1000 ws=8";

/// 3,000 bytes are in flight to the guest.
const IN_FLIGHT: &str = "
    ! readable
    data 0 8760 1
    = drained 3000";

/// The guest has closed its side.
const GUEST_CLOSED: &str = "
    > FA 1 ack=1
    shutdown
    t 5
    < A 1 ack=2";

/// The peer has closed its side; our FIN is not acknowledged.
const PEER_CLOSED: &str = "
    ! peerclosed
    data 0 8760 1
    = eof
    < FA 1 ack=1";

fn script(parts: &[&str]) {
    play(&parts.join("\n"));
}

#[test]
fn a_connection_fits_two_cache_lines() {
    let bytes = size_of::<passt::flow::tcp::Conn>();
    assert!(bytes <= 128, "{bytes} bytes");
}
