//! The steps of start-up that touch the system: the client socket, the PID file, the background, the
//! service manager, the kernel's settings. `main` calls them in order; each error says what failed, on what, and
//! what to do.

mod activation;
mod files;
mod free;
mod network;
mod notify;
mod ready;
mod settings;
mod sockets;

pub(crate) use activation::activated;
pub(crate) use files::Made;
pub(crate) use free::listen_failure;
pub(crate) use network::{
    await_network, is_followed, is_without_network, look_up, read_resolv, tell_of_network,
    warn_of_outbound,
};
pub(crate) use ready::{Continue, Readiness};
pub(crate) use settings::{tcp_config, udp_timeouts};
pub(crate) use sockets::{ClientSocket, client_socket, control_socket, helper_socket, json_socket};

use crate::conf::{self, Options};
use crate::error::{StartError, system};
use crate::limits::STARTING_BYTES;
use crate::sys::process;

/// Sees whether there is memory, has signals end the start, and reads what inherited descriptors may lead to.
///
/// # Errors
/// [`StartError`].
pub(crate) fn settle(options: &mut Options) -> Result<(), StartError> {
    process::look_for_tracer();
    try_memory()?;
    let has_command = conf::starts_command(options);
    process::settle_signals(options.run.foreground, has_command).map_err(system("sigaction"))?;
    Ok(conf::egress::read_files(options)?)
}

/// Has what starting needs of memory, and gives it back: without, the program would be aborted somewhere later.
fn try_memory() -> Result<(), StartError> {
    let mut memory: Vec<u8> = Vec::new();
    let tried = memory.try_reserve_exact(STARTING_BYTES);
    // Or the compiler sees that nobody uses it.
    std::hint::black_box(&mut memory);
    tried.map_err(|_| {
        let needed = STARTING_BYTES >> 20;
        StartError::Other(format!(
            "Cannot have {needed} MiB of memory, little of which is going to be used: set the limits of address \
             space and data (ulimit -v, ulimit -d) to 128 MiB or more"
        ))
    })
}
