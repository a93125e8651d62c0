//! Addresses of the namespace that `tests/fuzz/run` makes.

/// The host's IPv4 address.
pub const HOST_V4: &str = "198.51.100.1";
/// The host's IPv6 address.
pub const HOST_V6: &str = "2001:db8:1::1";
