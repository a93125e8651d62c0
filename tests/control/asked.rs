//! What is asked: status, counters, flows, events.

use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;

use passt_support::namespace::isolated;
use passt_support::wait::until;
use serde_json::json;

use crate::guest::{Guest, MAC};
use crate::rig::{Client, Program, SETUP};

#[test]
fn status_says_what_the_guest_is_told_and_what_it_has_told() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "8080", "-m", "1500"]);
        let mut client = program.client();
        let status = client.answer("status");
        assert_eq!((&status["program"], &status["mode"]), (&json!("passt"), &json!("stream")));
        assert_eq!(status["link"], "down");
        assert_eq!(status["listening"], 1);
        assert_eq!(status["told"]["mtu"], 1500);
        let v4 = json!({ "address": "192.0.2.2", "prefix_length": 24, "gateway": "192.0.2.1",
            "dns": ["192.0.2.1"] });
        assert_eq!(status["told"]["ipv4"], v4);
        assert_eq!(
            (&status["told"]["ipv6"], &status["learned"]["mac"]),
            (&json!(null), &json!(null))
        );
        let mapped = json!([{ "address": "192.0.2.1", "means": "host-loopback", "to": null }]);
        assert_eq!(status["mapped"], mapped);
        let mut guest = Guest::of(&program);
        guest.asks_for_gateway();
        let status = client.reply(&json!({ "command": "status", "tag": "again" }));
        assert_eq!(status["tag"], "again");
        assert_eq!(status["result"]["link"], "up");
        let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
        assert_eq!(status["result"]["learned"]["mac"], mac);
        drop(guest);
        until("the link is down", || (client.answer("status")["link"] == "down").then_some(()));
    });
}

#[test]
fn counters_have_names_and_count() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "none"]);
        let mut client = program.client();
        let before = client.answer("stats");
        for name in ["truncated", "no-route", "egress-rejected", "no-guest-room"] {
            assert_eq!(before["drops"][name], 0, "{name}");
        }
        let mut guest = Guest::of(&program);
        // An Ethernet type that nobody knows.
        let mut frame = [&[0xff; 6][..], &MAC, &[0x12, 0x34]].concat();
        frame.resize(60, 0);
        guest.send(&frame);
        guest.asks_for_gateway();
        let after = client.answer("stats");
        assert_eq!(after["drops"]["unknown-ethertype"], 1);
        let frames = &after["link"]["stream.from_guest.frames"];
        assert!(frames.as_u64() >= Some(3), "{frames}");
        let events = &after["events"]["connected-qemu-socket"];
        assert!(events.as_u64() >= Some(1), "{events}");
        assert!(after["uptime_ms"].as_u64() >= before["uptime_ms"].as_u64());
    });
}

/// Who collects counters looks for them by name: those that have a name keep it. New ones belong at the end of their
/// section.
#[test]
fn counters_keep_their_names() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "none"]);
        let _guest = Guest::of(&program);
        let stats = program.client().answer("stats");
        let (mut section, mut names) = ("", 0);
        for line in include_str!("counters.txt").lines() {
            match line.strip_suffix(':') {
                Some(name) => section = name,
                None => {
                    assert!(stats[section][line].is_u64(), "{section}: {line} is gone");
                    names += 1;
                }
            }
        }
        assert!(names > 70, "{names}");
    });
}

#[test]
fn a_connection_is_told_with_its_sides_bytes_and_times_and_can_be_reset() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "none"]);
        let (mut client, mut guest) = (program.client(), Guest::of(&program));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut ours = guest.connects(40_000, port);
        let (mut theirs, _) = listener.accept().unwrap();
        guest.writes(&mut ours, &[7; 1000]);
        theirs.read_exact(&mut [0; 1000]).unwrap();
        theirs.write_all(&[8; 500]).unwrap();
        guest.reads(&mut ours, 500);
        let flows = client.flows();
        let [flow] = &flows[..] else { panic!("{flows:?}") };
        assert_eq!((&flow["proto"], &flow["state"]), (&json!("tcp"), &json!("established")));
        assert_eq!(flow["bypass"], false);
        let initiator = json!({ "place": "guest", "address": "192.0.2.2", "port": 40_000,
            "our_address": "192.0.2.1", "our_port": port });
        assert_eq!(flow["initiator"], initiator);
        let target = &flow["target"];
        assert_eq!((&target["place"], &target["address"]), (&json!("host"), &json!("127.0.0.1")));
        assert_eq!(target["port"], port);
        assert_eq!((&flow["bytes_forward"], &flow["bytes_back"]), (&json!(1000), &json!(500)));
        assert!(flow["rtt_us"].as_u64() > Some(0), "{flow}");
        assert!(
            flow["age_ms"].as_u64() < Some(30_000)
                && flow["idle_ms"].as_u64() <= flow["age_ms"].as_u64()
        );
        // The end of a stream is no byte of it.
        guest.shuts(&mut ours);
        assert_eq!(theirs.read(&mut [0; 8]).unwrap(), 0);
        theirs.write_all(&[9; 3]).unwrap();
        guest.reads(&mut ours, 3);
        let flow = &client.flows()[0];
        assert_eq!(flow["state"], "half-closed");
        assert_eq!((&flow["bytes_forward"], &flow["bytes_back"]), (&json!(1000), &json!(503)));

        let name = flow["flow"].as_str().unwrap();
        let ended = client.ask(&json!({ "command": "flow-reset", "flow": name }));
        assert_eq!(ended["flows"][0]["flow"], name);
        guest.is_reset(&ours);
        until("a reset", || theirs.write(&[0]).err());
        assert!(client.flows().is_empty());
        let line = json!({ "command": "flow-reset", "flow": name }).to_string();
        let refusal = client.refusal(&line);
        assert_eq!(refusal["field"], "flow");
        assert!(refusal["problem"].as_str().unwrap().contains(name), "{refusal}");
    });
}

#[test]
fn a_connection_whose_peer_has_ended_has_as_many_bytes_as_were_sent() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "none"]);
        let (mut client, mut guest) = (program.client(), Guest::of(&program));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = guest.connects(40_001, listener.local_addr().unwrap().port());
        let (mut theirs, _) = listener.accept().unwrap();
        theirs.write_all(&[8; 100]).unwrap();
        guest.reads(&mut ours, 100);
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let flow = until("half-closed", || {
            client.flows().into_iter().find(|flow| flow["state"] == "half-closed")
        });
        assert_eq!((&flow["bytes_forward"], &flow["bytes_back"]), (&json!(0), &json!(100)));
    });
}

#[test]
fn datagrams_are_counted_in_bytes_each_way() {
    isolated(SETUP, || {
        let program = Program::passt(&["-u", "none"]);
        let (mut client, mut guest) = (program.client(), Guest::of(&program));
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        guest.datagram(5000, port, b"1234567890");
        let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
        let unanswered = json!({ "command": "flows", "state": "unanswered" });
        assert_eq!(client.ask(&unanswered)["flows"][0]["bytes_forward"], 10);
        for answer in [&[1u8; 20][..], &[2; 2000]] {
            server.send_to(answer, from).unwrap();
            let len = answer.len();
            guest.next(|frame| (frame[23] == 17 && frame.len() == 42 + len).then_some(()));
        }
        let flows = client.ask(&json!({ "command": "flows", "port": port, "proto": "udp" }));
        let flow = &flows["flows"][0];
        assert_eq!(flow["state"], "stream");
        assert_eq!((&flow["bytes_forward"], &flow["bytes_back"]), (&json!(10), &json!(2020)));
        assert_eq!((&flow["rtt_us"], &flow["target"]["port"]), (&json!(null), &json!(port)));
        let name = flow["flow"].as_str().unwrap();
        client.ask(&json!({ "command": "flow-reset", "flow": name }));
        assert!(client.flows().is_empty());
    });
}

#[test]
fn many_flows_come_in_pages_and_filters_choose_some() {
    isolated(SETUP, || {
        const FLOWS: u16 = 300;
        let program = Program::passt(&["-u", "none"]);
        let (mut client, mut guest) = (program.client(), Guest::of(&program));
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        for from in 0..FLOWS {
            guest.datagram(10_000 + from, port, b"x");
            server.recv_from(&mut [0; 8]).unwrap();
        }
        let flows = client.flows();
        let names: std::collections::BTreeSet<&str> =
            flows.iter().map(|flow| flow["flow"].as_str().unwrap()).collect();
        assert_eq!((flows.len(), names.len()), (usize::from(FLOWS), usize::from(FLOWS)));
        let stats = client.answer("stats");
        assert_eq!(
            (&stats["flows"]["udp"], &stats["flows_begun"]["udp"]),
            (&json!(300), &json!(300))
        );
        let mut count = |filter: serde_json::Value| {
            let mut request = filter;
            request["command"] = "flows".into();
            let page = client.ask(&request);
            (page["flows"].as_array().unwrap().len(), page["next"].is_null())
        };
        assert_eq!(count(json!({})), (128, false));
        assert_eq!(count(json!({ "limit": 7 })), (7, false));
        assert_eq!(count(json!({ "from": 290 })), (10, true));
        assert_eq!(count(json!({ "from": 4_000_000_000u32 })), (0, true));
        assert_eq!(count(json!({ "port": 10_123 })), (1, true));
        assert_eq!(count(json!({ "proto": "tcp" })), (0, true));
        assert_eq!(count(json!({ "address": "192.0.2.0/24", "limit": 5 })), (5, false));
        assert_eq!(count(json!({ "address": "198.51.100.0/24" })), (0, true));
        assert_eq!(count(json!({ "bypass": true })).0, 0);
        assert_eq!(count(json!({ "min_age_ms": 3_600_000 })).0, 0);
        assert_eq!(count(json!({ "min_idle_ms": 3_600_000 })).0, 0);
        assert_eq!(count(json!({ "state": "unanswered" })), (128, false));
    });
}

#[test]
fn events_are_told_as_they_happen() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "none"]);
        let (mut client, mut watch, mut some) =
            (program.client(), program.client(), program.client());
        let all = watch.answer("watch");
        assert_eq!(all["events"].as_array().unwrap().len(), 7);
        some.ask(&json!({ "command": "watch", "events": ["lease", "egress"] }));
        let mut guest = Guest::of(&program);
        assert!(watch.event("link-up")["at_ms"].as_u64() > Some(0));
        guest.gets_a_lease();
        let lease = watch.event("lease");
        let mac = MAC.map(|byte| format!("{byte:02x}")).join(":");
        assert_eq!((&lease["protocol"], &lease["address"]), (&json!("dhcp"), &json!("192.0.2.2")));
        assert_eq!(lease["mac"], mac);
        client.ask(&json!({ "command": "rules-add", "proto": "tcp", "ports": "8080-8081" }));
        let rules = watch.event("rules");
        assert_eq!((&rules["added"], &rules["removed"]), (&json!(1), &json!(0)));
        client.ask(&json!({ "command": "rules-replace", "rules": [] }));
        let rules = watch.event("rules");
        assert_eq!((&rules["added"], &rules["removed"]), (&json!(0), &json!(1)));
        client.ask(&json!({ "command": "egress-replace", "rules": ["allow @dns", "reject any"] }));
        assert_eq!(watch.event("egress")["rules"], 2);
        let (_, flags) = guest.tries(40_000, 9);
        assert_ne!(flags & crate::guest::RST, 0);
        let refused = watch.event("refused");
        assert_eq!((&refused["reason"], &refused["rule"]), (&json!("egress-rejected"), &json!(1)));
        assert_eq!((&refused["proto"], &refused["to"]), (&json!("tcp"), &json!("192.0.2.1:9")));
        assert_eq!(refused["from"], "192.0.2.2:40000");
        // Requests are answered between events.
        assert_eq!(watch.answer("status")["link"], "up");
        drop(guest);
        watch.event("link-down");
        assert_eq!(some.line("event")["event"], "lease");
        assert_eq!(some.line("event")["event"], "egress");
    });
}

#[test]
fn who_reads_slower_than_events_come_is_told_how_many_were_lost() {
    isolated(SETUP, || {
        let program = Program::passt(&["--egress", "reject any"]);
        let mut watch = program.client();
        watch.ask(&json!({ "command": "watch", "events": ["refused"] }));
        let mut guest = Guest::of(&program);
        const TRIES: u64 = 8000;
        for port in 0..TRIES {
            guest.datagram(10_000 + port as u16, 9, b"x");
        }
        guest.asks_for_gateway();
        let (mut told, mut lost) = (0, 0);
        while told + lost < TRIES {
            let event = watch.line("event");
            match event["count"].as_u64() {
                Some(count) => lost += count,
                None => told += 1,
            }
        }
        assert_eq!(told + lost, TRIES);
        assert!(lost > 0 && told > 500, "{told} told, {lost} lost");
    });
}

#[test]
fn the_socket_for_questions_changes_nothing() {
    isolated(SETUP, || {
        let program = Program::passt(&["-t", "8080"]);
        let mode = |name: &str| {
            std::fs::metadata(program.path(name)).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode("control"), mode("read")), (0o600, 0o666));
        let mut client = Client::at(&program.path("read"));
        for command in ["status", "stats", "flows", "rules", "egress", "log", "watch"] {
            client.answer(command);
        }
        for line in [
            r#"{"command":"flow-reset","flow":"0.0"}"#,
            r#"{"command":"rules-add","proto":"tcp","ports":"8081"}"#,
            r#"{"command":"rules-delete","rule":0}"#,
            r#"{"command":"rules-replace","rules":[]}"#,
            r#"{"command":"egress-replace","rules":["reject any"]}"#,
            r#"{"command":"log","level":"debug"}"#,
        ] {
            let refusal = client.refusal(line);
            assert_eq!(refusal["field"], "command", "{line}");
            assert!(refusal["cure"].as_str().unwrap().contains("--control"), "{refusal}");
        }
        let mut client = program.client();
        assert_eq!(client.answer("rules")["rules"].as_array().unwrap().len(), 1);
        assert_eq!(client.answer("egress")["rules"], json!([]));
        assert_eq!(client.answer("log")["level"], "info");
    });
}
