//! The end of the program, as its connections see it. A socket that is closed says that the stream is whole, whoever closes
//! it. So what was passed on of streams that nobody has ended is followed by a reset. The end of the others was passed on
//! by a FIN (RFC 9293, 3.6), and the kernel goes on delivering what is in front of that.

use std::os::fd::BorrowedFd;

use super::core::Core;
use super::state::{FlowKind, FlowState};
use crate::flow::side::{Pif, Side};
use crate::flow::splice::End;
use crate::flow::table::Flow;
use crate::sys::stream;

/// Most bytes of a peer's that are thrown away for what is to be delivered to it: more than receive buffers hold, as a rule.
const UNREAD_BYTES: u32 = 16 << 20;

/// Whether a guest's stream has not been passed on to its end. Asks the kernel about each connection until one is found.
pub(super) fn has_open_streams(core: &Core) -> bool {
    flows(core).any(|flow| to_host(flow).is_some_and(stream::is_open))
}

/// Has closing the sockets of all connections, which must follow, end nothing that has not ended.
pub(super) fn cut_streams(core: &Core) {
    for flow in flows(core) {
        let second = flow.state.kind.second_socket();
        for socket in [flow.state.fd()].into_iter().chain(second) {
            if stream::is_open(socket) {
                let _ = stream::reset_on_close(socket);
            } else if stream::send_buffer(socket).is_ok_and(|buffer| buffer.queued > 0) {
                // Whoever closes with bytes unread resets, and drops what is queued.
                let _ = stream::discard(socket, UNREAD_BYTES);
            }
        }
    }
}

/// All connections but those that are on their way to another program.
fn flows(core: &Core) -> impl Iterator<Item = &Flow<FlowState>> {
    let all = core.flows.table.ids().filter_map(|id| core.flows.table.get(id));
    all.filter(|flow| {
        matches!(flow.state.kind, FlowKind::Tcp(_) | FlowKind::Splice(_)) && !flow.state.frozen
    })
}

/// The socket that the guest's stream goes to.
fn to_host(flow: &Flow<FlowState>) -> Option<BorrowedFd<'_>> {
    let is_host = |side: &Side| side.pif == Pif::Host;
    let end = if is_host(&flow.sides[0]) { End::Initiator } else { End::Target };
    flow.sides.iter().any(is_host).then(|| flow.state.end(end))
}
