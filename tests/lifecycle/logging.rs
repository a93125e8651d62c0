//! Where messages go, and in which form.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use passt_support::wait::{PATIENCE, until};
use rustix::process::Signal;

use crate::rig::{NETWORK, Place, Program, arp_request, next_frame, refusal, unshare, with_length};

/// A file tree in which the system's log is a socket of the test, for one command.
struct SystemLog {
    place: Place,
    socket: UnixDatagram,
}

impl SystemLog {
    fn new() -> Self {
        let place = Place::new();
        std::fs::create_dir(place.path("dev")).unwrap();
        let socket = UnixDatagram::bind(place.path("dev/log")).unwrap();
        Self { place, socket }
    }

    /// passt, seeing that tree; ends with its arguments.
    fn passt(&self, arguments: &[&str]) -> Command {
        let mut command = unshare("m");
        let script = "set -e
            cd \"$0\"
            touch dev/null
            mount --bind /dev/null dev/null
            mount --rbind dev /dev
            exec \"$@\"";
        command.args(["sh", "-c", script]).arg(self.place.path(""));
        command.arg(env!("CARGO_BIN_EXE_passt")).args(NETWORK);
        command.arg("--socket").arg(self.place.path("socket"));
        command.arg("--pid").arg(self.place.path("pid")).args(arguments);
        command
    }

    /// Starts it in the background.
    fn background(&self, arguments: &[&str]) -> Started {
        let output = self.passt(arguments).output().unwrap();
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        Started { pid: self.place.pid().unwrap() }
    }

    /// Leaves no room for another message.
    fn fill(&self) {
        let sent = || {
            let socket = UnixDatagram::unbound().unwrap();
            socket.connect(self.place.path("dev/log")).unwrap();
            socket.set_nonblocking(true).unwrap();
            std::iter::repeat_with(|| socket.send(b"of others")).take_while(Result::is_ok).count()
        };
        // One socket alone may have less room to send than the queue is long.
        while sent() > 0 {}
    }

    fn next(&self) -> String {
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut buffer = [0; 8192];
        let length = self.socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// Receives messages up to one that contains `text`.
    fn until_message(&self, text: &str) -> Vec<String> {
        let mut messages = Vec::new();
        loop {
            messages.push(self.next());
            if messages.last().is_some_and(|message| message.contains(text)) {
                return messages;
            }
        }
    }

    fn is_silent(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let nothing = self.socket.recv(&mut [0; 16]).is_err();
        self.socket.set_nonblocking(false).unwrap();
        nothing
    }
}

/// A process that is nobody's child.
struct Started {
    pid: rustix::process::Pid,
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.pid, Signal::KILL);
    }
}

#[test]
fn in_the_background_messages_go_to_the_system_log() {
    let log = SystemLog::new();
    let reader = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            // The program has process ids of its own in the background.
            log.until_message("accepted connection from another PID namespace")
        });
        // What a machine without name servers is warned of is not what is asked here.
        let _program = log.background(&["--dns", "192.0.2.53"]);
        until("a client is told of", || {
            drop(log.place.connect());
            reading.is_finished().then_some(())
        });
        reading.join().unwrap()
    });
    // The queue of a socket is short: what the reader was too slow for is lost, and told of.
    let lost = |message: &String| message.contains(LOST);
    let expected = |message: &String| {
        message.starts_with("<30>passt: ") || message.starts_with("<28>passt: ") && lost(message)
    };
    assert!(reader.iter().all(expected), "{reader:?}");
    assert!(
        reader
            .iter()
            .any(|message| message.contains("UNIX domain socket bound at") || lost(message))
    );
}

/// What the log says of messages that it has no room for.
const LOST: &str = " messages lost: the system's log had no room for them";

#[test]
fn what_the_system_log_loses_is_told_of_there_alone() {
    const ROOM: usize = 5;
    let log = SystemLog::new();
    log.fill();
    for _ in 0..ROOM {
        log.next();
    }
    let output = log.passt(&["--dns", "192.0.2.53"]).output().unwrap();
    let _program = Started { pid: log.place.pid().unwrap() };
    let said = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    assert!(lines.len() > ROOM && !said.contains(" messages "), "{said}");
    let messages = log.until_message(lines[ROOM - 1]);
    let got: Vec<&str> =
        messages.iter().filter_map(|message| message.strip_prefix("<30>passt: ")).collect();
    assert_eq!(got, lines[..ROOM]);
    // Now there is room.
    drop(log.place.connect());
    let next = log.until_message("accepted");
    let told = format!("<28>passt: {}{LOST}", lines.len() - ROOM);
    assert_eq!(next.first(), Some(&told), "{next:?}");
}

#[test]
fn a_system_log_that_nobody_reads_holds_nothing_up() {
    let log = SystemLog::new();
    let _program = log.background(&[]);
    for _ in 0..50 {
        assert!(log.place.serves());
    }
    assert!(!log.is_silent());
}

#[test]
fn the_system_log_is_left_alone_in_the_foreground_and_when_debugging() {
    let log = SystemLog::new();
    {
        let _debugging = log.background(&["--debug"]);
        assert!(log.place.serves());
        assert!(log.is_silent());
    }
    std::fs::remove_file(log.place.path("pid")).unwrap();
    let _foreground = log.place.spawn(&mut log.passt(&["--foreground"]));
    assert!(log.place.serves());
    assert!(log.is_silent());
}

#[test]
fn quiet_leaves_out_what_is_no_warning() {
    let place = Place::new();
    let mut program = place.foreground(&["--quiet", "--mtu", "60"]);
    assert!(place.serves());
    program.end(Signal::TERM);
    let text = place.text("stderr");
    assert!(!text.contains("UNIX domain socket bound") && !text.contains("accepted"), "{text}");
    assert!(text.contains("MTU 60 is too small"), "{text}");
}

/// Has the program say more than it may, and waits until it has heard all.
fn flood(place: &Place) {
    for _ in 0..400 {
        drop(place.connect());
    }
    assert!(place.serves());
}

/// Lines that say how many were withheld.
fn withheld(place: &Place) -> usize {
    place.text("stderr").matches("messages withheld, too many at once").count()
}

#[test]
fn what_was_withheld_is_told_once_the_flood_is_over() {
    let place = Place::new();
    let _program = place.foreground(&[""; 0]);
    flood(&place);
    let told = withheld(&place);
    until("a number", || (withheld(&place) > told).then_some(()));
    let (told, lines) = (withheld(&place), place.text("stderr").lines().count());
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!((withheld(&place), place.text("stderr").lines().count()), (told, lines));
}

#[test]
fn what_was_withheld_is_told_at_the_end() {
    let place = Place::new();
    let mut program = place.foreground(&[""; 0]);
    flood(&place);
    assert_eq!(program.end(Signal::TERM), Some(0));
    let text = place.text("stderr");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.ends_with(" messages withheld, too many at once"), "{text}");
}

/// Seconds since start in front of a line, in tenths of milliseconds, and the rest.
fn stamped(line: &str) -> (u64, &str) {
    let (stamp, rest) = line.split_once(": ").unwrap_or_else(|| panic!("no time in {line:?}"));
    let (seconds, fraction) =
        stamp.split_once('.').unwrap_or_else(|| panic!("no time in {line:?}"));
    assert_eq!(fraction.len(), 4, "{line:?}");
    (seconds.parse::<u64>().unwrap() * 10_000 + fraction.parse::<u64>().unwrap(), rest)
}

#[test]
fn debug_messages_begin_with_the_time_since_start() {
    let place = Place::new();
    let mut program = place.foreground(&["--debug"]);
    assert!(place.serves());
    program.end(Signal::TERM);
    let text = place.text("stderr");
    let times: Vec<u64> = text.lines().map(|line| stamped(line).0).collect();
    assert!(times.len() > 5 && times.is_sorted(), "{text}");
}

#[test]
fn trace_tells_of_each_packet_and_event() {
    let place = Place::new();
    let mut program = place.foreground(&["--trace"]);
    assert!(place.serves());
    program.end(Signal::TERM);
    let text = place.text("stderr");
    for part in ["event: ", "from guest: 42 bytes", "to guest: "] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn a_log_file_takes_the_place_of_the_system_log() {
    let log = SystemLog::new();
    let file = log.place.path("log");
    let program = log.background(&["--log-file", file.to_str().unwrap()]);
    assert!(log.place.serves());
    until("a message", || log.place.text("log").contains("accepted").then_some(()));
    assert!(log.is_silent());
    drop(program);

    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let text = log.place.text("log");
    let mut lines = text.lines();
    let header = lines.next().unwrap();
    let words: Vec<&str> = header.split(' ').collect();
    assert!(words[0] == "passt" && words[1].ends_with(':'), "{header}");
    assert_eq!(words[2], env!("CARGO_BIN_EXE_passt"));
    assert!(words[3].starts_with('(') && words[3].ends_with(')'), "{header}");
    for line in lines {
        let (_, rest) = stamped(line);
        assert!(["ERROR:   ", "WARNING: ", "info:    "].contains(&&rest[..9]), "{line}");
    }
}

#[test]
fn a_log_file_gets_debug_messages_and_standard_error_gets_them_without_the_time() {
    let place = Place::new();
    let file = place.path("log");
    let mut program = place.foreground(&["--debug", "--log-file", file.to_str().unwrap()]);
    assert!(place.serves());
    program.end(Signal::TERM);
    assert!(place.text("log").lines().any(|line| line.contains(":          ")), "a debug tag");
    let stderr = place.text("stderr");
    assert!(stderr.lines().any(|line| line.starts_with("UNIX domain socket")), "{stderr}");
}

/// Who debugs gets every debug message; what is said without that stays limited.
#[test]
fn a_client_that_comes_again_and_again_does_not_fill_the_log_of_who_debugs() {
    let place = Place::new();
    let mut program = place.foreground(&["--debug"]);
    let first = place.connect();
    until("the first client", || {
        place.text("stderr").contains("accepted connection").then_some(())
    });
    for _ in 0..1000 {
        drop(place.connect());
    }
    drop(first);
    program.end(Signal::TERM);
    let said = place.text("stderr");
    let count = said.lines().filter(|line| line.contains("discarding connection")).count();
    assert!((1..300).contains(&count), "{count} of 1000");
}

/// Sends ARP requests until the log file has been cut.
fn chat(place: &Place, program: &Program) {
    let mut client = place.connect();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    until("a cut", || {
        for _ in 0..50 {
            std::io::Write::write_all(&mut client, &with_length(&arp_request())).unwrap();
            while next_frame(&mut client).unwrap()[12..14] != [8, 6] {}
        }
        assert!(!program.has_ended());
        place.text("log").contains(" - log truncated at ").then_some(())
    });
}

#[test]
fn a_log_file_stays_below_its_size_and_has_whole_lines() {
    let place = Place::new();
    let file = place.path("log");
    let path = file.to_str().unwrap();
    let mut program = place.foreground(&["--trace", "--log-file", path, "--log-size", "40960"]);
    chat(&place, &program);
    assert_eq!(program.end(Signal::TERM), Some(0));
    let text = place.text("log");
    assert!(text.len() <= 40_960 && text.ends_with('\n'));
    let mut lines = text.lines();
    let header = lines.next().unwrap();
    assert!(header.starts_with("passt ") && header.contains(" - log truncated at "), "{header}");
    let times: Vec<u64> = lines.map(|line| stamped(line).0).collect();
    assert!(times.len() > 50 && times.is_sorted(), "whole lines in order");
}

#[test]
fn pasta_keeps_its_log_below_its_size_too() {
    let place = Place::new();
    let file = place.path("log");
    let log = ["--trace", "--log-file", file.to_str().unwrap(), "--log-size", "40960"];
    let none = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"];
    let script = "for port in {1000..1999}; do echo >/dev/udp/198.51.100.7/$port; done";
    let mut command = unshare("n");
    command.arg(env!("CARGO_BIN_EXE_pasta")).args(NETWORK).args(log).args(none);
    let output = command.args(["--config-net", "--", "bash", "-c", script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = place.text("log");
    assert!(text.len() <= 40_960 && text.contains(" - log truncated at "), "{text}");
}

/// What pasta says once its command runs, which sends a datagram and needs some time.
fn said_beside_a_command(arguments: &[&str]) -> String {
    let none = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"];
    let script = "echo >/dev/udp/198.51.100.7/1000; sleep 0.5; echo own words >&2";
    let mut command = unshare("n");
    command.arg(env!("CARGO_BIN_EXE_pasta")).args(NETWORK).args(none).args(arguments);
    let output = command.args(["--config-net", "--", "bash", "-c", script]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("own words\n"), "{text}");
    text
}

#[test]
fn a_command_shares_standard_error_with_what_was_asked_for_and_with_nothing_else() {
    let place = Place::new();
    let file = place.path("log");
    let with_file = ["--trace", "--log-file", file.to_str().unwrap()];
    assert!(said_beside_a_command(&["--trace"]).contains(": from guest: "));
    assert!(!said_beside_a_command(&with_file).contains("from guest: "));
    assert!(place.text("log").contains("from guest: "));
    assert_eq!(said_beside_a_command(&["--quiet"]), "own words\n");
}

#[test]
fn a_log_file_that_cannot_be_made_is_an_error_in_known_words() {
    let place = Place::new();
    let file = place.path("missing/log");
    let message = refusal(&mut place.passt(&["--log-file", file.to_str().unwrap()]));
    assert!(message.starts_with("Couldn't open log file "), "{message}");
    assert!(message.contains(": No such file or directory"), "{message}");
    assert!(!place.path("socket").exists() && !place.path("pid").exists());
}

#[test]
fn a_fatal_error_is_in_the_log_file_too() {
    let place = Place::new();
    let file = place.path("log");
    let arguments = ["--log-file", file.to_str().unwrap(), "--pid", "/dev/null/pid"];
    let message = refusal(&mut place.passt(&arguments));
    assert!(message.contains("Couldn't open PID file"), "{message}");
    assert!(place.text("log").contains(": ERROR:   Couldn't open PID file"));
}
