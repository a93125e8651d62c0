//! Datagrams of strangers that reach a relayed flow's socket, on either side, before it is connected.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use passt_support::flood::Flood;
use passt_support::namespace::Netns;

use crate::rig::{self, GUEST_V4, PATIENCE, Running, Setup, in_namespace};
use crate::{FIXED, INWARD, Route};

fn inward(guest: &Netns) -> Route {
    Route { guest: guest.clone(), inward: true, v4: true }
}

fn bound() -> UdpSocket {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

#[test]
fn who_comes_while_a_relay_is_opened_for_another_is_not_taken_for_it() {
    in_namespace(
        "strangers::who_comes_while_a_relay_is_opened_for_another_is_not_taken_for_it",
        || {
            let guest = rig::guest();
            let running = Running::start(&guest, Setup::new(FIXED));
            let route = inward(&guest);
            let service = route.udp(true, route.service());
            let floods = [0; 2].map(|_| {
                Flood::new(|| {
                    let sockets: Vec<UdpSocket> = (0..8).map(|_| bound()).collect();
                    for socket in &sockets {
                        let port = socket.local_addr().unwrap().port();
                        let _ = socket.send_to(&port.to_be_bytes(), (Ipv4Addr::LOCALHOST, INWARD));
                    }
                    std::thread::sleep(Duration::from_micros(100));
                })
            });
            for _ in 0..2000 {
                let mut bytes = [0; 2];
                let (len, from) = service.recv_from(&mut bytes).unwrap();
                assert_eq!(
                    (len, u16::from_be_bytes(bytes)),
                    (2, from.port()),
                    "relays keep the port"
                );
            }
            drop(floods);
            assert!(running.foreign() > 0, "nobody has met a socket");
        },
    );
}

#[test]
fn what_strangers_send_to_the_source_port_of_a_relay_is_no_answer() {
    in_namespace(
        "strangers::what_strangers_send_to_the_source_port_of_a_relay_is_no_answer",
        || {
            let guest = rig::guest();
            let running = Running::start(&guest, Setup::new(FIXED));
            let route = inward(&guest);
            let service = route.udp(true, route.service());
            let target = Arc::new(AtomicU16::new(9));
            let (port, stranger) = (target.clone(), guest.run(bound));
            let flood = Flood::new(move || {
                let _ = stranger.send_to(b"stranger", (GUEST_V4, port.load(Ordering::Relaxed)));
            });
            // As many flows as it takes for the flood to hit the moment.
            for flows in 1.. {
                let client = bound();
                client.set_read_timeout(Some(PATIENCE)).unwrap();
                target.store(client.local_addr().unwrap().port(), Ordering::Relaxed);
                client.send_to(b"question", (Ipv4Addr::LOCALHOST, INWARD)).unwrap();
                let mut bytes = [0; 64];
                let (len, from) = service.recv_from(&mut bytes).unwrap();
                assert_eq!(&bytes[..len], b"question");
                service.send_to(b"answer", from).unwrap();
                let len = client.recv(&mut bytes).unwrap();
                assert_eq!(&bytes[..len], b"answer");
                if flows % 250 == 0 && running.foreign() > 0 {
                    break;
                }
                assert!(flows < 4000, "the flood has met no socket");
            }
            drop(flood);
        },
    );
}
