//! The target: reads the stream as it comes, and puts the sockets together. Nothing of it is kept beyond one
//! buffer, but the connections themselves, each of which costs as much as it will later, and what is for the peers: what
//! was not sent to them yet, within [`UNSENT_BYTES_MAX`], and what they have not acknowledged, within [`SENT_BYTES_MAX`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_frame::Errno;

use super::helper::{Command, Helper, News};
use super::progress::{Fault, Progress, answers_until};
use super::rebuild::Coming;
use super::thaw::Thaw;
use crate::engine::core::Core;
use crate::flow::migration::{
    self, ADDRESSES_BYTES, COUNT_BYTES, HEADER_BYTES, Record, SocketRecord, StreamError,
};
use crate::flow::network::Learned;
use crate::limits::{
    HELPER_BATCH, MAX_FLOWS, SENT_BYTES_MAX, STATE_BUFFER_BYTES, STATE_BUFFERS_PER_TURN,
    UNSENT_BYTES_MAX,
};
use crate::sys::repair::{self, Queue};

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Header,
    Addresses,
    Count,
    /// The helper, for so many connections.
    Connect(usize),
    /// Records, until there are so many.
    Records(usize),
    /// The sockets from this one on are for the helper.
    Repair(usize),
    /// The helper is to be done with the sockets before this one.
    Answer(usize),
    /// The socket with this index.
    Socket(usize),
    /// Its queues: bytes that are left of what was sent, was not sent, and is for the guest.
    Queues(usize, [u32; 3]),
    /// Nothing.
    End,
}

/// A load.
pub(super) struct Load {
    stream: OwnedFd,
    watched: bool,
    input: Input,
    step: Step,
    /// What the source has learned of the guest.
    learned: Learned,
    coming: Vec<Coming>,
    /// The record of the socket whose queues come.
    record: Option<SocketRecord>,
    /// Bytes that all connections hold for their peers: not acknowledged, and not sent yet.
    sent: usize,
    unsent: usize,
    fault: Option<Fault>,
}

impl Load {
    /// Nothing has come.
    pub(crate) fn new(core: &Core, stream: OwnedFd) -> Self {
        Self {
            stream,
            watched: false,
            input: Input::default(),
            step: Step::Header,
            learned: core.net.learned,
            coming: Vec::new(),
            record: None,
            sent: 0,
            unsent: 0,
            fault: None,
        }
    }

    /// The stream, and whether it is watched.
    pub(crate) fn stream(&mut self) -> (BorrowedFd<'_>, &mut bool) {
        (self.stream.as_fd(), &mut self.watched)
    }

    /// There is news of the helper.
    pub(crate) fn on_helper(&mut self, news: News) {
        match (self.step, news) {
            (Step::Connect(count), News::Come) => self.step = Step::Records(count),
            (Step::Answer(end), News::Done) => {
                let sockets = self.coming[..end].iter().filter_map(|coming| coming.socket.as_ref());
                let all =
                    sockets.rev().take(HELPER_BATCH).all(|s| repair::is_on(s.as_fd()) == Ok(true));
                self.fault = (!all).then_some(Fault::Helper);
                self.step = Step::Repair(end);
            }
            (Step::Connect(_) | Step::Answer(_), News::Gone) => self.fault = Some(Fault::Helper),
            _ => {}
        }
    }

    /// What was waited for does not come.
    pub(crate) fn on_time(&mut self) {
        match self.step {
            Step::Connect(_) => self.fault = Some(Fault::NoHelper),
            Step::Answer(_) => self.fault = Some(Fault::Helper),
            _ => {}
        }
    }

    /// Goes on as far as that is possible now.
    ///
    /// # Errors
    /// Why it cannot go on at all.
    pub(crate) fn step(&mut self, core: &mut Core, helper: &mut Helper) -> Result<Progress, Fault> {
        let mut buffers = 0;
        loop {
            if let Some(fault) = self.fault {
                return Err(fault);
            }
            match self.step {
                Step::Connect(count) if helper.is_there() => self.step = Step::Records(count),
                Step::Connect(_) => return Ok(Progress::Helper(helper.comes_until(core.now))),
                Step::Answer(_) => return Ok(Progress::Helper(answers_until(core.now))),
                Step::Repair(from) => self.repair(helper, from)?,
                _ => {
                    if self.take(core)? {
                        continue;
                    }
                    match (self.input.ended, self.step) {
                        (true, Step::End) => return Ok(Progress::Done),
                        (true, _) => return Err(StreamError::Ended.into()),
                        (false, _)
                            if buffers < STATE_BUFFERS_PER_TURN
                                && self.input.read(self.stream.as_fd())? =>
                        {
                            buffers += 1;
                        }
                        (false, _) => return Ok(Progress::Stream),
                    }
                }
            }
        }
    }

    /// Takes the next part out of what has come; false if that is not enough.
    fn take(&mut self, core: &mut Core) -> Result<bool, Fault> {
        match self.step {
            Step::Header => {
                let Some(header) = self.input.take::<HEADER_BYTES>() else { return Ok(false) };
                migration::check_header(&header)?;
                self.step = Step::Addresses;
            }
            Step::Addresses => {
                let Some(bytes) = self.input.take::<ADDRESSES_BYTES>() else { return Ok(false) };
                migration::learn(&mut self.learned, &bytes);
                self.step = Step::Count;
            }
            Step::Count => {
                let Some(bytes) = self.input.take::<COUNT_BYTES>() else { return Ok(false) };
                let count = migration::count(bytes, MAX_FLOWS)? as usize;
                self.step = if count == 0 { Step::End } else { Step::Connect(count) };
            }
            Step::Records(count) => {
                let Some(bytes) = self.input.take::<{ Record::BYTES }>() else { return Ok(false) };
                self.take_record(core, &bytes);
                self.step =
                    if self.coming.len() == count { Step::Repair(0) } else { Step::Records(count) };
            }
            Step::Socket(index) if index < self.coming.len() => {
                let Some(bytes) = self.input.take::<{ SocketRecord::BYTES }>() else {
                    return Ok(false);
                };
                self.take_socket(core, index, &bytes)?;
            }
            Step::Socket(_) => self.step = Step::End,
            Step::Queues(index, left) => return self.take_queues(index, left),
            Step::End if !self.input.is_empty() => return Err(StreamError::Excess.into()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take_record(&mut self, core: &Core, bytes: &[u8; Record::BYTES]) {
        self.coming.push(Coming::new(core, Record::from_bytes(bytes), self.coming.len()));
    }

    /// Sends the next sockets to the helper.
    fn repair(&mut self, helper: &mut Helper, from: usize) -> Result<(), Fault> {
        let most = helper.batch(self.coming.len() - from);
        let mut sockets = Vec::with_capacity(most);
        let mut end = from;
        while sockets.len() < most && end < self.coming.len() {
            sockets.extend(self.coming[end].socket.as_ref().map(AsFd::as_fd));
            end += 1;
        }
        if sockets.is_empty() {
            self.step = Step::Socket(0);
            return Ok(());
        }
        helper.command(Command::On, &sockets).map_err(|_| Fault::Helper)?;
        self.step = Step::Answer(end);
        Ok(())
    }

    fn take_socket(
        &mut self,
        core: &Core,
        index: usize,
        bytes: &[u8; SocketRecord::BYTES],
    ) -> Result<(), Fault> {
        let arrival = SocketRecord::from_bytes(bytes)?;
        let coming = &mut self.coming[index];
        let [send_queue, receive_queue] = arrival.queues;
        let unsent = arrival.record.map_or(0, |record| record.unsent);
        if let Some(record) = &arrival.record {
            coming.begin(core, record);
        }
        if coming.whole && self.unsent + unsent as usize > UNSENT_BYTES_MAX {
            log::debug!("connection that migrates: too much that was not sent yet");
            coming.whole = false;
        }
        let sent = (send_queue - unsent) as usize;
        // The kernel may send what is more than that before the guest runs here.
        coming.holds = self.sent + sent <= SENT_BYTES_MAX;
        if coming.holds {
            self.sent += sent;
        }
        self.record = arrival.record;
        self.step = Step::Queues(index, [send_queue - unsent, unsent, receive_queue]);
        Ok(())
    }

    fn take_queues(&mut self, index: usize, mut left: [u32; 3]) -> Result<bool, Fault> {
        let coming = &mut self.coming[index];
        let Some(queue) = left.iter().position(|left| *left > 0) else {
            if let Some(record) = self.record.take() {
                coming.complete(&record);
            }
            self.step = Step::Socket(index + 1);
            return Ok(true);
        };
        let bytes = self.input.part(left[queue] as usize);
        let taken = bytes.len();
        if taken == 0 {
            return Ok(false);
        }
        match queue {
            0 => coming.add_sent(bytes),
            1 if coming.whole => {
                self.unsent += taken;
                coming.unsent.extend_from_slice(bytes);
            }
            1 => {}
            _ => coming.refill(Queue::Receive, bytes),
        }
        self.input.skip(taken);
        left[queue] -= taken as u32;
        self.step = Step::Queues(index, left);
        Ok(true)
    }

    /// All has come. What was learned holds from now on.
    pub(crate) fn finish(self, core: &mut Core) -> Thaw {
        core.net.learned = self.learned;
        let all = self.coming.len();
        let whole = self.coming.iter().filter(|coming| coming.whole).count();
        if whole < all {
            log::warn!(
                "{} of {all} connections could not be taken over: they are reset",
                all - whole
            );
        }
        log::debug!("device state: loaded, with {whole} connections");
        Thaw::at_target(self.coming)
    }
}

/// What has come of the stream and was not taken yet.
#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Input {
    /// Reads more; false if there is nothing now. It does not block, unless the front-end has made it: then a signal comes,
    /// and that was all that is read of it.
    fn read(&mut self, stream: BorrowedFd<'_>) -> Result<bool, Fault> {
        self.bytes.drain(..self.at);
        self.at = 0;
        let begin = self.bytes.len();
        self.bytes.resize(STATE_BUFFER_BYTES, 0);
        let read = rustix::io::read(stream, &mut self.bytes[begin..]);
        self.bytes.truncate(begin + read.unwrap_or(0));
        match read {
            Ok(0) => {
                self.ended = true;
                Ok(true)
            }
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(errno) => Err(Fault::Channel(errno)),
        }
    }

    fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// The next bytes, no more than `most`.
    fn part(&self, most: usize) -> &[u8] {
        let rest = &self.bytes[self.at..];
        &rest[..most.min(rest.len())]
    }

    fn skip(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// Takes the next `N` bytes, if so many have come.
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let part = *self.bytes[self.at..].first_chunk()?;
        self.at += N;
        Some(part)
    }
}
