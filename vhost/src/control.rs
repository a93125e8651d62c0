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
//! rejects. QEMU's network device sends SET_VRING_ENABLE before any SET_FEATURES; SEND_RARP and
//! NET_SET_MTU are not known to it at all. Descriptors that come with a message that carries none
//! are closed there.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use passt_frame::Errno;
use thiserror::Error;
use vhost::vhost_user::message::{FrontendReq, VhostUserProtocolFeatures};
use vhost::vhost_user::{BackendReqHandler, Error as VhostError};

use crate::handler::Adapter;
use crate::message::{Framing, FramingError, Message};
use crate::session::{Session, Violation};

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
        Ok(Self { socket, framing, adapter, handler, relay, current: String::new() })
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
        match prefilter(&message, request.ok(), session)? {
            Some(reply) => self.reply(&reply)?,
            None => self.relay(&message, session)?,
        }
        Ok(true)
    }

    /// Hands a message to the vhost crate and sends its reply on.
    fn relay(&mut self, message: &Message, session: &mut Session) -> Result<(), ControlError> {
        message.send(&self.relay).map_err(ControlError::Relay)?;
        self.adapter.swap(session);
        let result = self.handler.handle_request();
        self.adapter.swap(session);
        self.reply(&Message::take_reply(&self.relay))?;
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

/// Serves what the vhost crate rejects. `Some` is the reply, empty if none is wanted; `None` leaves
/// the message to the crate.
fn prefilter(
    message: &Message,
    request: Option<FrontendReq>,
    session: &mut Session,
) -> Result<Option<Message>, ControlError> {
    match request {
        Some(FrontendReq::SET_VRING_ENABLE) => {
            let (index, enable) = message.as_pair().ok_or(ControlError::Malformed)?;
            session.set_enable(index, enable)?;
        }
        Some(FrontendReq::SEND_RARP) => {
            // The guest announces itself after a migration. Nothing behind us learns MAC addresses.
            message.as_u64().ok_or(ControlError::Malformed)?;
        }
        Some(FrontendReq::NET_SET_MTU) => {
            session.set_mtu(message.as_u64().ok_or(ControlError::Malformed)?)?;
        }
        _ => return Ok(None),
    }
    let reply_ack = session.protocol & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0;
    let wanted = message.needs_reply() && reply_ack;
    Ok(Some(if wanted { message.reply_u64(0) } else { Message::default() }))
}
