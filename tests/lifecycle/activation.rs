//! A service manager that listens for the program, and starts it when somebody comes (sd_listen_fds(3)).

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;

use crate::rig::{Place, is_answered, refusal};

/// Starts `passt` with a descriptor as the first of `count` that are passed on.
fn passing(descriptor: impl AsFd, count: u32, passt: &Command) -> Command {
    let descriptor = descriptor.as_fd();
    fcntl_setfd(descriptor, FdFlags::empty()).unwrap();
    let mut command = Command::new("bash");
    let script = format!("exec 3<&\"$0\"; LISTEN_PID=$$ LISTEN_FDS={count} exec \"$@\"");
    command.arg("-c").arg(script).arg(descriptor.as_raw_fd().to_string());
    command.arg(passt.get_program()).args(passt.get_args());
    command
}

#[test]
fn whoever_comes_before_the_program_is_served_and_the_socket_stays() {
    let place = Place::new();
    let path = place.path("listening");
    let listener = UnixListener::bind(&path).unwrap();
    for _ in 0..2 {
        let early = UnixStream::connect(&path).unwrap();
        let passt = place.passt(&["--foreground", "--one-off"]);
        let mut program = place.spawn(&mut passing(&listener, 1, &passt));
        assert!(is_answered(early));
        assert!(!place.path("socket").exists(), "the other one is not made");
        let bound = format!("UNIX domain socket bound at {}", path.display());
        assert!(place.text("stderr").contains(&bound), "{}", place.text("stderr"));
        if !program.has_ended() {
            program.end(Signal::TERM);
        }
        std::fs::remove_file(place.path("pid")).unwrap();
        assert!(path.exists(), "it is the manager's");
    }
}

#[test]
fn a_client_is_a_connected_stream_socket() {
    let place = Place::new();
    let refused = |socket: &dyn AsFd, why: &str| {
        let passt = place.passt(&["--foreground", "--fd", "3"]);
        let passt =
            passt.get_args().filter(|word| *word != "--socket" && *word != place.path("socket"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_passt"));
        let message = refusal(&mut passing(socket.as_fd(), 0, command.args(passt)));
        let words = format!("{why}: 3 is no connected stream socket: hand over one end of a pair");
        assert!(message.contains(&words), "{message}");
        assert!(!place.path("pid").exists());
    };
    let (datagrams, _other) = UnixDatagram::pair().unwrap();
    refused(&datagrams, "Protocol wrong type for socket");
    refused(&UdpSocket::bind("127.0.0.1:0").unwrap(), "Protocol wrong type for socket");
    let not_connected = "Transport endpoint is not connected";
    refused(&UnixListener::bind(place.path("listening")).unwrap(), not_connected);
    refused(&TcpListener::bind("127.0.0.1:0").unwrap(), not_connected);
}

/// The folder is the manager's: a unit makes no files there, and migration is nobody's wish.
#[test]
fn where_nothing_can_be_made_beside_the_socket_there_is_no_helper() {
    let place = Place::new();
    let folder = place.path("manager");
    std::fs::create_dir(&folder).unwrap();
    let listener = UnixListener::bind(folder.join("listening")).unwrap();
    // A folder in the way is what root may not replace, either.
    std::fs::create_dir(folder.join("listening.repair")).unwrap();
    let passt = place.passt(&["--foreground", "--vhost-user"]);
    let mut program = place.spawn(&mut passing(&listener, 1, &passt));
    let said = place.text("stderr");
    assert!(said.contains("connections do not migrate; choose a --repair-path"), "{said}");
    program.end(Signal::TERM);
    // Who has asked for it gets it, or an error.
    let asked = ["--foreground", "--vhost-user", "--repair-path", "/no-such-folder/repair"];
    let message = refusal(&mut passing(&listener, 1, &place.passt(&asked)));
    assert!(message.contains("choose another --repair-path"), "{message}");
}

#[test]
fn in_the_background_too() {
    let place = Place::new();
    let path = place.path("listening");
    let listener = UnixListener::bind(&path).unwrap();
    let passt = place.passt::<&str>(&[]);
    let mut program = place.returned(&mut passing(&listener, 1, &passt));
    assert!(is_answered(UnixStream::connect(&path).unwrap()));
    program.end(Signal::TERM);
    assert!(path.exists());
}

#[test]
fn what_is_meant_for_another_process_is_ignored() {
    let place = Place::new();
    let mut passt = place.passt(&["--foreground"]);
    let _program = place.spawn(passt.env("LISTEN_PID", "1").env("LISTEN_FDS", "1"));
    assert!(place.serves());
}

#[test]
fn other_sockets_are_refused() {
    let place = Place::new();
    let passt = place.passt(&["--foreground"]);
    let listener = UnixListener::bind(place.path("listening")).unwrap();
    let several = refusal(&mut passing(&listener, 2, &passt));
    assert!(several.contains("passes 2 sockets: give the unit one ListenStream="), "{several}");
    let datagrams = UnixDatagram::bind(place.path("datagrams")).unwrap();
    let message = refusal(&mut passing(&datagrams, 1, &passt));
    assert!(message.contains("it does not listen: let the unit have ListenStream="), "{message}");
    let file = std::fs::File::open("/dev/null").unwrap();
    let message = refusal(&mut passing(&file, 1, &passt));
    assert!(message.contains("The service manager's socket cannot be used"), "{message}");
}
