//! `nbench wan`: a long way between two network namespaces.
//!
//! Each has a tun device, and what enters one leaves the other after a fixed time, unless it is
//! lost. The kernel has this, too (sch_netem), but not every kernel. Which packets are lost
//! depends on their number and the seed alone, so all programs meet the same fate. A queue
//! holds no more packets than the bandwidth and delay of these tests ask for; what comes when
//! it is full is lost, as on any router.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{Outcome, device};
use crate::args::Args;

/// Packets under way in one direction at most: 30 MB at an MTU of 1500.
const QUEUE_PACKETS: usize = 20_000;
const PACKET_BYTES: usize = 65536;
const MILLION: u64 = 1_000_000;

struct Packet {
    due: Instant,
    bytes: Vec<u8>,
}

/// Makes `near` here and `far` in the namespace, and runs until one of them is gone. Says
/// `ready` when the devices are there.
///
/// # Errors
/// When a device or the namespace cannot be had.
pub fn run(near: &str, far: &str, namespace: &str, words: &[&str]) -> Outcome {
    let args = Args::parse(words, &["rtt_ms", "lost_ppm", "seed"])?;
    let delay = Duration::from_millis(args.value("rtt_ms", 20)?) / 2;
    let (lost_ppm, seed) = (args.value("lost_ppm", 0)?, args.value("seed", 1)?);
    let near = device::open(near, device::TUN)?;
    let namespace = File::open(namespace)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let far = device::open(far, device::TUN)?;
    println!("ready");
    io::stdout().flush()?;
    let mut ends = Vec::new();
    for (from, to, seed) in [(&near, &far, seed), (&far, &near, !seed)] {
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        let (sender, receiver) = sync_channel(QUEUE_PACKETS);
        let losses = Losses::new(seed, lost_ppm);
        std::thread::spawn(move || take(from, &sender, delay, losses));
        ends.push(std::thread::spawn(move || give(to, &receiver)));
    }
    for end in ends {
        end.join().map_err(|_| "a direction has ended")??;
    }
    Ok(())
}

fn take(
    mut from: File,
    queue: &SyncSender<Packet>,
    delay: Duration,
    mut losses: Losses,
) -> io::Result<()> {
    let mut buffer = vec![0; PACKET_BYTES];
    loop {
        let len = from.read(&mut buffer)?;
        let due = Instant::now() + delay;
        if !losses.next_is_lost() {
            // Full: lost.
            let _ = queue.try_send(Packet { due, bytes: buffer[..len].to_vec() });
        }
    }
}

fn give(mut to: File, queue: &Receiver<Packet>) -> io::Result<()> {
    while let Ok(packet) = queue.recv() {
        std::thread::sleep(packet.due.saturating_duration_since(Instant::now()));
        // A packet that the kernel refuses is lost.
        let _ = to.write(&packet.bytes);
    }
    Ok(())
}

/// Which packets are lost: splitmix64 of their number.
struct Losses {
    state: u64,
    lost_ppm: u64,
}

impl Losses {
    fn new(seed: u64, lost_ppm: u64) -> Self {
        Self { state: seed, lost_ppm }
    }

    fn next_is_lost(&mut self) -> bool {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % MILLION < self.lost_ppm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_lost_as_asked_for_and_always_the_same() {
        let fates = |seed, ppm| -> Vec<bool> {
            let mut losses = Losses::new(seed, ppm);
            (0..100_000).map(|_| losses.next_is_lost()).collect()
        };
        let lost = fates(1, 1000).iter().filter(|lost| **lost).count();
        assert!((70..=130).contains(&lost), "{lost} of 100000");
        assert_eq!(fates(7, 1000), fates(7, 1000));
        assert_ne!(fates(7, 1000), fates(8, 1000));
        assert!(!fates(1, 0).contains(&true) && !fates(1, MILLION).contains(&false));
    }
}
