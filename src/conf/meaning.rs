//! The meaning of the options on this host: what the guest is told ([`Network`]), how addresses are
//! mapped ([`Mapping`]), which ports lead into the guest ([`RuleTable`]), and how the guest is
//! attached. Pure: everything known of the host is an argument.
//!
//! A family without a usable model on the host runs in *local mode*: link-local addresses of our
//! own choice, unless the operator gave others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use arrayvec::ArrayVec;

use super::host::{HostFacts, Template};
use super::ports::{self, ForwardDirection, Kernel};
use super::{
    ConfError, MigrationOptions, Mode, Note, Only, Options, PastaConf, RunConf, egress, idle,
    names, pasta, resolv,
};
use crate::flow::fwd::{Bypass, InterfaceName, Mapping, Policy, Proto, Rule, RuleTable};
use crate::flow::network::{Ipv4Net, Ipv4Route, Ipv6Net, MAX_ROUTES, Network};

/// The guest's IPv4 address and prefix length in local mode.
const LOCAL_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(169, 254, 2, 1), 16);
/// The gateway, that is ourselves, in local mode and where the host's default route has none, or where there is none.
pub(crate) const LOCAL_GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 2);
/// The same for IPv6.
const LOCAL_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Smallest MTU that IPv4 works with (RFC 791).
const MIN_MTU_V4: u16 = 68;
/// Smallest MTU that IPv6 works with (RFC 8200 section 5).
const MIN_MTU_V6: u16 = 1280;

const NO_DEVICE_BINDING: &str = "No socket can be bound to an interface here (requires kernel 5.7+): \
    -T and -U listen on 127.0.0.1 and ::1 only";

/// An interface of the host, by name and index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub(crate) name: InterfaceName,
    /// Its index.
    pub(crate) index: u32,
}

/// How the guest is attached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkConf {
    /// Protocol on the socket.
    pub(crate) mode: Mode,
    /// Path to listen on; `None` for the first free default path.
    pub(crate) socket: Option<PathBuf>,
    /// Descriptor of a connected socket to use instead.
    pub(crate) fd: Option<i32>,
    /// End when the guest disconnects.
    pub(crate) one_off: bool,
    /// What happens when the guest moves away.
    pub(crate) migration: MigrationOptions,
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct Conf {
    /// What the guest is told.
    pub network: Network,
    /// How addresses are mapped.
    pub mapping: Mapping,
    /// Which ports of the host lead into the guest.
    pub rules: RuleTable,
    /// What the guest may reach.
    pub egress: Policy,
    /// How the guest is attached.
    pub(crate) link: LinkConf,
    /// The namespace, with pasta.
    pub(crate) pasta: Option<PastaConf>,
    /// Process matters.
    pub(crate) run: RunConf,
    /// Listening sockets may bind to addresses that the host does not have.
    pub(crate) freebind: bool,
    /// What port specifications depend on, for those that come later.
    pub(crate) kernel: Kernel,
    /// Model of IPv4; `None` in local mode.
    pub(crate) template_v4: Option<Device>,
    /// Model of IPv6; likewise.
    pub(crate) template_v6: Option<Device>,
    /// Interface that outbound IPv4 sockets are bound to.
    pub(crate) outbound_v4: Option<Device>,
    /// The same for IPv6.
    pub(crate) outbound_v6: Option<Device>,
    /// What to tell the operator, in order.
    pub notes: Vec<Note>,
}

/// Puts the options together with the host's `facts`, the text of resolv.conf, and the range of
/// ephemeral ports.
///
/// # Errors
/// Something that was asked for cannot be had, or a port specification is wrong.
pub fn resolve(
    mut options: Options,
    facts: &HostFacts,
    resolv: &str,
    ephemeral: (u16, u16),
) -> Result<Conf, ConfError> {
    if options.pasta.splice_only {
        pasta::without_tap(&mut options);
    }
    let mut notes = first_notes(&options, facts);
    let only = options.interfaces.only;
    if facts.no_ipv6 && only == Some(Only::V6) {
        return Err(ConfError::Ipv6Unavailable);
    }
    let Told { network, mapping, template_v4, template_v6 } =
        told(&options, facts, resolv, &mut notes);
    check_interfaces(&options, template_v4.as_ref(), template_v6.as_ref(), &mut notes)?;
    notes.extend(idle::of_model(&options, &network));
    warn_of_mtu(&network, &mut notes);
    let [outbound_v4, outbound_v6] = outbound(&options, facts);
    let kernel = Kernel { ephemeral, device_binding: !facts.no_device_binding };
    let (rules, pasta) = if options.mode == Mode::Pasta {
        let auto = !options.egress.isolate;
        let rules =
            forwarding(ForwardDirection::ToNamespace, &options.ports, &network, (kernel, auto))?;
        let out = forwarding(
            ForwardDirection::FromNamespace,
            &options.pasta.ports,
            &network,
            (kernel, auto),
        )?;
        if facts.no_device_binding && !out.rules().is_empty() {
            notes.push(Note::warn(NO_DEVICE_BINDING));
        }
        (rules, Some(pasta::resolve(&options, template_v4, template_v6, out, &mut notes)?))
    } else {
        (forwarding(ForwardDirection::ToGuest, &options.ports, &network, (kernel, false))?, None)
    };
    let bypass = pasta.as_ref().map(|pasta| pasta.bypass);
    notes.extend(unreached(rules.rules(), bypass).map(|(proto, text)| {
        Note::warn(format!("--{}: {text}", option_of(ForwardDirection::ToGuest, proto)))
    }));
    let egress = egress::resolve(&options.egress, &network, &mapping, &mut notes)?;
    Ok(Conf {
        network,
        mapping,
        rules,
        egress,
        freebind: options.freebind,
        kernel,
        template_v4,
        template_v6,
        outbound_v4,
        outbound_v6,
        link: LinkConf {
            mode: options.mode,
            socket: options.socket,
            fd: options.fd,
            one_off: options.one_off,
            migration: options.migration,
        },
        pasta,
        run: options.run,
        notes,
    })
}

/// What depends on the host's network, and follows it.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    /// What the guest is told.
    pub(crate) network: Network,
    /// How addresses are mapped.
    pub(crate) mapping: Mapping,
    /// Model of IPv4; `None` in local mode.
    pub(crate) template_v4: Option<Device>,
    /// Model of IPv6; likewise.
    pub(crate) template_v6: Option<Device>,
}

/// What the `options` mean on a host that looks as `facts` and the text of resolv.conf say.
pub(crate) fn told(
    options: &Options,
    facts: &HostFacts,
    resolv: &str,
    notes: &mut Vec<Note>,
) -> Told {
    let only = options.interfaces.only;
    let v4 = (only != Some(Only::V6)).then(|| net_v4(options, facts, notes));
    let v6 = (only != Some(Only::V4) && !facts.no_ipv6).then(|| net_v6(options, facts, notes));
    let (v4, template_v4) = v4.unzip();
    let (v6, template_v6) = v6.unzip();
    let mut mapping = mapping(options, v4.as_ref(), v6.as_ref());
    let mut network = network(options, v4, v6);
    complete_boot(&mut network);
    let resolv = resolv::parse(resolv);
    names::resolve(options, facts, &resolv, &mut network, &mut mapping, notes);
    let (template_v4, template_v6) = (template_v4.flatten(), template_v6.flatten());
    let [outbound_v4, outbound_v6] = outbound(options, facts);
    mapping.v4.group_interface = group_interface(outbound_v4, template_v4);
    mapping.v6.group_interface = group_interface(outbound_v6, template_v6);
    Told { network, mapping, template_v4, template_v6 }
}

/// What is to be said whatever the network is.
fn first_notes(options: &Options, facts: &HostFacts) -> Vec<Note> {
    let mut notes = facts.notes.clone();
    if options.run.stderr {
        notes.push(Note::warn("--stderr will be dropped soon"));
    }
    notes.extend(idle::warnings(options));
    notes
}

/// The interfaces that outbound sockets are bound to.
fn outbound(options: &Options, facts: &HostFacts) -> [Option<Device>; 2] {
    let wish = &options.interfaces;
    let device = |name: InterfaceName| facts.index(&name).map(|index| Device { name, index });
    [wish.outbound_v4, wish.outbound_v6].map(|name| name.and_then(device))
}

/// Index of the interface that has the guest's groups: packets to them could leave by no other one.
fn group_interface(outbound: Option<Device>, template: Option<Device>) -> u32 {
    outbound.or(template).map_or(0, |device| device.index)
}

/// Mapped addresses, but for those of name servers.
fn mapping(options: &Options, v4: Option<&Ipv4Net>, v6: Option<&Ipv6Net>) -> Mapping {
    let mut mapping = options.mapping.clone();
    if !options.no_map_gw {
        mapping.v4.host_loopback = mapping.v4.host_loopback.or(v4.and_then(|v4| v4.gateway));
        mapping.v6.host_loopback = mapping.v6.host_loopback.or(v6.and_then(|v6| v6.gateway));
    }
    mapping
}

/// The rules of one direction. Protocols that are on and that `specs` does not mention are forwarded as services come and
/// go, with `auto`.
fn forwarding(
    direction: ForwardDirection,
    specs: &[(Proto, String)],
    network: &Network,
    (kernel, auto): (Kernel, bool),
) -> Result<RuleTable, ConfError> {
    let mut table = RuleTable::default();
    let given = specs.iter().map(|(proto, spec)| (*proto, spec.as_str()));
    let unmentioned = |proto: &Proto| {
        proto.enabled(&network.services) && specs.iter().all(|(given, _)| given != proto)
    };
    let rest = [Proto::Tcp, Proto::Udp].into_iter().filter(unmentioned);
    let rest = rest.filter(|_| auto).map(|proto| (proto, "auto"));
    for (spec_index, (proto, spec)) in (0..=u16::MAX).zip(given.chain(rest)) {
        ports::add(&mut table, network, kernel, (direction, proto, spec), spec_index).map_err(
            |error| {
                let (option, spec) = (option_of(direction, proto), spec.to_owned());
                ConfError::Ports { option, spec, error: Box::new(error) }
            },
        )?;
    }
    Ok(table)
}

/// What is to be said of rules whose target is a loopback address of the guest, where `bypass` does not lead there; guests
/// without a namespace of this host have none. They are no errors: the other rules work.
pub(crate) fn unreached<'a>(
    rules: impl IntoIterator<Item = &'a Rule>,
    bypass: Option<Bypass>,
) -> impl Iterator<Item = (Proto, String)> {
    let cure = if bypass.is_some() { ", or start with --host-lo-to-ns-lo" } else { "" };
    rules.into_iter().filter_map(move |rule| {
        let target = rule.target_addr.filter(|target| !is_reached(*target, bypass))?;
        let text = rule.to_string();
        let text = format!(
            "{}: nothing gets to {target}, a loopback address of the guest's own: leave the address out{cure}",
            text.trim_end()
        );
        Some((rule.proto, text))
    })
}

/// Whether what is sent to `target`, an address of the guest's, gets there.
pub(crate) fn is_reached(target: IpAddr, bypass: Option<Bypass>) -> bool {
    bypass.unwrap_or(Bypass::NONE).reaches(target)
}

/// The long name of the option that gives ports of `proto` in `direction`.
pub(crate) fn option_of(direction: ForwardDirection, proto: Proto) -> &'static str {
    match (direction, proto) {
        (ForwardDirection::FromNamespace, Proto::Tcp) => "tcp-ns",
        (ForwardDirection::FromNamespace, _) => "udp-ns",
        (_, Proto::Tcp) => "tcp-ports",
        _ => "udp-ports",
    }
}

fn device<A>(template: &Template<A>) -> Device {
    Device { name: template.name, index: template.index }
}

fn local_mode(family: &str, notes: &mut Vec<Note>) {
    let text = format!("{family}: no external interface as template, use local mode");
    notes.push(Note::info(text));
}

fn net_v4(
    options: &Options,
    facts: &HostFacts,
    notes: &mut Vec<Note>,
) -> (Ipv4Net, Option<Device>) {
    let given = options.address_v4;
    let usable = facts.v4.as_ref().filter(|model| given.is_some() || model.address.is_some());
    if usable.is_none() && !options.pasta.splice_only {
        local_mode("IPv4", notes);
    }
    let own = usable.and_then(|model| model.address).map(|(addr, len)| (addr, Some(len)));
    let local = (LOCAL_V4.0, usable.is_none().then_some(LOCAL_V4.1));
    let (addr, from_address) = given.or(own).unwrap_or(local);
    // A default route may lead to an interface, or over an IPv6 neighbour, or there is none: we stand in for the
    // gateway.
    let gateway = options.gateway_v4.or(usable.and_then(|model| model.gateway));
    // The mask is that of a given address: one from the host has its own, also where it is copied into a namespace.
    let netmask = options.netmask.filter(|_| given.is_some());
    let prefix_len = netmask.or(from_address).filter(|len| *len != 0);
    let mut net = Ipv4Net {
        addr,
        prefix_len: prefix_len.unwrap_or_else(|| class_prefix(addr)),
        gateway: Some(gateway.unwrap_or(LOCAL_GATEWAY_V4)),
        fixed: given.is_some(),
        dns: ArrayVec::new(),
        routes: None,
    };
    if options.gateway_v4.is_none() && usable.is_some_and(|model| !model.default_route) {
        net.routes = Some(routes_v4(&net, &facts.destinations_v4, notes));
    }
    (net, usable.map(device))
}

/// What the guest gets in place of a default route: by way of the same routers, if they are in its subnet.
fn routes_v4(
    net: &Ipv4Net,
    destinations: &[(Ipv4Addr, u8, Option<Ipv4Addr>)],
    notes: &mut Vec<Note>,
) -> Vec<Ipv4Route> {
    if destinations.len() > MAX_ROUTES {
        notes.push(Note::warn(format!(
            "The host has no IPv4 default route but {} others, of which DHCP tells the guest {MAX_ROUTES}: \
             give it a default route with --gateway",
            destinations.len()
        )));
    }
    let stand_in = net.gateway.unwrap_or(LOCAL_GATEWAY_V4);
    let routes = destinations.iter().take(MAX_ROUTES).map(|(destination, prefix_len, gateway)| {
        let gateway = gateway.filter(|gateway| net.contains(*gateway)).unwrap_or(stand_in);
        Ipv4Route { destination: *destination, prefix_len: *prefix_len, gateway }
    });
    routes.collect()
}

/// Prefix length by address class (RFC 791 section 3.2).
fn class_prefix(addr: Ipv4Addr) -> u8 {
    match addr.octets()[0] {
        0..=127 => 8,
        128..=191 => 16,
        192..=223 => 24,
        _ => 32,
    }
}

fn net_v6(
    options: &Options,
    facts: &HostFacts,
    notes: &mut Vec<Note>,
) -> (Ipv6Net, Option<Device>) {
    let given = options.address_v6;
    let model = facts.v6.as_ref().and_then(|model| {
        let addr = given.or(model.address.map(|(addr, _)| addr))?;
        let gateway = options.gateway_v6.or(model.gateway);
        let from_gateway = gateway.filter(Ipv6Addr::is_unicast_link_local);
        // Our link-local address is one on the link to the guest. An interface that came up just now
        // has none yet to copy, which is no reason to do without IPv6.
        let our_link_local = from_gateway.or(model.link_local).unwrap_or(LOCAL_GATEWAY_V6);
        Some((model, addr, gateway, our_link_local))
    });
    let fixed = given.is_some();
    let default_router = is_default_router(options, facts);
    if let Some((model, addr, gateway, our_link_local)) = model {
        let net = Ipv6Net {
            addr: Some(addr),
            gateway,
            our_link_local,
            fixed,
            dns: ArrayVec::new(),
            default_router,
            scope_id: model.index,
        };
        return (net, Some(device(model)));
    }
    if !options.pasta.splice_only {
        local_mode("IPv6", notes);
    }
    let gateway = options.gateway_v6.unwrap_or(LOCAL_GATEWAY_V6);
    let link_local = if gateway.is_unicast_link_local() { gateway } else { LOCAL_GATEWAY_V6 };
    let net = Ipv6Net {
        addr: given,
        gateway: Some(gateway),
        our_link_local: link_local,
        fixed,
        dns: ArrayVec::new(),
        default_router,
        scope_id: 0,
    };
    (net, None)
}

/// Whether IPv6 leads anywhere beyond the guest's link: by the host's routes, or because the operator says so, with a
/// gateway or with an address that is mapped.
fn is_default_router(options: &Options, facts: &HostFacts) -> bool {
    let map = &options.mapping.v6;
    let mapped = [map.host_loopback, map.guest_addr, map.dns_match].into_iter().flatten();
    let far = mapped.filter(|address| !address.is_unicast_link_local()).count() > 0;
    facts.beyond_link_v6 || options.gateway_v6.is_some() || far
}

/// An interface that outbound sockets are bound to must be of use. One that is but a model may get
/// its address later, and the guest does without until then.
fn check_interfaces(
    options: &Options,
    v4: Option<&Device>,
    v6: Option<&Device>,
    notes: &mut Vec<Note>,
) -> Result<(), ConfError> {
    let wish = &options.interfaces;
    let (v4_works, v6_works) = (v4.is_some(), v6.is_some());
    for (option, name, works) in
        [("outbound-if4", wish.outbound_v4, v4_works), ("outbound-if6", wish.outbound_v6, v6_works)]
    {
        if let Some(name) = name.filter(|_| !works) {
            return Err(ConfError::InterfaceUnusable { option, name });
        }
    }
    if let Some(name) = wish.template.filter(|_| !v4_works && !v6_works) {
        notes.push(Note::warn(format!(
            "External interface not usable: --interface {name} has no address"
        )));
    }
    Ok(())
}

fn network(options: &Options, v4: Option<Ipv4Net>, v6: Option<Ipv6Net>) -> Network {
    let mut services = options.services;
    services.dhcp &= v4.as_ref().is_some_and(|v4| v4.gateway.is_some() && !v4.addr.is_loopback());
    services.ndp &= v6.is_some();
    if options.mode == Mode::Pasta {
        services.hand_out_dns = options.pasta.dhcp_dns;
        services.hand_out_search = options.pasta.dhcp_search;
        services.ra &= !options.pasta.configure;
    }
    services.ra &= services.ndp;
    services.dhcpv6 &= v6.as_ref().and_then(|v6| v6.addr).is_some_and(|addr| !addr.is_loopback());
    services.renew = !options.run.no_follow && !options.pasta.configure;
    Network {
        our_mac: options.mac,
        mtu: options.mtu,
        v4,
        v6,
        search: options.search.clone(),
        hostname: options.hostname.clone(),
        fqdn: options.fqdn.clone(),
        extra: options.extra.clone(),
        services,
    }
}

/// Who has the file that the guest boots from, if neither the operator nor a URL says so: this host, as which the guest
/// knows us.
fn complete_boot(network: &mut Network) {
    let gateway = network.v4.as_ref().and_then(|v4| v4.gateway);
    if let Some(boot) = network.extra.boot.as_mut().filter(|boot| !boot.file.contains("://")) {
        boot.server = boot.server.or(gateway);
    }
}

fn warn_of_mtu(network: &Network, notes: &mut Vec<Note>) {
    for (enabled, minimum, family) in
        [(network.v4.is_some(), MIN_MTU_V4, "IPv4"), (network.v6.is_some(), MIN_MTU_V6, "IPv6")]
    {
        if enabled && network.mtu < minimum {
            let mtu = network.mtu;
            notes.push(Note::warn(format!(
                "MTU {mtu} is too small for {family} (minimum {minimum})"
            )));
        }
    }
}
