//! Peers that look the same on the other side: no answer ever goes to another one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::rig::{self, PATIENCE, Running, Setup, in_namespace};
use crate::{FIXED, Route};

#[test]
fn local_peers_with_one_port_get_their_own_answers() {
    in_namespace("crossing::local_peers_with_one_port_get_their_own_answers", || {
        let guest = rig::guest();
        let running = Running::start(&guest, Setup::new(FIXED));
        for inward in [true, false] {
            let route = Route { guest: guest.clone(), inward, v4: true };
            let service = route.udp(true, route.service());
            let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), route.port());
            let peers = [1, 2, 3].map(|last| {
                let address: IpAddr = Ipv4Addr::new(127, 0, 0, last).into();
                route.udp(false, SocketAddr::new(address, 5000))
            });
            let mut sources = Vec::new();
            for (index, peer) in peers.iter().enumerate() {
                peer.send_to(&[index as u8], to).unwrap();
                let mut byte = [0];
                let (_, source) = service.recv_from(&mut byte).unwrap();
                assert_eq!(byte, [index as u8]);
                assert!(!sources.contains(&source), "{source} is two peers to the service");
                sources.push(source);
            }
            for (index, source) in sources.iter().enumerate() {
                service.send_to(&[10 + index as u8], source).unwrap();
            }
            for (index, peer) in peers.iter().enumerate() {
                let mut byte = [0];
                assert_eq!(peer.recv_from(&mut byte).unwrap(), (1, to));
                assert_eq!(byte, [10 + index as u8], "an answer to the peer that has asked");
                peer.set_nonblocking(true).unwrap();
                assert!(peer.recv(&mut byte).is_err(), "and nothing else");
                peer.set_nonblocking(false).unwrap();
                peer.set_read_timeout(Some(PATIENCE)).unwrap();
            }
        }
        running.await_flows(6);
    });
}
