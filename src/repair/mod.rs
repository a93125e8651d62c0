//! passt-repair: switches `TCP_REPAIR` on and off for sockets that passt sends it, when a guest migrates. The
//! kernel wants `CAP_NET_ADMIN` for that, which passt does not have: this program has it, and does nothing else
//! with it. The protocol is described where the other end is, in `engine::migration`.
//!
//! Exit codes: 0 when passt has closed the connection, 1 for errors, 2 for a wrong command line.

mod door;
mod failure;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use passt_frame::Errno;
use rustix::net::{
    self as rnet, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags,
};

use crate::limits::HELPER_BATCH;
use crate::sandbox::{self, Needs, Program};
use crate::sys::capability::{self, Capabilities};
use crate::sys::{errno_text, process, repair};
use door::Door;
use failure::Failure;

const USAGE: &str = "Usage: passt-repair PATH

  PATH  Socket on which passt waits for its helper, as a rule the name of its own
        socket followed by .repair; or a folder: wait for one of a name with that end

Switches TCP_REPAIR for connections of a guest that migrates. See passt-repair(1).";

/// The program.
pub fn main() -> ExitCode {
    crate::log::start();
    let code = match run(std::env::args_os().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.message.lines() {
                log::error!("{line}");
            }
            ExitCode::from(failure.code)
        }
    };
    log::logger().flush();
    code
}

fn run(words: Vec<OsString>) -> Result<(), Failure> {
    let [word] = <[OsString; 1]>::try_from(words).map_err(|words| {
        let count = words.len();
        Failure::usage(format!("passt-repair takes one argument, not {count}\n{USAGE}"))
    })?;
    match word.to_str() {
        Some("-h" | "--help") => return print(USAGE),
        Some("--version") => return print(concat!("passt-repair ", env!("CARGO_PKG_VERSION"))),
        _ => {}
    }
    // As many sockets as fit into a message come at once.
    let limit = process::raise_descriptor_limit();
    let door = Door::find(PathBuf::from(word))?;
    // Sockets of other users may have to be opened, as root.
    let kept = Capabilities::NET_ADMIN | Capabilities::NET_RAW | Capabilities::DAC_OVERRIDE;
    capability::keep(kept).map_err(|errno| Failure::system("couldn't drop capabilities", errno))?;
    sandbox::confine(Program::Repair, Needs::default())
        .map_err(|error| Failure::new(error.to_string()))?;
    serve(&door.connect()?, limit.maximum)
}

fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    // A reader that is gone does not want the text any more.
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(())
}

/// Obeys until passt has had enough. No more than `limit` descriptors can be open.
fn serve(passt: &OwnedFd, limit: u64) -> Result<(), Failure> {
    while let Some(command) = receive(passt, limit)? {
        // Who was stopped since passt spoke comes too late: the connections go on already, and would end in repair.
        // The end of a repair does no harm.
        if command.value == ON && has_left(passt) {
            return Ok(());
        }
        for socket in &command.sockets {
            repair::switch(socket.as_fd(), command.value).map_err(cannot_switch)?;
        }
        match rnet::send(passt, &[command.value as u8], SendFlags::NOSIGNAL) {
            Ok(1) => {}
            Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
            Err(errno) => return Err(Failure::system("couldn't answer passt", errno)),
        }
    }
    Ok(())
}

/// Whether passt has closed the connection.
fn has_left(passt: &OwnedFd) -> bool {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    matches!(rnet::recv(passt, &mut [0; 1], flags), Ok((_, 0)) | Err(Errno::CONNRESET))
}

fn cannot_switch(errno: Errno) -> Failure {
    let mut message = format!("couldn't switch TCP_REPAIR: {}", errno_text(errno));
    if errno == Errno::PERM {
        let cure = "give passt-repair CAP_NET_ADMIN where passt has its sockets: run it as root";
        let _ = write!(message, ": {cure}");
    }
    Failure::new(message)
}

/// The command that begins a repair.
const ON: i8 = 1;

/// A command of passt, and the sockets that it is about.
struct Command {
    value: i8,
    sockets: Vec<OwnedFd>,
}

/// The next command; `None` when passt has closed the connection.
fn receive(passt: &OwnedFd, limit: u64) -> Result<Option<Command>, Failure> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HELPER_BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [IoSliceMut::new(&mut byte)];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let message = loop {
        match rnet::recvmsg(passt, &mut buffer, &mut control, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            other => {
                break other.map_err(|errno| Failure::system("couldn't read from passt", errno))?;
            }
        }
    };
    if message.bytes == 0 {
        return Ok(None);
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Failure::new(format!(
            "passt has sent more sockets than fit into the limit of open descriptors, {limit}: raise it to \
             512 (ulimit -Hn, LimitNOFILE=)"
        )));
    }
    let mut sockets = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            sockets.extend(rights);
        }
    }
    let value = byte[0] as i8;
    if !(-1..=1).contains(&value) || sockets.is_empty() {
        let count = sockets.len();
        return Err(Failure::new(format!(
            "passt has sent command {value} for {count} sockets, which is none: is it passt?"
        )));
    }
    Ok(Some(Command { value, sockets }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage};
    use std::io::IoSlice;
    use std::os::unix::net::UnixStream;

    fn send(to: &UnixStream, byte: u8, sockets: &[&OwnedFd]) {
        let sockets: Vec<_> = sockets.iter().map(|socket| socket.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&sockets)));
        }
        let flags = SendFlags::NOSIGNAL;
        rnet::sendmsg(to, &[IoSlice::new(&[byte])], &mut control, flags).expect("sent");
    }

    #[test]
    fn what_is_no_command_ends_it() {
        let socket: OwnedFd = UnixStream::pair().expect("a pair").0.into();
        for (byte, sockets) in [(2, 1), (0xfe, 1), (1, 0), (0, 0)] {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            send(&theirs, byte, &vec![&socket; sockets]);
            let failure = serve(&ours.into(), 1024).expect_err("refused");
            assert_eq!(failure.code, 1, "{}", failure.message);
        }
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        drop(theirs);
        assert!(serve(&ours.into(), 1024).is_ok(), "the end");
    }

    #[test]
    fn one_argument_is_wanted() {
        let code = |words: &[&str]| {
            run(words.iter().map(OsString::from).collect()).expect_err("wrong").code
        };
        assert_eq!(code(&[]), 2);
        assert_eq!(code(&["/a", "/b"]), 2);
        assert_eq!(code(&["/dev/null"]), 2, "no socket");
        assert_eq!(code(&["/nowhere/at/all"]), 1);
        assert_eq!(code(&[&format!("/tmp/{}", "x".repeat(200))]), 2, "too long");
    }
}
