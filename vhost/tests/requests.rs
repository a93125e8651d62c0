//! What the front-end asks of whoever drives the device.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed set-up is a failed test")]

mod rig;

use passt_frame::{FramePort, FrontEndRequest};
use passt_guest::{Options, request};
use rig::{Host, connected};

/// The MTU that the front-end has told, if it has said anything.
fn told_mtu(host: &mut Host) -> Option<u16> {
    host.device.take_request().map(|request| match request {
        FrontEndRequest::MtuChanged(mtu) => mtu,
        other => panic!("{other:?}"),
    })
}

#[test]
fn an_mtu_is_handed_on_once_and_taken_back_with_the_front_end() {
    let (mut host, guest) = connected(Options::default());
    assert_eq!(told_mtu(&mut host), None, "it was not spoken of");
    for (told, wanted) in [(1400u64, Some(1400)), (1400, None), (9000, Some(9000))] {
        guest.send(request::NET_SET_MTU, &told.to_ne_bytes(), &[]);
        host.turn();
        assert_eq!(told_mtu(&mut host), wanted, "{told}");
        assert_eq!(told_mtu(&mut host), None, "{told}: once");
    }
    guest.send(request::NET_SET_MTU, &67u64.to_ne_bytes(), &[]);
    host.turn();
    assert!(!host.device.is_attached(), "below the least MTU of IPv4");
    assert_eq!(told_mtu(&mut host), Some(65520));
}
