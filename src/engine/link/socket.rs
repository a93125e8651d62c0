//! One socket, two protocols: a client of passt's socket speaks vhost-user or sends frames, and its
//! first byte tells which, or its first four where the machine is big-endian.
//!
//! A frame begins with its length, 32 bits in network byte order. The largest frame is shorter than
//! 2^24 bytes, so the first byte is 0. A vhost-user message begins with the number of its request, 32
//! bits as the machine has them; numbers start at 1 and are small, and no front-end may send a
//! message without a request. What is neither is taken for a frame, whose length is then refused.
//! On a big-endian machine both begin with zeros, and four bytes tell: the requests that front-ends begin
//! with are 1 to 3, and no frame is that short.
//!
//! The bytes are looked at when they are there and left in the socket. A client that says nothing occupies
//! the link, as any silent client does, and its end counts. Frames cannot be sent to it, for it may be a
//! front-end; but those speak as soon as their device is there, and a guest may have nothing to say for ever: one whose
//! QEMU has connected anew, for example, which it does not notice. So who is silent for [`SILENCE`] takes frames. A
//! front-end that is plugged in by hand, with longer between its connection and its device, needs `--vhost-user`.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use passt_frame::{
    Errno, FramePort, FromGuest, FrontEndRequest, LinkChange, MAX_FRAME_BYTES, PortEvents,
    Registrar, ToGuest, Trigger,
};
use rustix::net::RecvFlags;

use super::Link;
#[cfg(not(target_pointer_width = "64"))]
use super::no_vhost as passt_vhost;
use crate::engine::event_counters::EventType;
use crate::engine::token::LINK_BASE;
use crate::engine::wait::monotonic_now;
use crate::sys::socket;
use crate::time::Timestamp;

/// First bytes that begin a vhost-user message: the numbers of requests, with room for new ones.
const REQUESTS: std::ops::RangeInclusive<u8> = 1..=63;

/// The requests that front-ends begin with: GET_FEATURES, SET_FEATURES and SET_OWNER.
const FIRST_REQUESTS: std::ops::RangeInclusive<u8> = 1..=3;

const IS_BIG_ENDIAN: bool = cfg!(target_endian = "big");

/// When to look at a client again. Bytes that are too few to tell stay in the socket, and only more of them are news.
const UNDECIDED_TRIGGER: Trigger = if IS_BIG_ENDIAN { Trigger::Edge } else { Trigger::Level };

/// Tokens from here on are those of the stream socket; those below are the vhost-user device's.
const STREAM_TOKENS: u16 = 0x4000;

/// Token of a client whose protocol is not known yet.
const UNDECIDED_TOKEN: u16 = 0x8000;

/// How long a front-end may take to say something: much more than a busy machine makes of it, and a moment for those
/// outside who wait for a guest.
const SILENCE: Duration = Duration::from_secs(2);

const _: () = assert!(MAX_FRAME_BYTES < 1 << 24);

/// What clients may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocols {
    /// vhost-user only.
    VhostUser,
    /// Either; the client decides.
    Any,
}

/// The link of a client that connects to passt's socket.
pub struct SocketLink {
    protocols: Protocols,
    vhost: passt_vhost::Device,
    stream: passt_legacy::Stream,
    undecided: Option<OwnedFd>,
    /// Until when it may say what it is.
    decided_at: Timestamp,
    registrar: Registrar,
}

impl SocketLink {
    /// A link without a client, whose descriptors are reported by `epoll`. The network device that vhost-user
    /// front-ends are offered has this `mtu`.
    ///
    /// # Errors
    /// What making the vhost-user device reports.
    pub fn new(
        epoll: &Rc<OwnedFd>,
        mtu: u16,
        protocols: Protocols,
    ) -> Result<Self, passt_vhost::SetupError> {
        let registrar = Registrar::new(epoll.clone(), LINK_BASE);
        let tokens = LINK_BASE | u64::from(STREAM_TOKENS);
        Ok(Self {
            protocols,
            vhost: passt_vhost::Device::new(
                registrar.clone(),
                passt_vhost::Config { mac: None, mtu },
            )?,
            stream: passt_legacy::Stream::new(Registrar::new(epoll.clone(), tokens)),
            undecided: None,
            decided_at: Timestamp::ZERO,
            registrar,
        })
    }

    /// Gives the client to the link that speaks its protocol, if it has said anything yet.
    fn decide(&mut self) -> PortEvents {
        let Some(client) = &self.undecided else { return PortEvents::default() };
        let mut first = [0; 4];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let is_front_end = match rustix::net::recv(client, &mut first[..], flags) {
            Ok((0, _)) => None,
            Ok(_) if self.protocols == Protocols::VhostUser => Some(true),
            Ok((len, _)) => match begins_request(&first[..len], IS_BIG_ENDIAN) {
                None if !socket::has_hung_up(client.as_fd()) => return PortEvents::default(),
                known => known,
            },
            Err(Errno::AGAIN | Errno::INTR) => return PortEvents::default(),
            Err(errno) => {
                log::debug!("client socket: read: {errno}");
                None
            }
        };
        self.hand_over(is_front_end)
    }

    /// Gives the client to the link of vhost-user, if it is a front-end, or of frames; to none if it is neither.
    fn hand_over(&mut self, is_front_end: Option<bool>) -> PortEvents {
        let Some(client) = self.undecided.take() else { return PortEvents::default() };
        self.registrar.remove(&client);
        let client = UnixStream::from(client);
        let attached = is_front_end.ok_or_else(String::new).and_then(|is_front_end| {
            if is_front_end {
                self.vhost.attach(client).map_err(|error| error.to_string())
            } else {
                self.stream.attach(client).map_err(|error| error.to_string())
            }
        });
        match attached {
            // The stream announces itself, and lets its first frames be answered in this turn; a
            // front-end's messages are reported with the next one.
            Ok(()) => self.stream.on_event(0),
            Err(error) => {
                if !error.is_empty() {
                    log::error!("{error}");
                }
                PortEvents { link: Some(LinkChange::Closed), ..PortEvents::default() }
            }
        }
    }
}

/// Whether a vhost-user message begins with these bytes, on a machine of that byte order; `None` if they are too few.
fn begins_request(bytes: &[u8], big_endian: bool) -> Option<bool> {
    match *bytes {
        [first, ..] if !big_endian => Some(REQUESTS.contains(&first)),
        [0, 0, 0, last] => Some(FIRST_REQUESTS.contains(&last)),
        [_, _, _, _] => Some(false),
        _ => None,
    }
}

impl Link for SocketLink {
    fn attach(&mut self, client: OwnedFd) -> Result<(), String> {
        let added = self.registrar.add(&client, UNDECIDED_TOKEN, UNDECIDED_TRIGGER);
        added.map_err(|errno| format!("client socket: epoll: {errno}"))?;
        self.undecided = Some(client);
        self.decided_at = monotonic_now() + SILENCE;
        Ok(())
    }

    fn deadline(&self) -> Option<Timestamp> {
        let waits = self.undecided.is_some() && self.protocols == Protocols::Any;
        waits.then_some(self.decided_at)
    }

    fn on_deadline(&mut self) -> PortEvents {
        let decided = self.decide();
        if self.undecided.is_none() {
            return decided;
        }
        log::info!(
            "The client has said nothing for {} s and gets frames, as -netdev stream does: a front-end of vhost-user \
             that speaks later needs --vhost-user here",
            SILENCE.as_secs()
        );
        self.hand_over(Some(false))
    }

    fn is_attached(&self) -> bool {
        self.undecided.is_some() || self.stream.is_attached() || self.vhost.is_attached()
    }

    fn is_leaving(&self) -> bool {
        let undecided = self.undecided.as_ref().map(|client| client.as_fd());
        let client = undecided.or(self.stream.client());
        client.is_some_and(socket::has_hung_up)
            || self.stream.is_leaving()
            || self.vhost.is_leaving()
    }

    fn event_type(&self, token: u16) -> EventType {
        match token {
            STREAM_TOKENS.. => EventType::Stream,
            _ => self.vhost.event_type(token),
        }
    }
}

impl FramePort for SocketLink {
    fn halves(&mut self) -> (&mut dyn FromGuest, &mut dyn ToGuest) {
        #[cfg(target_pointer_width = "64")]
        if !self.stream.is_attached() {
            return self.vhost.halves();
        }
        self.stream.halves()
    }

    fn on_event(&mut self, token: u16) -> PortEvents {
        match token {
            UNDECIDED_TOKEN => self.decide(),
            STREAM_TOKENS.. => self.stream.on_event(token - STREAM_TOKENS),
            _ => self.vhost.on_event(token),
        }
    }

    fn take_request(&mut self) -> Option<FrontEndRequest> {
        self.vhost.take_request()
    }

    fn answer_check(&mut self, ended: Result<(), Errno>) {
        self.vhost.answer_check(ended);
    }

    fn flush(&mut self) {
        self.vhost.flush();
        self.stream.flush();
    }

    fn flush_lazily(&mut self, now: Duration) -> Option<Duration> {
        self.stream.flush();
        self.vhost.flush_lazily(now)
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        self.vhost.counters(visit);
        self.stream.counters(visit);
    }
}

#[cfg(target_pointer_width = "64")]
impl Link for passt_vhost::Device {
    fn attach(&mut self, client: OwnedFd) -> Result<(), String> {
        passt_vhost::Device::attach(self, client.into()).map_err(|error| error.to_string())
    }

    fn is_attached(&self) -> bool {
        passt_vhost::Device::is_attached(self)
    }

    fn is_leaving(&self) -> bool {
        self.front_end().is_some_and(socket::has_hung_up)
    }

    fn event_type(&self, token: u16) -> EventType {
        if Self::is_kick(token) { EventType::Kick } else { EventType::Control }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GET_FEATURES and SET_OWNER, and the shortest and the longest frame, as machines of either byte order send them.
    #[test]
    fn the_first_bytes_tell_in_either_byte_order() {
        for (big_endian, enough) in [(false, 1), (true, 4)] {
            let number = if big_endian { u32::to_be_bytes } else { u32::to_le_bytes };
            let frames = [14, MAX_FRAME_BYTES].map(u32::to_be_bytes);
            let cases =
                [(number(1), true), (number(3), true), (frames[0], false), (frames[1], false)];
            for (bytes, is_request) in cases {
                for len in 0..=4 {
                    let expected = (len >= enough).then_some(is_request);
                    assert_eq!(
                        begins_request(&bytes[..len], big_endian),
                        expected,
                        "{bytes:?} {len}"
                    );
                }
            }
        }
    }
}
