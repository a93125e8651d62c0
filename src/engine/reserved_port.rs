//! Source ports below 1024. Some servers trust them, NFS with its default exports above all: only the
//! privileged of a host may have them. So what comes from such a port of the guest leaves from such a port of
//! ours, as far as the host lets the program have one (`net.ipv4.ip_unprivileged_port_start`,
//! `CAP_NET_BIND_SERVICE`): the same if it is free, or another one.

use passt_frame::Errno;

use crate::limits::RESERVED_PORT_ATTEMPTS;

/// Ports below are reserved (`IPPORT_RESERVED`).
const RESERVED: u16 = 1024;
/// Those from here on are for clients (rresvport(3)).
const FOR_CLIENTS: u16 = RESERVED / 2;

/// Opens something from a port that is as good as `like`: `open` gets a reserved port if that is one, and 0 when
/// any will do.
///
/// # Errors
/// What `open` reports, but that a port is taken, or not for us.
pub(super) fn open_like<T>(
    like: u16,
    mut open: impl FnMut(u16) -> Result<T, Errno>,
) -> Result<T, Errno> {
    for port in candidates(like) {
        match open(port) {
            Err(Errno::ADDRINUSE | Errno::ADDRNOTAVAIL) => {}
            Err(Errno::ACCESS | Errno::PERM) => break,
            opened => return opened,
        }
    }
    open(0)
}

/// A reserved port, and some below it, in a circle; nothing for another port.
fn candidates(like: u16) -> impl Iterator<Item = u16> {
    let reserved = (1..RESERVED).contains(&like);
    let attempts = if reserved { RESERVED_PORT_ATTEMPTS } else { 0 };
    let below = move |step: u16| RESERVED - 1 - (RESERVED - 1 - like + step) % FOR_CLIENTS;
    (0..attempts).map(move |step| if step == 0 { like } else { below(step) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_ports_for_clients() {
        let of = |like| candidates(like).collect::<Vec<u16>>();
        assert_eq!(of(1023)[..3], [1023, 1022, 1021]);
        assert_eq!(of(513)[..3], [513, 512, 1023]);
        assert_eq!(of(111)[..2], [111, 622]);
        for like in 1..RESERVED {
            assert!(of(like)[1..].iter().all(|port| (FOR_CLIENTS..RESERVED).contains(port)));
            assert_eq!(of(like).len(), usize::from(RESERVED_PORT_ATTEMPTS));
        }
        assert_eq!([of(0), of(1024), of(40000)], [[0; 0]; 3]);
    }

    #[test]
    fn what_is_taken_or_forbidden_is_not_the_end() {
        let with = |like, answer: fn(u16) -> Result<u16, Errno>| open_like(like, answer);
        assert_eq!(with(700, Ok), Ok(700));
        assert_eq!(with(40000, Ok), Ok(0));
        assert_eq!(with(700, |p| if p == 700 { Err(Errno::ADDRINUSE) } else { Ok(p) }), Ok(699));
        assert_eq!(with(700, |p| if p == 0 { Ok(0) } else { Err(Errno::ACCESS) }), Ok(0));
        assert_eq!(with(700, |p| if p == 0 { Ok(0) } else { Err(Errno::ADDRNOTAVAIL) }), Ok(0));
        assert_eq!(with(700, |_| Err(Errno::MFILE)), Err(Errno::MFILE));
    }
}
