//! What the front-end asks of whoever drives the device.

mod rig;

use passt_frame::{FramePort, FrontEndRequest};
use passt_guest::{Options, request};
use rig::connected;

#[test]
fn an_mtu_is_handed_on_once_and_taken_back_with_the_front_end() {
    let (mut host, guest) = connected(Options::default());
    assert_eq!(host.device.take_request(), None, "it was not spoken of");
    for (told, wanted) in [(1400u64, Some(1400)), (1400, None), (9000, Some(9000))] {
        guest.send(request::NET_SET_MTU, &told.to_ne_bytes(), &[]);
        host.turn();
        let wanted = wanted.map(FrontEndRequest::MtuChanged);
        assert_eq!(host.device.take_request(), wanted, "{told}");
        assert_eq!(host.device.take_request(), None, "{told}: once");
    }
    guest.send(request::NET_SET_MTU, &67u64.to_ne_bytes(), &[]);
    host.turn();
    assert!(!host.device.is_attached(), "below the least MTU of IPv4");
    assert_eq!(host.device.take_request(), Some(FrontEndRequest::MtuChanged(65520)));
}
