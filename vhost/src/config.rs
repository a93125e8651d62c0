//! What the device shows to the guest: `struct virtio_net_config` (virtio 1.2, section 5.1.4), served
//! to the front-end by GET_CONFIG.

/// `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u16 = 1;

/// Settings of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// MAC address for the guest; without one the front-end or the guest chooses.
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet in bytes.
    pub mtu: u16,
}

impl Config {
    /// `len` bytes of the configuration space with `pairs` queue pairs, from `offset`; zero where it has no field of ours.
    pub(crate) fn space(&self, pairs: u16, offset: usize, len: usize) -> Vec<u8> {
        let mut space = Vec::with_capacity(12);
        space.extend_from_slice(&self.mac.unwrap_or_default());
        space.extend_from_slice(&LINK_UP.to_le_bytes());
        space.extend_from_slice(&pairs.to_le_bytes()); // max_virtqueue_pairs
        space.extend_from_slice(&self.mtu.to_le_bytes());
        let mut bytes: Vec<u8> = space.into_iter().skip(offset).take(len).collect();
        bytes.resize(len, 0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_window_of_the_space_agrees_with_the_whole() {
        let config = Config { mac: Some([0x52, 0x54, 0, 1, 2, 3]), mtu: 65520 };
        let whole = config.space(8, 0, 64);
        assert_eq!(&whole[..12], [0x52, 0x54, 0, 1, 2, 3, 1, 0, 8, 0, 0xf0, 0xff]);
        assert!(whole[12..].iter().all(|&b| b == 0));
        for offset in 0..40 {
            for len in 0..20 {
                assert_eq!(config.space(8, offset, len), whole[offset..offset + len]);
            }
        }
    }
}
