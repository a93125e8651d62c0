//! pesto against programs that are not what they should be: each is a socket of the test, which answers as it likes.

#![allow(clippy::panic, missing_docs, reason = "a test fails by panicking; nobody imports it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use passt_support::wait::leave_socket;

const HELLO: &[u8] = b"basil:s\0\0\0\0\x02\0\0\0\x80\0\0\0\x10";

/// A table of the host's ports with these rules.
fn table(rules: &[[u8; 56]]) -> Vec<u8> {
    let mut bytes = b"\x01HOST".to_vec();
    bytes.extend([0; 124]);
    bytes.extend([0, 0, 0, 0x2f]);
    bytes.extend((rules.len() as u32).to_be_bytes());
    bytes.extend(rules.concat());
    bytes
}

/// A TCP rule for a port on all addresses.
fn rule(port: u16) -> [u8; 56] {
    let mut bytes = [0; 56];
    for at in [48, 50, 52] {
        bytes[at..at + 2].copy_from_slice(&port.to_be_bytes());
    }
    (bytes[54], bytes[55]) = (6, 1);
    bytes
}

/// What a program with these rules says first.
fn told(rules: &[[u8; 56]]) -> Vec<u8> {
    [HELLO, &table(rules), &[0]].concat()
}

fn pesto(options: &[&str], socket: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pesto"));
    command.args(options).arg(socket).stdin(Stdio::null()).output().expect("pesto runs")
}

/// What pesto says to the programs that `serve` plays, one for each time that it connects.
fn with(options: &[&str], serve: &[&(dyn Fn(&mut UnixStream) + Sync)]) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c");
    let listener = UnixListener::bind(&path).expect("bound");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for one in serve {
                let (mut client, _) = listener.accept().expect("connected");
                one(&mut client);
            }
        });
        pesto(options, &path)
    })
}

/// One that says this and closes.
fn says(bytes: &[u8]) -> Output {
    with(&[], &[&|client| drop(client.write_all(bytes))])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Its error, with status 1 and without any output.
fn failure(output: &Output) -> String {
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
    text(&output.stderr)
}

#[test]
fn what_is_no_program_of_ours_is_named() {
    let version = |number: u8| [b"basil:s\0\0\0\0", &[number][..], &HELLO[12..]].concat();
    let named = |name: &[u8]| {
        let mut bytes = told(&[]);
        bytes[21..21 + name.len()].copy_from_slice(name);
        bytes
    };
    let wrong_rule = {
        let mut one = rule(7000);
        one[54] = 1;
        told(&[one])
    };
    let many = [HELLO, &table(&[])[..133], &[0, 0, 1, 0]].concat();
    let tables = [HELLO, &table(&[]).repeat(17)].concat();
    for (bytes, words) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "Bad magic number from server"),
        (&version(3), "Unknown server protocol version 3 > 2"),
        (&version(1), "Unsupported server protocol version 1 < 2"),
        (&version(0), "Unsupported experimental server protocol version 0"),
        (b"", "has closed the connection before it has told its rules"),
        (&HELLO[..19], "has closed the connection before it has told its rules"),
        (&told(&[rule(7000)])[..200], "has closed the connection before it has told its rules"),
        (&wrong_rule, "Rule for unknown protocol 1"),
        (&many, "Too many rules (256, maximum 255)"),
        (&named(&[b'x'; 128]), "has no readable name"),
        (&named(b"\x1b[2J"), "has no readable name"),
        (&tables, "The server has too many tables"),
    ] {
        let said = failure(&says(bytes));
        assert!(said.contains(words) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn nobody_and_nothing_at_the_path_are_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c");
    let said = failure(&pesto(&[], &path));
    assert!(said.starts_with(&format!("Failed to connect to {}: No such file", path.display())));
    leave_socket(&path);
    assert!(failure(&pesto(&[], &path)).contains("Connection refused: is the program running?"));
    let long = folder.path().join("x".repeat(120));
    assert!(failure(&pesto(&[], &long)).starts_with("Invalid socket path: "));
}

/// Reads a request for one table, to its end.
fn request(client: &mut UnixStream) -> Vec<u8> {
    let mut head = [0; 5];
    client.read_exact(&mut head).expect("a request");
    let mut rest = vec![0; usize::from(head[4]) * 56 + 1];
    client.read_exact(&mut rest).expect("a request");
    [&head[..], &rest].concat()
}

/// Tells the rules, reads the request, and answers.
fn answers<'a>(rules: &'a [[u8; 56]], answer: &'a [u8]) -> impl Fn(&mut UnixStream) + Sync + 'a {
    move |client| {
        client.write_all(&told(rules)).expect("it reads");
        let wanted = [&[1, 0, 0, 0, 2][..], &rule(7000), &rule(7001), &[0]].concat();
        assert_eq!(request(client), wanted);
        client.write_all(answer).expect("it reads");
    }
}

const ADD: &[&str] = &["-A", "-t", "7001"];

#[test]
fn the_verdict_counts_and_its_reason_is_told() {
    let before = [rule(7000)];
    let done = with(ADD, &[&answers(&before, b"\0")]);
    assert!(done.status.success() && done.stdout.is_empty() && done.stderr.is_empty());
    let refused = with(ADD, &[&answers(&before, b"\x01Port 7001 is taken\x1b[2J\nby another\n")]);
    assert_eq!(failure(&refused), "Port 7001 is taken?[2J\nby another\nNothing has changed\n");
    let unknown = with(ADD, &[&answers(&before, b"\x07")]);
    assert!(failure(&unknown).starts_with("Unknown answer of "));
}

#[test]
fn who_gives_no_verdict_is_asked_again() {
    let (before, after) = ([rule(7000)], [rule(7000), rule(7001)]);
    let tells = |rules: &'static [u16]| {
        let rules: Vec<_> = rules.iter().map(|port| rule(*port)).collect();
        move |client: &mut UnixStream| drop(client.write_all(&told(&rules)))
    };
    let followed = with(ADD, &[&answers(&before, b""), &tells(&[7000, 7001])]);
    assert!(followed.status.success(), "{followed:?}");
    let others = with(ADD, &[&answers(&before, b""), &tells(&[7001, 9])]);
    assert!(others.status.success(), "{others:?}");
    let not = with(ADD, &[&answers(&before, b""), &tells(&[7000])]);
    assert!(failure(&not).contains("has not taken the new rules: see its log"));

    let shown = with(&["-s", "-t", "7000,7001"], &[&answers(&after, b"\0")]);
    let lines = "  HOST\n    TCP [*]:7000  =>  7000 \n    TCP [*]:7001  =>  7001 \n";
    let expected = format!("configuration (SOCKET)\n{lines}");
    let said = text(&shown.stdout);
    let sections: Vec<_> = said.split_inclusive("7001  =>  7001 \n").collect();
    assert_eq!(sections.len(), 2, "{said}");
    for (section, title) in sections.iter().zip(["Previous ", "Updated "]) {
        let path = section.split(['(', ')']).nth(1).expect("a path");
        assert_eq!(section.replace(path, "SOCKET"), format!("{title}{expected}"));
    }
}

/// The status that a hostile listener may tell.
const STATUS: &[u8] = br#"{"ok":true,"result":{"program":"p\u001b[2J\u009b","version":"1","mode":"m","link":"up",
"uptime_ms":1,"told":{"mac":"m","mtu":null,"ipv4":null,"ipv6":null,"search":[],"hostname":null,"fqdn":null},
"learned":{"mac":null,"ipv4":null,"ipv6":null,"ipv6_link_local":null},"mapped":[],"flows":0,"listening":0,
"limits":{"descriptors":1,"flows":1,"rules":1,"egress_rules":1,"half_open":1}}}"#;
const STATS: &[u8] =
    br#"{"ok":true,"result":{"uptime_ms":1,"flows":{"a\u001b[2J":1},"flows_begun":{},"half_open":0,
"listening":0,"drops":{},"events":{},"link":{}}}"#;
const EGRESS: &[u8] =
    br#"{"ok":true,"result":{"rules":[{"rule":"x\u001b[2J\u009b","decided":1,"isolate":false}],"unmatched":0}}"#;
const WATCHED: &[u8] = br#"{"ok":true,"result":{"events":[]}}"#;

/// Answers each request by the next of these.
fn replies<'a>(lines: &'a [&'a [u8]]) -> impl Fn(&mut UnixStream) + Sync + 'a {
    move |client| {
        let mut requests = BufReader::new(client.try_clone().expect("a descriptor"));
        for line in lines {
            requests.read_line(&mut String::new()).expect("a request");
            let line: Vec<u8> = line.iter().copied().filter(|byte| *byte != b'\n').collect();
            client.write_all(&[&line[..], b"\n"].concat()).expect("it reads");
        }
    }
}

#[test]
fn no_listener_commands_the_terminal() {
    let evil = "{\"a\":\"\u{1b}]0;x\u{7}\u{9b}2J\u{7f}\r\t\"}";
    let result = format!("{{\"ok\":true,\"result\":{}}}", evil.replace(|c| c < ' ', ""));
    let flow = "{\"ok\":true,\"result\":{\"flows\":[],\"next\":null}}".to_owned();
    let watches = |client: &mut UnixStream| {
        replies(&[WATCHED])(client);
        client.write_all(format!("{evil}\n").as_bytes()).expect("it reads");
    };
    for (options, serve) in [
        (&["watch"][..], &watches as &(dyn Fn(&mut UnixStream) + Sync)),
        (&["status", "--json"], &replies(&[result.as_bytes()])),
        (&["status"], &replies(&[STATUS])),
        (&["metrics"], &replies(&[STATUS, STATS, EGRESS])),
        (&["flows", "--json"], &replies(&[flow.as_bytes()])),
    ] {
        let output = with(options, &[serve]);
        let said = [text(&output.stdout), text(&output.stderr)].concat();
        let commands = |c: char| c.is_control() && c != '\n';
        assert!(!said.contains(commands), "{options:?}: {said:?}");
        if options.contains(&"--json") || options == ["watch"] {
            let first = text(&output.stdout);
            assert!(
                first.is_empty() || serde_json::from_str::<serde_json::Value>(first.trim()).is_ok()
            );
        }
        if options == ["status", "--json"] {
            assert_eq!(text(&output.stdout), "{\"a\":\"]0;x\\u009b2J\\u007f\"}\n");
        }
    }
}

#[test]
fn requests_as_they_are_get_replies_without_control_characters() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c");
    let listener = UnixListener::bind(&path).expect("bound");
    let output = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut client, _) = listener.accept().expect("connected");
            replies(&[b"\x1b[2J\"a\xc2\x9b\""])(&mut client);
        });
        let mut command = Command::new(env!("CARGO_BIN_EXE_pesto"));
        command.arg("--json").arg(&path).arg("{}").output().expect("pesto runs")
    });
    assert_eq!(text(&output.stdout), "\\u001b[2J\"a\\u009b\"\n");
}

#[test]
fn a_list_that_does_not_go_on_is_none() {
    let asked = AtomicUsize::new(0);
    let stuck = |client: &mut UnixStream| {
        let requests = BufReader::new(client.try_clone().expect("a descriptor"));
        for _ in requests.lines().take(20) {
            let _ = client.write_all(b"{\"ok\":true,\"result\":{\"flows\":[],\"next\":0}}\n");
            asked.fetch_add(1, Ordering::Relaxed);
        }
    };
    let said = failure_behind(&with(&["flows"], &[&stuck]));
    assert!(said.contains("does not answer as a control socket does"), "{said}");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

/// Its error, with status 1, whatever it has printed before.
fn failure_behind(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    text(&output.stderr)
}

#[test]
fn who_is_cut_off_while_it_watches_is_told() {
    for rest in [&b""[..], b"{\"event\":\"ru"] {
        let cuts_off = |client: &mut UnixStream| {
            replies(&[WATCHED])(client);
            client
                .write_all(&[&b"{\"event\":\"link-up\"}\n"[..], rest].concat())
                .expect("it reads");
        };
        let output = with(&["watch"], &[&cuts_off]);
        let said = failure_behind(&output);
        assert!(said.contains("has closed the connection, and still listens: "), "{said}");
        assert_eq!(text(&output.stdout), "{\"event\":\"link-up\"}\n");
    }
}

/// As in `pesto watch PATH | head -n 1`: it does not wait for an event that nobody wants.
#[test]
fn who_watches_ends_with_its_reader() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("c");
    let listener = UnixListener::bind(&path).expect("bound");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pesto"));
    let mut watching =
        command.arg("watch").arg(&path).stdout(Stdio::piped()).spawn().expect("pesto runs");
    let (mut client, _) = listener.accept().expect("connected");
    replies(&[WATCHED])(&mut client);
    client.write_all(b"{\"event\":\"link-up\"}\n").expect("it reads");
    let mut lines = BufReader::new(watching.stdout.take().expect("piped"));
    let mut line = String::new();
    lines.read_line(&mut line).expect("an event");
    assert_eq!(line, "{\"event\":\"link-up\"}\n");
    drop(lines);
    assert!(watching.wait().expect("it ends").success());
}

#[test]
fn a_reply_counts_though_the_request_was_not_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules");
    std::fs::write(&file, "allow 192.0.2.0/24\n".repeat(20_000)).expect("written");
    let refuses = |client: &mut UnixStream| {
        client.read_exact(&mut [0; 1000]).expect("a request");
        let reply =
            br#"{"ok":false,"error":{"field":"","problem":"It is too long","cure":"be short"}}"#;
        client.write_all(&[&reply[..], b"\n"].concat()).expect("it reads");
    };
    let words = ["egress-replace", "--file", file.to_str().expect("text")];
    assert_eq!(failure(&with(&words, &[&refuses])), "It is too long: be short\n");
}

#[test]
fn the_other_protocol_is_no_reply() {
    let refuses = |client: &mut UnixStream| {
        client.write_all(&told(&[])).expect("it reads");
        client.read_exact(&mut [0; 10]).expect("a request");
        client.write_all(b"\x01The client speaks JSON\n").expect("it reads");
    };
    let said = failure(&with(&["status"], &[&refuses]));
    assert!(said.contains("does not answer as a control socket does"), "{said}");
}
