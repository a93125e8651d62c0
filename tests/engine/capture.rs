//! A capture has every frame of both directions, and an analyser finds no fault with any of them, whatever
//! the link leaves to its other end.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;

use passt::pcap::Capture;
use passt_frame::{Caps, Checksum, FrameMeta, OnesSum};
use passt_guest::pcap::{self, Record};

use crate::namespace::isolated;
use crate::packet;
use crate::slot_port::SlotPort;
use crate::tcp::{Pair, noise};
use crate::world::{FAMILIES, Family, GUEST_MAC, GuestEnd, OFFLOADS, PLAIN, Setup, World};

/// Bytes in each direction: several of the largest frames.
const BULK: usize = 1 << 20;

/// Bytes of a frame that only a link with segmentation carries.
const LARGE: u32 = 9000;

fn world(caps: Caps) -> World<SlotPort> {
    World::on(SlotPort::new(caps), &Setup { caps, ..Setup::default() })
}

/// The frames of the file; all of them are whole and right.
fn flawless(path: &Path) -> Vec<Record> {
    let records = pcap::records(&std::fs::read(path).expect("the capture is there"));
    for (index, record) in records.iter().enumerate() {
        let verdict = pcap::check(&record.bytes);
        assert_eq!(verdict, Ok(()), "frame {index} of {} bytes", record.len);
    }
    assert!(records.windows(2).all(|pair| pair[0].micros <= pair[1].micros), "in order");
    records
}

fn is_from_guest(record: &Record) -> bool {
    record.bytes[6..12] == GUEST_MAC.0
}

/// Bytes of TCP payload in frames of one direction.
fn payload(records: &[Record], from_guest: bool, family: Family) -> usize {
    let l4 = packet::l4_offset(family.guest());
    let total = |frame: &[u8]| match family {
        Family::V4 => 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]])),
        Family::V6 => 54 + usize::from(u16::from_be_bytes([frame[18], frame[19]])),
    };
    let of = |record: &Record| {
        let frame = &record.bytes;
        total(frame) - l4 - usize::from(frame[l4 + 12] >> 4) * 4
    };
    let tcp = |record: &&Record| record.bytes[if family == Family::V4 { 23 } else { 20 }] == 6;
    let ethertype: [u8; 2] = if family == Family::V4 { [8, 0] } else { [0x86, 0xdd] };
    let ours = records.iter().filter(|record| is_from_guest(record) == from_guest);
    ours.filter(|record| record.bytes[12..14] == ethertype).filter(tcp).map(of).sum()
}

#[test]
fn every_byte_of_a_connection_is_recorded_once_and_without_allocations() {
    isolated(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let data = noise(BULK);
        for caps in [PLAIN, OFFLOADS] {
            for family in FAMILIES {
                let path = folder.path().join("capture");
                let capture = Capture::create(&path).expect("a fresh file");
                let mut world = world(caps);
                world.record(&capture);
                let mut pair = Pair::connect(world, 1500, family);
                pair.upload(&data);
                pair.download(&data);
                let world = pair.finish();
                assert_eq!(world.allocations, 0);
                let records = flawless(&path);
                assert_eq!(records.len() as u64, capture.counters().recorded);
                assert!(payload(&records, true, family) >= BULK, "from the guest");
                assert_eq!(payload(&records, false, family), BULK, "to the guest");
                let large = records.iter().any(|record| record.len > LARGE);
                assert_eq!(large, caps.gso.tcp_v4, "units of segmentation stay whole");
            }
        }
    });
}

#[test]
fn partial_checksums_of_datagrams_are_completed_in_both_directions() {
    isolated(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("capture");
        let mut world = world(OFFLOADS);
        world.record(&Capture::create(&path).expect("a fresh file"));
        for family in FAMILIES {
            let host = UdpSocket::bind(family.host_at(9000)).expect("a free port");
            let from = SocketAddr::new(family.guest(), 20_000);
            let start = packet::l4_offset(family.guest());
            let mut frame = packet::udp(from, family.host_at(9000), b"question");
            if family == Family::V4 {
                let mut header = OnesSum::default();
                header.add(&frame[14..34]);
                frame[24..26].copy_from_slice(&header.checksum().to_be_bytes());
            }
            let addresses = if family == Family::V4 { 26..34 } else { 22..54 };
            let mut pseudo = OnesSum::new(17 + (frame.len() - start) as u32);
            pseudo.add(&frame[addresses]);
            frame[start + 6..start + 8].copy_from_slice(&pseudo.folded().to_be_bytes());
            let checksum = Checksum::Partial { start: start as u16, offset: 6 };
            world.port.guest_sends(frame, FrameMeta { checksum, gso: None });
            world.settle(64);
            let (_, source) = host.recv_from(&mut [0; 16]).expect("a datagram");
            host.send_to(b"answer", source).expect("sent");
            world.frames(1);
        }
        let records = flawless(&path);
        let count = |from: bool| records.iter().filter(|r| is_from_guest(r) == from).count();
        assert_eq!((count(true), count(false)), (2, 2));
    });
}
