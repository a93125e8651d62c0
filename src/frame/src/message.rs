//! The headers of recvmsg(2), sendmsg(2) and their control messages (`struct msghdr`, `struct cmsghdr`).
//!
//! C libraries disagree about the types of their lengths: glibc has the kernel's, musl those of POSIX with
//! padding around them. Nothing outside of this file knows which there are.

use std::net::SocketAddr;

/// Bytes of a control message before its data.
pub const CONTROL_HEADER: usize = size_of::<libc::cmsghdr>();

/// A header for the `count` pieces at `pieces`, without address and control messages.
pub fn header(pieces: *mut libc::iovec, count: usize) -> libc::msghdr {
    // SAFETY: an all-zero msghdr is valid: null pointers with zero lengths.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = pieces;
    header.msg_iovlen = length(count);
    header
}

/// A socket address as the kernel reads it (`struct sockaddr_in`, `struct sockaddr_in6`).
#[repr(C, align(4))]
pub struct Name {
    bytes: [u8; 28],
    len: u8,
}

impl From<SocketAddr> for Name {
    fn from(address: SocketAddr) -> Self {
        let mut bytes = [0; 28];
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        let (family, len) = match address {
            SocketAddr::V4(v4) => {
                bytes[4..8].copy_from_slice(&v4.ip().octets());
                (libc::AF_INET, 16)
            }
            SocketAddr::V6(v6) => {
                bytes[8..24].copy_from_slice(&v6.ip().octets());
                bytes[24..].copy_from_slice(&v6.scope_id().to_ne_bytes());
                (libc::AF_INET6, 28)
            }
        };
        bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        Self { bytes, len }
    }
}

/// Has `header` go to `name`.
pub fn set_name(header: &mut libc::msghdr, name: &Name) {
    header.msg_name = name.bytes.as_ptr().cast_mut().cast();
    header.msg_namelen = name.len.into();
}

/// Has `header` name `bytes` bytes at `control`: control messages, or room for them.
pub fn set_control<T>(header: &mut libc::msghdr, control: *mut T, bytes: usize) {
    header.msg_control = control.cast();
    header.msg_controllen = length(bytes);
}

/// Bytes of control messages that the kernel has written.
pub fn control_bytes(header: &libc::msghdr) -> usize {
    length(header.msg_controllen)
}

/// The header of a control message with `bytes` bytes of data.
pub fn control_header(level: i32, kind: i32, bytes: usize) -> libc::cmsghdr {
    // SAFETY: an all-zero cmsghdr is valid; all its fields are integers.
    let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
    header.cmsg_len = length(CONTROL_HEADER + bytes);
    (header.cmsg_level, header.cmsg_type) = (level, kind);
    header
}

/// Bytes of a control message, its header included.
pub fn control_message_bytes(header: &libc::cmsghdr) -> usize {
    length(header.cmsg_len)
}

/// The control message of `UDP_SEGMENT` (udp(7)), laid out as the kernel wants it: the payload goes as datagrams of that
/// many bytes each.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct SegmentControl {
    header: libc::cmsghdr,
    segment: u16,
}

impl SegmentControl {
    /// Datagrams of `segment` bytes.
    pub fn new(segment: u16) -> Self {
        let bytes = size_of_val(&segment);
        Self { header: control_header(libc::SOL_UDP, libc::UDP_SEGMENT, bytes), segment }
    }
}

/// A length in another type.
fn length<From, To: TryFrom<From>>(len: From) -> To {
    To::try_from(len).ok().expect("messages have far less than 2 GiB, and few pieces")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_where_the_kernel_reads_them() {
        let mut pieces: [libc::iovec; 3] =
            [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; 3];
        let mut control = [0u8; 40];
        let mut message = header(pieces.as_mut_ptr(), pieces.len());
        set_control(&mut message, control.as_mut_ptr(), control.len());
        assert_eq!(control_bytes(&message), 40);
        // struct user_msghdr (linux/socket.h): name, its length, pieces, their number, control messages,
        // their length, flags.
        let words = (&raw const message).cast::<usize>();
        // SAFETY: a msghdr has seven words; those from 2 to 5 have no padding but what was zeroed.
        let found = [2, 3, 4, 5].map(|index| unsafe { words.add(index).read() });
        assert_eq!(found, [pieces.as_ptr().addr(), 3, control.as_ptr().addr(), 40]);
        let told = control_header(1, 2, 6);
        assert_eq!(control_message_bytes(&told), CONTROL_HEADER + 6);
        // struct cmsghdr: length, level, type.
        // SAFETY: a cmsghdr has a word and two halves.
        let (len, level, kind): (usize, i32, i32) = unsafe { std::mem::transmute(told) };
        assert_eq!((len, level, kind), (CONTROL_HEADER + 6, 1, 2));
    }
}
