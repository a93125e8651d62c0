//! The control connection: messages in, replies out, and nothing in between that could wait.
//!
//! The `vhost` crate parses and answers most messages, but reads and writes its socket as if the
//! front-end were always there: it waits for the rest of a message, and for room for a reply, and a
//! non-blocking socket makes it spin. It therefore never sees the front-end's socket. [`Framing`]
//! collects a whole message; that is *relayed* through a socket pair of ours, together with its
//! descriptors, to the crate's handler, whose reply is collected from the pair and sent on, together with
//! the reply's descriptors, without waiting. A front-end that does not take its replies loses the connection.
//!
//! In front of the relay stands the *pre-filter*: messages that real front-ends send and the crate
//! rejects. QEMU's network device sends SET_VRING_ENABLE before any SET_FEATURES; SEND_RARP,
//! NET_SET_MTU and SET_LOG_FD are not known to it at all, it answers SET_LOG_BASE with more than a number, and
//! GET_QUEUE_NUM only who has acknowledged `MQ`.
//! Descriptors that come with a message that carries none are closed there.
//!
//! CHECK_DEVICE_STATE is answered when the transfer has ended ([`Control::answer_check`]). Until then its reply is
//! *owed*, and later messages stay in the socket: replies go out in the order of requests. Only a front-end that hangs up
//! is noticed.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use passt_frame::Errno;
use rustix::net::SendFlags;
use thiserror::Error;
use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures};
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};

use crate::handler::Adapter;
use crate::message::{Framing, FramingError, Message};
use crate::session::{Session, Violation};
use crate::transfer::Check;

/// Why a connection ended.
#[derive(Debug, Error)]
pub(crate) enum ControlError {
    /// No message can be received.
    #[error(transparent)]
    Framing(#[from] FramingError),
    /// The pre-filter refused a message.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The handler refused a message.
    #[error("{0}")]
    Handler(String),
    /// The header is not one of a request, or the body has the wrong size.
    #[error("malformed message")]
    Malformed,
    /// The front-end does not read replies.
    #[error("reply not taken")]
    ReplyNotTaken,
    /// The socket pair failed.
    #[error("relay: {0}")]
    Relay(Errno),
}

impl ControlError {
    /// Whether the front-end merely closed the connection.
    pub(crate) fn is_disconnect(&self) -> bool {
        matches!(self, Self::Framing(FramingError::Closed))
    }
}

/// A front-end's connection.
pub(crate) struct Control {
    socket: UnixStream,
    framing: Framing,
    adapter: Arc<Adapter>,
    handler: BackendReqHandler<Adapter>,
    relay: UnixStream,
    /// Name of the message that is being handled.
    current: String,
    /// CHECK_DEVICE_STATE, if it is not answered yet.
    owed: Option<Message>,
    /// A late reply could not be sent.
    broken: Option<ControlError>,
}

impl Control {
    /// Takes over a connected socket. `vacant` takes the session's place while that is lent.
    ///
    /// # Errors
    /// What socketpair(2) reports.
    pub(crate) fn new(socket: UnixStream, vacant: Session) -> std::io::Result<Self> {
        let (relay, inner) = UnixStream::pair()?;
        #[expect(clippy::arc_with_non_send_sync, reason = "the vhost crate asks for an Arc")]
        let adapter = Arc::new(Adapter::new(vacant));
        let handler = BackendReqHandler::from_stream(inner, adapter.clone());
        let framing = Framing::default();
        let current = String::new();
        Ok(Self { socket, framing, adapter, handler, relay, current, owed: None, broken: None })
    }

    /// The front-end's socket.
    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Name of the message at which the connection ended.
    pub(crate) fn current(&self) -> &str {
        &self.current
    }

    /// Handles the next message, if a whole one is there; true when so.
    ///
    /// # Errors
    /// Why the connection has to end.
    pub(crate) fn handle_next(&mut self, session: &mut Session) -> Result<bool, ControlError> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        if self.owed.is_some() {
            return if self.has_hung_up() { Err(FramingError::Closed.into()) } else { Ok(false) };
        }
        let next = self.framing.next(&self.socket);
        self.current = match &next {
            Ok(Some(message)) => message.name(),
            _ => self.framing.partial().name(),
        };
        let Some(mut message) = next? else { return Ok(false) };
        if !message.is_request() {
            return Err(ControlError::Malformed);
        }
        let request = FrontendReq::try_from(message.request());
        if !request.is_ok_and(carries_fds) {
            message.close_fds();
        }
        match prefilter(&mut message, request.ok(), session)? {
            Served::Reply(reply) => self.reply(&reply)?,
            Served::Later => self.owed = Some(message),
            Served::No => self.relay(&message, session)?,
        }
        Ok(true)
    }

    /// Answers CHECK_DEVICE_STATE with how the transfer ended; false when nobody waits for that.
    pub(crate) fn answer_check(&mut self, session: &mut Session, ended: Result<(), Errno>) -> bool {
        let Some(message) = self.owed.take() else { return false };
        let result = session.transfer.end(ended);
        self.broken = self.reply(&message.reply_u64(result)).err();
        true
    }

    /// Whether the front-end has closed the connection, whatever it has left to be read. Sending nothing fails then,
    /// and has no effect otherwise.
    fn has_hung_up(&self) -> bool {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = rustix::net::send(&self.socket, &[], flags);
        matches!(sent, Err(Errno::PIPE | Errno::CONNRESET))
    }

    /// Hands a message to the vhost crate and sends its reply on.
    fn relay(&mut self, message: &Message, session: &mut Session) -> Result<(), ControlError> {
        message.send(&self.relay).map_err(ControlError::Relay)?;
        self.adapter.swap(session);
        let result = self.handler.handle_request();
        self.adapter.swap(session);
        self.reply(&Message::take_reply(&self.relay).map_err(ControlError::Relay)?)?;
        result.map_err(|error| ControlError::Handler(explain(error)))
    }

    fn reply(&self, reply: &Message) -> Result<(), ControlError> {
        match reply.send(&self.socket) {
            // The next receive sees the hang-up, behind what was sent before it.
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(_) => Err(ControlError::ReplyNotTaken),
        }
    }
}

/// What is wrong, in the words of who found it.
fn explain(error: VhostError) -> String {
    match error {
        VhostError::ReqHandlerError(inner) => inner.to_string(),
        other => other.to_string(),
    }
}

/// Whether descriptors may come with a request.
fn carries_fds(request: FrontendReq) -> bool {
    matches!(
        request,
        FrontendReq::SET_MEM_TABLE
            | FrontendReq::SET_LOG_BASE
            | FrontendReq::SET_LOG_FD
            | FrontendReq::SET_VRING_KICK
            | FrontendReq::SET_VRING_CALL
            | FrontendReq::SET_VRING_ERR
            | FrontendReq::SET_BACKEND_REQ_FD
            | FrontendReq::SET_INFLIGHT_FD
            | FrontendReq::ADD_MEM_REG
            | FrontendReq::SET_DEVICE_STATE_FD
            | FrontendReq::GPU_SET_SOCKET
    )
}

/// What became of a message in the pre-filter.
enum Served {
    /// It was served; the reply, empty if none is wanted.
    Reply(Message),
    /// It will be answered when the transfer of device state has ended.
    Later,
    /// It is left to the vhost crate.
    No,
}

/// Serves what the vhost crate does not, or not as front-ends want it.
fn prefilter(
    message: &mut Message,
    request: Option<FrontendReq>,
    session: &mut Session,
) -> Result<Served, ControlError> {
    match request {
        Some(FrontendReq::CHECK_DEVICE_STATE) => {
            return Ok(match session.transfer.check() {
                Check::Reply(result) => Served::Reply(message.reply_u64(result)),
                Check::Wait => Served::Later,
            });
        }
        Some(FrontendReq::GET_QUEUE_NUM) if !session.multi_queue() => {
            // Who has not said that it knows of several pairs uses one; the crate would end the connection.
            return match message.is_empty() {
                true => Ok(Served::Reply(message.reply_u64(1))),
                false => Err(ControlError::Malformed),
            };
        }
        Some(FrontendReq::SET_LOG_BASE) => {
            let place = message.as_pair_u64().ok_or(ControlError::Malformed)?;
            let file = message.take_fd().ok_or(ControlError::Malformed)?;
            session.set_log(file.into(), place)?;
            // QEMU takes a reply of any length; front-ends by the vhost crate wait for as many bytes as they have sent.
            return Ok(Served::Reply(message.reply_same()));
        }
        Some(FrontendReq::SET_LOG_FD) => {
            let call = message.take_fd().ok_or(ControlError::Malformed)?;
            session.set_log_call(call.into())?;
        }
        Some(FrontendReq::SET_VRING_ENABLE) => {
            let (index, enable) = message.as_pair().ok_or(ControlError::Malformed)?;
            session.set_enable(index, enable)?;
        }
        Some(FrontendReq::SEND_RARP) => {
            // For back-ends whose guests cannot announce themselves after a migration. Nothing behind us learns
            // MAC addresses, and the guest's own is part of the state.
            message.as_u64().ok_or(ControlError::Malformed)?;
        }
        Some(FrontendReq::NET_SET_MTU) => {
            session.set_mtu(message.as_u64().ok_or(ControlError::Malformed)?)?;
        }
        _ => return Ok(Served::No),
    }
    let reply_ack = session.protocol & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0;
    let wanted = message.needs_reply() && reply_ack;
    Ok(Served::Reply(if wanted { message.reply_u64(0) } else { Message::default() }))
}
