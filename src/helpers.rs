//! Helpers that end before the program does: somebody has ended them. They are reaped, lest they are left as zombies for as
//! long as the program runs, and the operator is told what is missing from now on. Why the program goes on without them,
//! and why nobody takes their place: `sys::process::told`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use passt_frame::ToGuest;
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitIdStatus, waitid};

use crate::conf::PastaConf;
use crate::engine::{Engine, EventType, Exit, Link, Source, Worker};
use crate::error::{StartError, system};
use crate::sys::namespace_socket::NamespaceSockets;
use crate::sys::process;

/// A helper, as the operator knows it.
pub(crate) struct Helper {
    /// A child of the program's process.
    pid: Pid,
    /// What it does.
    task: &'static str,
    /// What is when it is gone.
    loss: &'static str,
}

impl Helper {
    /// That of [`follow`](crate::follow).
    pub(crate) fn watches_host(pid: Pid) -> Self {
        Self { pid, task: "watches the host's network", loss: "changes are not followed any more" }
    }

    /// That of [`namespace_socket`](crate::sys::namespace_socket).
    pub(crate) fn makes_sockets(
        sockets: &NamespaceSockets,
        pasta: Option<&PastaConf>,
    ) -> Option<Self> {
        let loss = match pasta {
            Some(pasta) if pasta.bypass.only => "nothing reaches the namespace any more",
            _ => "connections to loopback addresses go by the tap device",
        };
        Pid::from_raw(sockets.pid()).map(|pid| Self {
            pid,
            task: "makes sockets in the namespace",
            loss,
        })
    }
}

/// Has the loop see the end of those `helpers` that there are.
///
/// # Errors
/// What signalfd(2) or epoll_ctl(2) report.
pub(crate) fn watch<L: Link>(
    worker: &mut Worker<L>,
    helpers: impl IntoIterator<Item = Option<Helper>>,
) -> Result<(), StartError> {
    let signals = process::signal_descriptor(&[libc::SIGCHLD]).map_err(system("signalfd"))?;
    let list = helpers.into_iter().flatten().collect();
    let mut helpers = Helpers { signals, list, leaving: false };
    // Of those that have ended before nothing is told any more.
    helpers.reap();
    worker.add(Box::new(helpers)).map_err(system("epoll_ctl"))
}

/// All helpers that run.
struct Helpers {
    signals: OwnedFd,
    list: Vec<Helper>,
    /// The program ends, and they with it.
    leaving: bool,
}

impl Helpers {
    /// Reaps those that have ended.
    fn reap(&mut self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let leaving = self.leaving;
        self.list.retain(|helper| match waitid(WaitId::Pid(helper.pid), options) {
            Ok(None) | Err(Errno::INTR) => true,
            Ok(Some(status)) => {
                if !leaving {
                    let Helper { task, loss, .. } = helper;
                    let how = how(&status);
                    let cure = "start the program again, in a unit of its own";
                    log::warn!("The helper that {task} {how}: {loss}: {cure}");
                }
                false
            }
            Err(_) => false,
        });
    }
}

/// How a helper has ended.
fn how(status: &WaitIdStatus) -> String {
    match status.terminating_signal() {
        // See `process::told`.
        Some(libc::SIGALRM) => {
            "was told to end, as when the unit that has started it stops".to_owned()
        }
        Some(libc::SIGKILL) => "was killed, as when the unit that has started it stops".to_owned(),
        Some(signal) => format!("was ended by signal {signal}"),
        None => "has ended".to_owned(),
    }
}

impl Source for Helpers {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }

    fn event_type(&self) -> EventType {
        EventType::Signal
    }

    fn leave(&mut self) {
        self.leaving = true;
    }

    fn on_event(&mut self, _engine: &mut Engine, _out: &mut dyn ToGuest) -> Option<Exit> {
        while process::next_signal(self.signals.as_fd()).is_some() {}
        self.reap();
        None
    }
}
