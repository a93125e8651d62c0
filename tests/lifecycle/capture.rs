//! `--pcap` on each kind of link: the file is a capture, with frames of both directions.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;

use passt_guest::pcap::{Record, check, records};
use passt_guest::{Guest, NetHeader, Options};
use passt_support::wait::{PATIENCE, until};
use rustix::process::{Resource, Rlimit, Signal};

use crate::rig::{Place, arp_request, refusal, unshare};

/// The frames of a capture; all of them are right.
fn frames(place: &Place) -> Vec<Record> {
    let frames = records(&std::fs::read(place.path("capture")).unwrap());
    for (index, frame) in frames.iter().enumerate() {
        assert_eq!(check(&frame.bytes), Ok(()), "frame {index} of {} bytes", frame.len);
    }
    frames
}

fn path(place: &Place) -> String {
    place.path("capture").to_str().unwrap().to_owned()
}

const OURS: [u8; 6] = [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];

fn is_ours(frame: &Record) -> bool {
    frame.bytes[6..12] == OURS
}

fn is_arp(frame: &Record, operation: u8) -> bool {
    frame.bytes[12..14] == [8, 6] && frame.bytes[21] == operation
}

#[test]
fn a_stream_socket() {
    let place = Place::new();
    let before = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64;
    let mut program = place.foreground(&["--pcap", &path(&place)]);
    assert!(place.serves());
    assert_eq!(program.end(Signal::TERM), Some(0));
    assert!(place.text("stderr").contains(&format!("Saving packet capture to {}", path(&place))));
    let frames = frames(&place);
    let question = frames.iter().position(|frame| is_arp(frame, 1) && !is_ours(frame)).unwrap();
    let answer = frames.iter().position(|frame| is_arp(frame, 2) && is_ours(frame)).unwrap();
    assert!(question < answer);
    assert_eq!(frames[question].bytes, arp_request());
    assert!(frames[answer].len >= 60, "with its padding");
    let after = std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64;
    assert!(frames.iter().all(|frame| (before..=after).contains(&frame.micros)));
    let mode = std::fs::metadata(place.path("capture")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
}

/// A TCP segment of 9,000 bytes for whom the sender left all to the device, and its header.
fn unit() -> (Vec<u8>, NetHeader) {
    let payload = [7; 9000];
    let total = 40 + payload.len() as u16;
    let mut ip = vec![0x45, 0];
    ip.extend(total.to_be_bytes());
    ip.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 2, 198, 51, 100, 7]);
    let checksum = !sum(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let pseudo = [&ip[12..20], &[0, 6], &(total - 20).to_be_bytes()].concat();
    let mut tcp = [0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0];
    tcp[16..18].copy_from_slice(&sum(&pseudo).to_be_bytes());
    let guest = [0x52, 0x54, 0, 0, 0, 1];
    let frame = [&OURS[..], &guest, &[8, 0], &ip, &tcp, &payload].concat();
    let header = NetHeader {
        flags: 1,
        gso_type: 1,
        hdr_len: 54,
        gso_size: 1460,
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 0,
    };
    (frame, header)
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum = passt_frame::OnesSum::default();
    sum.add(bytes);
    sum.folded()
}

#[test]
fn a_vhost_user_device_with_segmentation_offload() {
    let place = Place::new();
    let mut program = place.foreground(&["--vhost-user", "--pcap", &path(&place)]);
    let mut guest = Guest::connect(place.connect(), Options::default(), &mut || ());
    let (unit, header) = unit();
    guest.send_frame(&unit, header);
    guest.send_frame(&arp_request(), NetHeader::default());
    until("an answer", || {
        let (frame, _) = guest.recv_frame()?;
        (frame[12..14] == [8, 6] && frame[21] == 2).then_some(())
    });
    assert_eq!(program.end(Signal::TERM), Some(0));
    let frames = frames(&place);
    let large = frames.iter().find(|frame| frame.len as usize == unit.len()).unwrap();
    assert_eq!(large.bytes[..50], unit[..50], "the checksum comes behind it");
    assert_eq!(large.bytes[52..], unit[52..]);
    assert!(frames.iter().any(|frame| is_arp(frame, 2) && is_ours(frame)));
}

/// Set in the copy of the test that runs in the host's namespace, and in the one that is pasta's command.
const WHERE: &str = "PASST_TEST_CAPTURE";

/// Bytes in each direction.
const BULK: usize = 1 << 20;

fn exchange(mut stream: TcpStream) {
    let mut sender = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || sender.write_all(&vec![5; BULK]).unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_exact(&mut vec![0; BULK]).unwrap();
    });
}

/// The host: a server on its loopback, and pasta, whose command is this test again.
fn host(test: &std::path::Path) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let mut pasta = Command::new(env!("CARGO_BIN_EXE_pasta"));
    pasta.args(crate::rig::NETWORK).args(["--config-net", "-t", "none", "-u", "none"]);
    pasta.args(["-T", "none", "-U", "none", "--pcap", &std::env::var("CAPTURE").unwrap(), "--"]);
    pasta.arg(test).args(["--exact", "capture::a_tap_device", "--nocapture"]);
    let mut pasta = pasta.env(WHERE, port.to_string()).spawn().unwrap();
    exchange(server.accept().unwrap().0);
    assert!(pasta.wait().unwrap().success());
}

#[test]
fn a_tap_device() {
    let test = std::env::current_exe().unwrap();
    match std::env::var(WHERE).as_deref() {
        Ok("host") => return host(&test),
        Ok(port) => {
            let port = port.parse::<u16>().unwrap();
            return exchange(TcpStream::connect(("192.0.2.1", port)).unwrap());
        }
        Err(_) => {}
    }
    let place = Place::new();
    let mut command = unshare("n");
    command.args(["sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]).arg(&test);
    command.args(["--exact", "capture::a_tap_device", "--nocapture"]);
    let output = command.env(WHERE, "host").env("CAPTURE", path(&place)).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
    let frames = frames(&place);
    for ours in [true, false] {
        let of = || frames.iter().filter(|frame| is_ours(frame) == ours);
        let bytes: usize = of().map(|frame| frame.len as usize).sum();
        assert!(bytes >= BULK, "{bytes} bytes, ours: {ours}");
    }
}

#[test]
fn a_capture_that_cannot_be_made_is_told_and_no_more() {
    let place = Place::new();
    let _program = place.foreground(&["--pcap", "/dev/null/capture"]);
    let text = place.text("stderr");
    assert!(text.contains("Couldn't open packet capture /dev/null/capture: Not a dir"), "{text}");
    assert!(text.contains(": choose another --pcap; going on without"), "{text}");
    assert!(place.serves());
}

#[test]
fn a_capture_on_a_full_disk_holds_nothing_up() {
    let place = Place::new();
    // The header of the file cannot be written, either.
    let mut program = place.foreground(&["--pcap", "/dev/full"]);
    assert!(place.serves());
    assert_eq!(program.end(Signal::TERM), Some(0));
}

#[test]
fn a_start_that_fails_is_no_matter_of_the_capture() {
    let place = Place::new();
    let arguments = ["--pcap", &path(&place), "--pid", "/dev/null/pid"];
    assert!(refusal(&mut place.passt(&arguments)).contains("Couldn't open PID file"));
    assert!(!place.path("capture").exists());
}

#[test]
fn a_limit_of_file_sizes_is_like_a_full_disk() {
    let place = Place::new();
    let capture = path(&place);
    let mut command = place.passt(&["--foreground", "--pcap", &capture]);
    // SAFETY: a system call only, between fork and exec.
    unsafe {
        command.pre_exec(|| {
            let limit = Rlimit { current: Some(30), maximum: Some(30) };
            rustix::process::setrlimit(Resource::Fsize, limit)?;
            Ok(())
        });
    }
    let mut program = place.spawn(&mut command);
    assert!(place.serves(), "its frames do not fit");
    assert_eq!(program.end(Signal::TERM), Some(0));
    assert_eq!(std::fs::metadata(&capture).unwrap().len(), 30, "the limit was reached");
}
