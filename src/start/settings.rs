//! Settings of the host's kernel that the program follows.

use std::fs;
use std::time::Duration;

use crate::engine::UdpTimeouts;
use crate::flow::tcp::TcpConfig;

/// The most that a connection may have in the queue of a tap device, in bytes: eight of the largest frames. That is a
/// fifth of a millisecond at 20 Gbit/s, which others wait behind it, and no stream got faster by more. A virtual machine
/// keeps its own queue.
const TAP_WINDOW_MAX: u32 = 512 * 1024;

/// The host kernel's own limits for retransmission, its defaults where it does not tell; acknowledgements
/// that wait; and the window, which is that of a tap device where there is one.
pub(crate) fn tcp_config(has_tap: bool) -> TcpConfig {
    let default = TcpConfig::default();
    TcpConfig {
        syn_retries: sysctl("tcp_syn_retries").unwrap_or(default.syn_retries),
        syn_linear_timeouts: sysctl("tcp_syn_linear_timeouts")
            .unwrap_or(default.syn_linear_timeouts),
        rto_max: sysctl("tcp_rto_max_ms").map_or(default.rto_max, Duration::from_millis),
        acks_may_wait: true,
        window_max: if has_tap { TAP_WINDOW_MAX } else { default.window_max },
    }
}

/// What the host's connection tracking allows, the kernel's defaults where it has none.
pub(crate) fn udp_timeouts() -> UdpTimeouts {
    let default = UdpTimeouts::default();
    let seconds = |name: &str, otherwise| {
        let told = setting::<u32>(&format!("netfilter/{name}"));
        told.filter(|&told| told > 0).map_or(otherwise, |told| Duration::from_secs(told.into()))
    };
    UdpTimeouts {
        once: seconds("nf_conntrack_udp_timeout", default.once),
        stream: seconds("nf_conntrack_udp_timeout_stream", default.stream),
    }
}

fn sysctl<T: std::str::FromStr>(name: &str) -> Option<T> {
    setting(&format!("ipv4/{name}"))
}

fn setting<T: std::str::FromStr>(path: &str) -> Option<T> {
    fs::read_to_string(format!("/proc/sys/net/{path}")).ok()?.trim().parse().ok()
}
