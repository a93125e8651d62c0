//! Where a port can be had that another program has on some addresses of the host. A resolver on 127.0.0.53 keeps
//! the port from whoever wants it on all addresses, and from nobody who names another one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::listen;

use crate::conf::host::netlink;
use crate::engine::ListenError;
use crate::flow::fwd::{InterfaceName, ListenAddr, Proto, Rule};
use crate::sys::socket::{self, BindTo, Transport};

/// Places that are named at most.
const MOST_PLACES: usize = 8;

/// The error in words, with the places where the port is free.
pub(crate) fn listen_failure(error: &ListenError) -> String {
    let hint = match error {
        ListenError::Port { rule: Some(rule), port, option, errno: Errno::ADDRINUSE, .. } => {
            hint(rule, *port, option)
        }
        _ => None,
    };
    hint.map_or_else(|| error.to_string(), |hint| format!("{error}\n{hint}"))
}

fn hint(rule: &Rule, port: u16, option: &str) -> Option<String> {
    let families: &[bool] = match rule.listen {
        _ if rule.interface.is_some() => return None,
        ListenAddr::Dual => &[true, false],
        ListenAddr::V4(Ipv4Addr::UNSPECIFIED) => &[true],
        ListenAddr::V6(Ipv6Addr::UNSPECIFIED) => &[false],
        ListenAddr::V4(_) | ListenAddr::V6(_) => return None,
    };
    let addresses = netlink::own_addresses().ok()?;
    let addresses = addresses.into_iter().filter(|(_, ip)| families.contains(&ip.is_ipv4()));
    let places = free_places(rule, port, &addresses.collect::<Vec<_>>());
    let example = places.first()?;
    let list = places.iter().take(MOST_PLACES).cloned().collect::<Vec<_>>().join(", ");
    Some(format!(
        "Another program has port {port} on some addresses only. It is free on {list}: name each that it is wanted \
         on, as in {option} {example}/{port}"
    ))
}

/// Interfaces of which all addresses are free, and addresses, as port specifications name them.
fn free_places(rule: &Rule, port: u16, addresses: &[(InterfaceName, IpAddr)]) -> Vec<String> {
    let mut places = Vec::new();
    for (interface, _) in addresses {
        let place = format!("%{interface}");
        if interface.as_str() != "lo"
            && !places.contains(&place)
            && is_free(rule, port, None, Some(interface))
        {
            places.push(place);
        }
    }
    for (interface, ip) in addresses {
        let link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let on = Some(interface).filter(|_| link_local);
        if is_free(rule, port, Some(*ip), on) {
            let shown = if ip.is_ipv4() { format!("{ip}") } else { format!("[{ip}]") };
            places.push(on.map_or(shown.clone(), |interface| format!("{shown}%{interface}")));
        }
    }
    places
}

/// Whether the port can be had on an address, or all of them, of an interface, or all of them.
fn is_free(rule: &Rule, port: u16, ip: Option<IpAddr>, interface: Option<&InterfaceName>) -> bool {
    let dual_stack = ip.is_none() && rule.listen == ListenAddr::Dual;
    let any = match rule.listen {
        ListenAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        ListenAddr::V6(_) | ListenAddr::Dual => Ipv6Addr::UNSPECIFIED.into(),
    };
    let address = SocketAddr::new(ip.unwrap_or(any), port);
    let interface = interface.map(InterfaceName::as_str);
    let to = BindTo { dual_stack, ..BindTo::to(address).on(interface) };
    let tcp = rule.proto == Proto::Tcp;
    let transport = if tcp { Transport::Tcp } else { Transport::Udp };
    let opened = socket::create(transport, to.address.ip()).and_then(|socket| match tcp {
        true => socket::bind(socket.as_fd(), &to).and_then(|()| listen(&socket, 1)),
        false => socket::bind_alone(socket.as_fd(), &to),
    });
    opened.is_ok()
}
