//! The control queue (virtio 1.2, section 5.1.6.5): commands of the driver, each answered at once.
//!
//! A command is a chain: class, command and data to read, then one byte to write the answer to. It is
//! copied once, judged, and answered; what is not known or not negotiated, or has data of the wrong length
//! or value, is answered with an error. A chain without a byte for the answer is given back and counted.
//!
//! Some front-ends (QEMU, Cloud Hypervisor) serve this queue themselves and never start it here. Others
//! (crosvm, User-Mode Linux) pass it on.
//!
//! Nothing filters frames by address here, since the guest is alone on its link: receive modes that let
//! more frames through and filter tables need nothing done, as a filter may be imprecise (5.1.6.5.2). Modes
//! that keep frames from the guest cannot be had.

use std::rc::Rc;

use virtio_bindings::virtio_net as net;

use crate::features::Features;
use crate::mem::Span;
use crate::queue::{MAX_PAIRS, Pairs};
use crate::ring::{Direction, Ring, RingFault};
use crate::run::Run;
use crate::vring::{Vring, VringUser};

/// Commands answered in one turn of the loop.
const COMMANDS_PER_TURN: usize = 64;

/// Descriptors that one turn looks at.
const WALK_BUDGET: u32 = 65_536;

/// Pieces of a chain that are looked at; drivers use four.
const MAX_PIECES: usize = 64;

/// Bytes of the longest command: a filter table of 1,024 addresses has 6,154.
const MAX_COMMAND: usize = 8192;

/// Whether a command was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Ok,
    Err,
}

impl Answer {
    fn of(carried_out: bool) -> Self {
        if carried_out { Self::Ok } else { Self::Err }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Ok => net::VIRTIO_NET_OK as u8,
            Self::Err => net::VIRTIO_NET_ERR as u8,
        }
    }
}

/// Named counts of the control queue.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CommandCounters {
    /// Commands carried out.
    pub(crate) done: u64,
    /// Commands answered with an error.
    pub(crate) refused: u64,
    /// Chains without a byte for the answer, or of too many pieces.
    pub(crate) malformed: u64,
}

/// The control queue of a device.
pub(crate) struct ControlQueue {
    vring: Vring,
    pairs: Rc<Pairs>,
    /// How many pairs the driver uses; `None` until it could have told us.
    in_use: Option<u8>,
    /// Ethernet address that the driver has set.
    pub(crate) mac: Option<[u8; 6]>,
    /// Named counts.
    pub(crate) counters: CommandCounters,
    pieces: Vec<Span>,
    command: Vec<u8>,
}

impl VringUser for ControlQueue {
    fn vring(&self) -> &Vring {
        &self.vring
    }

    fn vring_mut(&mut self) -> &mut Vring {
        &mut self.vring
    }

    fn direction(&self) -> Direction {
        Direction::Both
    }

    /// The driver uses one pair until it says more. What it has said survives a stop.
    fn on_start(&mut self) {
        self.pieces.reserve_exact(MAX_PIECES);
        self.set_in_use(self.in_use.or(Some(1)));
    }

    fn on_end(&mut self) {}
}

impl ControlQueue {
    /// A control queue whose ring does not run.
    pub(crate) fn new(vring: Vring, pairs: Rc<Pairs>) -> Self {
        Self {
            vring,
            pairs,
            in_use: None,
            mac: None,
            counters: CommandCounters::default(),
            pieces: Vec::new(),
            command: Vec::new(),
        }
    }

    /// Forgets what the driver has said.
    pub(crate) fn reset(&mut self) {
        self.set_in_use(None);
        self.mac = None;
    }

    fn set_in_use(&mut self, pairs: Option<u8>) {
        self.in_use = pairs;
        self.pairs.set_in_use(pairs);
    }

    /// Answers the commands that wait; true when some are left that no kick will announce.
    pub(crate) fn serve(&mut self) -> bool {
        if !self.vring.is_up() {
            return false;
        }
        let Some(mut ring) = self.vring.run.take() else { return false };
        let result = self.answer_all(&mut ring);
        ring.publish();
        self.vring.run = Run::Running(ring);
        if self.vring.wants_call() {
            self.vring.notify();
        }
        if let Err(fault) = result {
            self.fail(fault);
        }
        self.vring.run.ring().is_some_and(Ring::has_pending)
    }

    fn answer_all(&mut self, ring: &mut Ring) -> Result<(), RingFault> {
        let mut budget = WALK_BUDGET;
        ring.refresh()?;
        for _ in 0..COMMANDS_PER_TURN {
            if budget == 0 || (!ring.has_pending() && !ring.ask_for_kick()?) {
                return Ok(());
            }
            let Some(head) = ring.pop()? else { return Ok(()) };
            self.pieces.clear();
            let chain = ring.walk(&self.vring.memory, head, &mut self.pieces, MAX_PIECES)?;
            budget = budget.saturating_sub(chain.descriptors.max(1));
            let written = self.answer(chain.readable, chain.cut);
            ring.put_used(head, written);
            ring.settle();
        }
        if ring.has_pending() { Ok(()) } else { ring.ask_for_kick().map(|_| ()) }
    }

    /// Carries out the command in the first `readable` pieces, if all of it is there, and writes the
    /// answer; returns how many bytes that are.
    fn answer(&mut self, readable: Option<usize>, cut: bool) -> u32 {
        let (command, answer) = self.pieces.split_at(readable.unwrap_or(self.pieces.len()));
        let Some(&place) = answer.first().filter(|_| !cut) else {
            self.counters.malformed += 1;
            return 0;
        };
        let len = command.iter().fold(0, |sum: usize, piece| sum + piece.len() as usize);
        self.command.resize(len.min(MAX_COMMAND), 0);
        let mut filled = 0;
        for piece in command {
            filled += piece.read(&mut self.command[filled..]);
        }
        let command = std::mem::take(&mut self.command);
        let answer = match &command[..] {
            [class, command, data @ ..] if len <= MAX_COMMAND => {
                self.carry_out((*class).into(), (*command).into(), data)
            }
            _ => Answer::Err,
        };
        self.command = command;
        let counters = &mut self.counters;
        *(if answer == Answer::Ok { &mut counters.done } else { &mut counters.refused }) += 1;
        let written = place.write(&[answer.byte()]);
        if let Some(log) = &self.vring.log {
            log.mark_host(&self.vring.memory, place.base(), written);
        }
        written as u32
    }

    fn carry_out(&mut self, class: u32, command: u32, data: &[u8]) -> Answer {
        let features = self.vring.features;
        match class {
            net::VIRTIO_NET_CTRL_RX => Answer::of(rx_mode(features, command, data)),
            net::VIRTIO_NET_CTRL_MAC => self.set_mac(features, command, data),
            net::VIRTIO_NET_CTRL_VLAN => Answer::of(vlan(features, command, data)),
            net::VIRTIO_NET_CTRL_ANNOUNCE => Answer::of(
                features.announce()
                    && command == net::VIRTIO_NET_CTRL_ANNOUNCE_ACK
                    && data.is_empty(),
            ),
            net::VIRTIO_NET_CTRL_MQ => self.set_pairs(features, command, data),
            _ => Answer::Err,
        }
    }

    fn set_mac(&mut self, features: Features, command: u32, data: &[u8]) -> Answer {
        match command {
            net::VIRTIO_NET_CTRL_MAC_ADDR_SET if features.control_mac() => {
                let mac = <[u8; 6]>::try_from(data).ok().filter(|mac| mac[0] & 1 == 0);
                self.mac = mac.or(self.mac);
                Answer::of(mac.is_some())
            }
            net::VIRTIO_NET_CTRL_MAC_TABLE_SET => {
                Answer::of(features.control_rx() && is_filter_table(data))
            }
            _ => Answer::Err,
        }
    }

    fn set_pairs(&mut self, features: Features, command: u32, data: &[u8]) -> Answer {
        let pairs = <[u8; 2]>::try_from(data).map(u16::from_le_bytes).unwrap_or(0);
        let pairs = u8::try_from(pairs).ok().filter(|&n| (1..=MAX_PAIRS).contains(&usize::from(n)));
        let known = features.multi_queue() && command == net::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET;
        match pairs.filter(|_| known) {
            Some(pairs) => {
                self.set_in_use(Some(pairs));
                Answer::Ok
            }
            None => Answer::Err,
        }
    }
}

/// Receive modes: one byte that switches a mode on or off.
fn rx_mode(features: Features, mode: u32, data: &[u8]) -> bool {
    let &[on @ (0 | 1)] = data else { return false };
    match mode {
        net::VIRTIO_NET_CTRL_RX_PROMISC | net::VIRTIO_NET_CTRL_RX_ALLMULTI => features.control_rx(),
        net::VIRTIO_NET_CTRL_RX_ALLUNI => features.control_rx_extra(),
        net::VIRTIO_NET_CTRL_RX_NOMULTI
        | net::VIRTIO_NET_CTRL_RX_NOUNI
        | net::VIRTIO_NET_CTRL_RX_NOBCAST => features.control_rx_extra() && on == 0,
        _ => false,
    }
}

/// VLAN filter: the number of a VLAN that is let through, or not any more. No frame has one.
fn vlan(features: Features, command: u32, data: &[u8]) -> bool {
    let known = matches!(command, net::VIRTIO_NET_CTRL_VLAN_ADD | net::VIRTIO_NET_CTRL_VLAN_DEL);
    let number = <[u8; 2]>::try_from(data).map(u16::from_le_bytes);
    features.control_vlan() && known && number.is_ok_and(|number| number < 4096)
}

/// Whether `data` is two lists of Ethernet addresses, each behind its number of entries.
fn is_filter_table(data: &[u8]) -> bool {
    let list = |data: &[u8]| {
        let (count, rest) = data.split_first_chunk::<4>()?;
        let bytes = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(6)?;
        rest.len().checked_sub(bytes)
    };
    let Some(left) = list(data) else { return false };
    list(&data[data.len() - left..]) == Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_table_is_two_lists_and_nothing_else() {
        let table = |unicast: u32, multicast: u32, bytes: usize| {
            let mut data = unicast.to_le_bytes().to_vec();
            data.resize(4 + 6 * (unicast as usize).min(100), 2);
            data.extend(multicast.to_le_bytes());
            data.resize(bytes, 3);
            data
        };
        assert!(is_filter_table(&table(0, 0, 8)));
        assert!(is_filter_table(&table(1, 2, 8 + 18)));
        assert!(is_filter_table(&table(100, 0, 8 + 600)));
        for (unicast, multicast, bytes) in
            [(0, 0, 9), (0, 0, 7), (0, 1, 8), (1, 2, 8 + 17), (1, 2, 8 + 19), (u32::MAX, 0, 608)]
        {
            let data = table(unicast, multicast, bytes);
            assert!(!is_filter_table(&data), "{unicast}, {multicast}, {bytes}");
        }
        assert!(!is_filter_table(&[]));
    }
}
