//! Clients that are not well, or mean no good: the guest does not notice, and no memory grows.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use passt_support::namespace::isolated;
use passt_support::wait::until;
use serde_json::json;

use crate::guest::Guest;
use crate::rig::{Program, SETUP};

/// How long the guest may wait for an answer meanwhile: a turn takes far less, also of a debug build on a busy machine.
const BEARABLE: Duration = Duration::from_millis(500);

/// Memory that may be used more than before, in KiB: the buffers of all places and one large reply each.
const MORE_KIB: u64 = 16 * 1024;

/// How long the guest's longest wait of some was.
fn longest_wait(guest: &mut Guest) -> Duration {
    let one = |_| {
        let begin = Instant::now();
        guest.asks_for_gateway();
        begin.elapsed()
    };
    (0..20).map(one).max().unwrap()
}

fn connect(program: &Program) -> UnixStream {
    let stream = UnixStream::connect(program.path("control")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    stream
}

#[test]
fn lines_that_are_none_are_answered_or_end_the_connection() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "8080"]);
        let mut client = program.client();
        let deep = format!("{{\"command\":{}", "[".repeat(100_000));
        for line in [deep.as_str(), "\u{0}", "{\"command\":\"status\"", "null", "{\"a\":1e999}"] {
            assert_eq!(client.refusal(line)["field"], "", "{line:.20}");
        }
        client.send("");
        client.send("  \r");
        assert_eq!(client.answer("status")["link"], "down", "empty lines are no requests");
        // Many requests at once are answered one after the other.
        client.send(&[r#"{"command":"log"}"#; 50].join("\n"));
        for _ in 0..50 {
            assert_eq!(client.line("reply")["ok"], true);
        }
        // The last line of somebody who says no more needs no end.
        let mut stream = connect(&program);
        stream.write_all(b"{\"command\":\"log\"}").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("{\"ok\":true") && reply.ends_with("}\n"), "{reply}");
        // A line without end is too long at some point.
        let mut stream = connect(&program);
        let mut sent = 0;
        while stream.write(&[b'x'; 4096]).is_ok_and(|count| count > 0) {
            sent += 4096;
            assert!(sent < 4 << 20, "there is no end");
        }
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply);
        let reply = String::from_utf8(reply).unwrap();
        assert!(
            reply.contains("\"ok\":false") && reply.contains("longer than 262144 bytes"),
            "{reply}"
        );
    });
}

#[test]
fn clients_that_never_read_or_never_finish_hold_up_nobody() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "8080"]);
        let mut guest = Guest::of(&program);
        let mut client = program.client();
        let rules: Vec<String> =
            (0..1024).map(|net| format!("allow 10.{}.{}.0/24", net / 256, net % 256)).collect();
        client.ask(&json!({ "command": "egress-replace", "rules": rules }));
        drop(client);
        let before = program.resident_kib();
        let mut kept = Vec::new();
        for place in 0..8 {
            let mut stream = connect(&program);
            // Replies of 60 KiB each that nobody reads, or half a line.
            let line: &[u8] =
                if place % 2 == 0 { b"{\"command\":\"egress\"}\n" } else { b"{\"command\":" };
            for _ in 0..if place % 2 == 0 { 500 } else { 1 } {
                if stream.write_all(line).is_err() {
                    break;
                }
            }
            kept.push(stream);
        }
        assert!(longest_wait(&mut guest) < BEARABLE);
        let after = program.resident_kib();
        assert!(after < before + MORE_KIB, "{before} KiB before, {after} KiB after");
        // All places are taken: those who have one must be quick, and then it is the next one's turn.
        let begin = Instant::now();
        assert_eq!(program.client().answer("status")["program"], "passt");
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    });
}

#[test]
fn bytes_one_by_one_and_questions_without_pause_are_borne() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "8080"]);
        let mut guest = Guest::of(&program);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for client in 0..6 {
                let (program, done) = (&program, &done);
                scope.spawn(move || {
                    let mut stream = connect(program);
                    let _ = stream.write_all(&[b' '; 200_000]);
                    let mut reply = [0; 1 << 16];
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let request: &[u8] =
                            if client < 3 { b"x" } else { b"\n{\"command\":\"stats\"}\n" };
                        if stream.write_all(request).is_ok() && client >= 3 {
                            let _ = stream.read(&mut reply);
                        }
                    }
                });
            }
            let longest = longest_wait(&mut guest);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(longest < BEARABLE, "{longest:?}");
        });
        assert_eq!(program.client().answer("status")["link"], "up");
    });
}

#[test]
fn a_thousand_clients_in_turn_leave_nothing_behind() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "8080"]);
        let mut guest = Guest::of(&program);
        program.client().answer("status");
        let before = program.resident_kib();
        let lines: [&[u8]; 6] = [
            b"",
            b"{\"command\":\"status\"}\n",
            b"{\"command\":\"rules\"}\n{\"command\":\"wa",
            b"{\"command\":\"watch\"}\n",
            b"[[[[[[[[[[[[[[[[[[[[\n",
            &[b'x'; 3000],
        ];
        let mut longest = Duration::ZERO;
        for turn in 0..1000 {
            let mut stream = connect(&program);
            let _ = stream.write_all(lines[turn % lines.len()]);
            if turn % 3 == 0 {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
            drop(stream);
            if turn % 50 == 0 {
                longest = longest.max(longest_wait(&mut guest));
            }
        }
        assert!(longest < BEARABLE, "{longest:?}");
        let after = program.resident_kib();
        assert!(after < before + MORE_KIB, "{before} KiB before, {after} KiB after");
        let mut client = program.client();
        until("answered", || (client.answer("status")["link"] == "up").then_some(()));
    });
}

/// Who may only read, follows events, and sends long lines without pause, takes no turn of those at the other socket.
#[test]
fn who_follows_events_and_asks_without_pause_leaves_time_to_others() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "8080"]);
        let done = std::sync::atomic::AtomicBool::new(false);
        let line = format!("{{\"x\":[{}0]}}\n", "0,".repeat(16 << 10));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                let mut stream = UnixStream::connect(program.path("read")).unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
                stream.write_all(b"{\"command\":\"watch\"}\n").unwrap();
                let mut told = [0; 1 << 12];
                assert!(stream.read(&mut told).unwrap() > 0);
                let (line, done) = (&line, &done);
                scope.spawn(move || {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        let _ = stream.write_all(line.as_bytes());
                        let _ = stream.read(&mut told);
                    }
                });
            }
            // What they have saved up is used.
            std::thread::sleep(Duration::from_millis(500));
            let begin = Instant::now();
            for _ in 0..5 {
                let answered = std::panic::catch_unwind(|| program.client().answer("status"));
                assert!(answered.is_ok_and(|answer| answer["program"] == "passt"));
            }
            let waited = begin.elapsed();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(waited < Duration::from_secs(15), "{waited:?}");
        });
    });
}

/// The log is there for others, too.
#[test]
fn a_crowd_that_is_cut_off_is_told_of_once() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "8080"]);
        let mut silent: Vec<UnixStream> = (0..30).map(|_| connect(&program)).collect();
        for stream in silent.iter_mut().take(16) {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it is cut off");
        }
        let messages = program.messages();
        let told = messages.lines().filter(|line| line.contains("cut off")).count();
        assert_eq!(told, 1, "{messages}");
    });
}
