//! pesto: tables that fit a terminal, OpenMetrics text, JSON as it is, and errors in words.

use std::net::{TcpListener, UdpSocket};

use passt_support::namespace::isolated;
use passt_support::wait::until;
use serde_json::{Value, json};

use crate::guest::Guest;
use crate::openmetrics;
use crate::rig::{Program, SETUP};
use crate::schema::{errors, schema};

/// The text, whose lines all have to fit a terminal.
fn fitting(text: String) -> String {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    text
}

#[test]
fn tables_fit_a_terminal() {
    isolated(SETUP, || {
        let program = Program::passt(&[
            "-t",
            "8080:80",
            "--egress",
            "allow any",
            "--hostname",
            "guest.example",
        ]);
        let mut guest = Guest::of(&program);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        guest.connects(40_000, port);
        let told = |words: &[&str]| fitting(program.told(words));
        let status = told(&["status", "read"]);
        for words in [
            "passt 0.1.0, stream",
            "192.0.2.2/24, gateway 192.0.2.1, DNS 192.0.2.1",
            "up",
            "guest.example",
        ] {
            assert!(status.contains(words), "{words}: {status}");
        }
        let flows = told(&["flows", "read"]);
        let at = format!("guest 192.0.2.2:40000 -> host 127.0.0.1:{port}");
        assert!(flows.contains(&at) && flows.contains("established"), "{flows}");
        assert_eq!(flows.lines().count(), 3);
        let none = told(&["flows", "read", "--proto", "udp"]);
        assert_eq!(none.lines().count(), 1);
        let stats = told(&["stats", "read"]);
        assert!(
            stats.contains("stream.from_guest.frames") && !stats.contains("too-large"),
            "{stats}"
        );
        assert!(told(&["stats", "read", "--all"]).contains("too-large"));
        let rules = told(&["rules", "read"]);
        assert!(rules.contains("0.0.0.0:8080 => 80"), "{rules}");
        let egress = told(&["egress", "read"]);
        assert!(egress.lines().any(|line| line.trim() == "1  allow any"), "{egress}");
        assert_eq!(told(&["log", "read"]), "info, to stderr\n");
    });
}

#[test]
fn everything_can_be_changed() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "none", "-u", "none"]);
        let told = |words: &[&str]| fitting(program.told(words));
        assert!(told(&["rules-add", "control", "-t", "8080:80"]).contains("8080 => 80"));
        assert!(told(&["rules-add", "control", "-u", "5353"]).contains("udp"));
        let rules = told(&["rules-delete", "control", "-t", "8080:80"]);
        assert!(rules.contains("udp") && !rules.contains("tcp"), "{rules}");
        let rules = told(&["rules-replace", "control", "-t", "8081", "-t", "8082", "-u", "5354"]);
        assert_eq!(rules.lines().count(), 4);
        let number = rules.lines().find(|line| line.contains("8082")).unwrap();
        let number = number.split_whitespace().next().unwrap();
        assert!(!told(&["rules-delete", "control", "--rule", number]).contains("8082"));
        let file = program.path("rules");
        std::fs::write(&file, "# comment\nallow @dns # of the guest\n\nreject any\n").unwrap();
        let policy = told(&[
            "egress-replace",
            "control",
            "allow tcp @loopback",
            "--file",
            file.to_str().unwrap(),
        ]);
        let rules: Vec<&str> = policy.lines().skip(1).map(|line| line[11..].trim_end()).collect();
        assert_eq!(
            rules,
            ["allow tcp @loopback", "allow @dns", "reject any", "no rule matches: reject"]
        );
        assert!(
            told(&["egress-replace", "control", "--isolate"])
                .contains("--isolate: allow @internet")
        );
        assert_eq!(told(&["log", "control", "debug"]), "debug, to stderr\n");
        told(&["egress-replace", "control"]);
        let mut guest = Guest::of(&program);
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        guest.datagram(5000, server.local_addr().unwrap().port(), b"x");
        server.recv_from(&mut [0; 8]).unwrap();
        let flows = told(&["flows", "control"]);
        let name = flows.lines().nth(1).unwrap().split_whitespace().next().unwrap();
        assert!(told(&["flow-reset", "control", name]).contains("udp"));
        assert_eq!(told(&["flows", "control"]).lines().count(), 1);
    });
}

#[test]
fn metrics_are_openmetrics() {
    isolated(SETUP, || {
        let rule = r#"allow tcp 192.0.2.0/24:1-2"#;
        let program = Program::passt(&[
            "-t",
            "8080",
            "--egress",
            rule,
            "--egress",
            "allow any",
            "--egress",
            "allow any",
        ]);
        let mut guest = Guest::of(&program);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        guest.connects(40_000, listener.local_addr().unwrap().port());
        let text = program.told(&["metrics", "read"]);
        let samples = openmetrics::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let value = |name: &str, labels: &[(&str, &str)]| {
            let labels =
                labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            samples[&(name.to_owned(), labels.collect())]
        };
        let about =
            [("mode", "stream"), ("program", "passt"), ("version", env!("CARGO_PKG_VERSION"))];
        assert_eq!(value("passt_build_info", &about), 1.0);
        assert_eq!(value("passt_link_up", &[]), 1.0);
        assert!(value("passt_uptime_seconds", &[]) > 0.0);
        assert_eq!(value("passt_flows", &[("kind", "tcp")]), 1.0);
        assert_eq!(value("passt_flows_begun_total", &[("kind", "tcp")]), 1.0);
        assert_eq!(value("passt_listening_sockets", &[]), 1.0);
        assert_eq!(value("passt_drops_total", &[("reason", "no-route")]), 0.0);
        assert!(value("passt_link_counts_total", &[("counter", "stream.to_guest.frames")]) >= 2.0);
        assert_eq!(value("passt_egress_decisions_total", &[("place", "0"), ("rule", rule)]), 0.0);
        assert_eq!(
            value("passt_egress_decisions_total", &[("place", "1"), ("rule", "allow any")]),
            1.0
        );
        assert_eq!(
            value("passt_egress_decisions_total", &[("place", "2"), ("rule", "allow any")]),
            0.0
        );
    });
}

#[test]
fn json_is_passed_on_as_it_is() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "8080"]);
        let root = schema();
        let lines = |text: &str| -> Vec<Value> {
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let input = "{\"command\":\"status\",\"tag\":1}\n\nnonsense\n{\"command\":\"rules\"}\n";
        let output = program.pesto_given(&["--json", "read"], input);
        assert!(output.status.success(), "{output:?}");
        let replies = lines(&String::from_utf8(output.stdout).unwrap());
        assert_eq!(replies.len(), 3);
        for reply in &replies {
            assert_eq!(errors(&root, "reply", reply), None);
        }
        assert_eq!((&replies[0]["tag"], &replies[1]["ok"]), (&json!(1), &json!(false)));
        let one =
            program.told(&["--json", "read", r#"{"command":"log"}"#, r#"{"command":"egress"}"#]);
        assert_eq!(lines(&one).len(), 2);
        for (command, name) in [
            ("status", "status"),
            ("stats", "stats"),
            ("rules", "rules"),
            ("egress", "egress"),
            ("log", "log"),
        ] {
            let answer = &lines(&program.told(&[command, "read", "--json"]))[0];
            assert_eq!(errors(&root, name, answer), None, "{command}");
        }
        let mut guest = Guest::of(&program);
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        for from in 0..200 {
            guest.datagram(5000 + from, server.local_addr().unwrap().port(), b"x");
            server.recv_from(&mut [0; 8]).unwrap();
        }
        let flows = lines(&program.told(&["flows", "read", "--json"]));
        assert_eq!(flows.len(), 200, "a line for each, of all pages");
        assert!(flows.iter().all(|flow| errors(&root, "flow", flow).is_none()));
    });
}

#[test]
fn events_are_lines_until_the_program_ends() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "none"]);
        let mut pesto = std::process::Command::new(env!("CARGO_BIN_EXE_pesto"))
            .args(["watch", program.path("read").to_str().unwrap(), "rules", "link-up"])
            .stdout(std::fs::File::create(program.path("events")).unwrap())
            .spawn()
            .unwrap();
        let events = || std::fs::read_to_string(program.path("events")).unwrap();
        let mut port = 8000;
        until("events", || {
            port += 1;
            program.told(&["rules-replace", "control", "-t", &port.to_string()]);
            (events().lines().count() >= 2).then_some(())
        });
        let event: Value = serde_json::from_str(events().lines().next().unwrap()).unwrap();
        assert_eq!(errors(&schema(), "event", &event), None);
        drop(program);
        assert!(pesto.wait().unwrap().success(), "the end of the program is the end of the events");
    });
}

#[test]
fn what_goes_wrong_is_told_in_words() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "none"]);
        let other = std::os::unix::net::UnixListener::bind(program.path("other")).unwrap();
        std::thread::spawn(move || {
            use std::io::Write;
            let mut kept = Vec::new();
            for client in other.incoming() {
                let mut client = client.unwrap();
                let _ = client.write_all(b"220 mail.example\n");
                kept.push(client);
            }
        });
        let (gone, other) = (program.path("gone"), program.path("other"));
        let (gone, other) = (gone.to_str().unwrap(), other.to_str().unwrap());
        for (words, said) in [
            (&["status", gone][..], "No such file or directory: give the path of --control"),
            (&["status", other], "does not answer as a control socket does"),
            (&["flow-reset", "control", "7.0"], "flow: There is no flow 7.0 any more: "),
            (&["rules-add", "read", "-t", "1"], "command: This socket answers questions"),
            (&["rules-add", "control", "-t", "x"], "ports: Invalid port specifier 'x': "),
            (&["egress-replace", "control", "permit any"], "rules[0]: Invalid action 'permit'"),
            (&["egress-replace", "control", "--file", gone], "Cannot read"),
            (
                &["flows", "control", "--state", "open"],
                "state: 'open' is unknown: one of connecting",
            ),
            (&["log", "control", "loud"], "level: 'loud' is unknown"),
            (&["flows", "control", "--port", "x"], "invalid value 'x'"),
            (&["status"], "required arguments were not provided"),
        ] {
            let output = program.pesto(words);
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && output.stdout.is_empty(), "{words:?}");
            assert!(text.contains(said), "{words:?}: {text}");
        }
    });
}

/// A request that is too long for the socket is refused by it, and the answer is short, however long the words were.
#[test]
fn what_is_too_much_is_told_shortly() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "none"]);
        let file = program.path("rules");
        std::fs::write(&file, "allow 192.0.2.0/24\n".repeat(20_000)).unwrap();
        let ports: Vec<String> = (1..2000).map(|port| (port * 4).to_string()).collect();
        for (words, said) in [
            (
                &["egress-replace", "control", "--file", file.to_str().unwrap()][..],
                "The line is longer than 262144 bytes: send a shorter one",
            ),
            (
                &["rules-replace", "control", "-t", &ports.join(",")],
                "...: join neighboring ports to ranges",
            ),
            (&["rules-add", "control", "-t", &format!("{},x", ports.join(","))], "'x' is no port"),
        ] {
            let output = program.pesto(words);
            let text = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && text.contains(said), "{text}");
            assert!(text.len() < 500, "{} bytes: {text}", text.len());
        }
    });
}

#[test]
fn what_listens_leaves_fewer_flows_and_that_is_told() {
    isolated(SETUP, || {
        let program = Program::limited(256, &["-t", "2001-2030"]);
        let mut client = program.client();
        // Of 256 one half is kept back, and 18 are for the control sockets.
        assert_eq!(client.answer("status")["limits"]["flows"], 128 - 18 - 30);
        let mut add = |ports: &str| {
            let request = json!({ "command": "rules-add", "proto": "tcp", "ports": ports });
            let warnings = client.ask(&request)["warnings"][0].as_str().unwrap().to_owned();
            (warnings, client.answer("status")["limits"]["flows"].as_u64())
        };
        let (warning, flows) = add("3001-3040");
        assert!(warning.contains("leaves few for connections") && flows == Some(40), "{warning}");
        let (warning, flows) = add("3101-3160");
        assert!(warning.contains("leaves nothing for connections"), "{warning}");
        assert_eq!(flows, Some(0));
        assert!(program.told(&["metrics", "read"]).contains("\npasst_flows_limit 0\n"));
        drop(program);
        let program = Program::limited(256, &["-t", "2001-2120"]);
        assert!(program.messages().contains("leaves nothing for connections"));
    });
}
