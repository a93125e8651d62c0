//! The TCP machine: the storms and the worlds of `tests/tcp_sim`, whose dice are the input's bytes.

#[allow(dead_code, reason = "its tests are not run here")]
#[path = "../../tcp_sim/main.rs"]
mod tcp_sim;

use tcp_sim::{hostile, link::TAPE};

/// Plays `part` with the bytes of `tape` as its dice.
fn play(tape: &[u8], part: impl FnOnce(u64)) {
    TAPE.set(tape.iter().copied().collect());
    part(tape.len() as u64);
    TAPE.take();
}

/// Anything from the guest and the kernel, in any order.
pub fn storm(data: &[u8]) {
    play(data, |seed| _ = hostile::storm(seed, 60));
}

/// A guest and a host that mean well, over a link that does not.
pub fn world(data: &[u8]) {
    play(data, |seed| _ = tcp_sim::world(seed));
}
