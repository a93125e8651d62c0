//! The link of a guest in a network namespace: its tap device, or with `--splice-only` none at all.
//! Without a device no frame ever comes, none can be sent, and nothing about it ever changes; what passes
//! the link by is then all there is.

use std::os::fd::OwnedFd;

use passt_frame::{
    Caps, FrameDone, FramePort, FromGuest, FromGuestBatch, PortEvents, Stopped, ToGuest,
    ToGuestList,
};
use passt_legacy::Tap;

use super::Link;
use crate::engine::event_counters::EventType;

/// The tap device, if there is one.
pub struct NamespaceLink {
    tap: Option<Tap>,
    nobody: [Nobody; 2],
}

impl NamespaceLink {
    /// A link through `tap`, or through nothing.
    pub fn new(tap: Option<Tap>) -> Self {
        Self { tap, nobody: [Nobody, Nobody] }
    }
}

impl FramePort for NamespaceLink {
    fn halves(&mut self) -> (&mut dyn FromGuest, &mut dyn ToGuest) {
        match &mut self.tap {
            Some(tap) => tap.halves(),
            None => {
                let [from, to] = &mut self.nobody;
                (from, to)
            }
        }
    }

    fn on_event(&mut self, token: u16) -> PortEvents {
        self.tap.as_mut().map_or_else(PortEvents::default, |tap| tap.on_event(token))
    }

    fn flush(&mut self) {
        if let Some(tap) = &mut self.tap {
            tap.flush();
        }
    }

    fn counters(&self, visit: &mut dyn FnMut(&'static str, u64)) {
        if let Some(tap) = &self.tap {
            tap.counters(visit);
        }
    }
}

impl Link for NamespaceLink {
    fn attach(&mut self, _client: OwnedFd) -> Result<(), String> {
        Err("a network namespace takes no clients".to_owned())
    }

    fn is_attached(&self) -> bool {
        true
    }

    fn has_clients(&self) -> bool {
        false
    }

    fn event_type(&self, _token: u16) -> EventType {
        EventType::Tap
    }

    fn may_poll(&self) -> bool {
        true
    }
}

/// Either half of no link.
struct Nobody;

// SAFETY: pushes no iovec.
unsafe impl ToGuest for Nobody {
    fn caps(&self) -> Caps {
        Caps::default()
    }

    fn reserve(&mut self, _list: &mut ToGuestList) -> Stopped {
        Stopped::Down
    }

    fn commit(&mut self, _list: &ToGuestList, _done: &[FrameDone]) {}

    fn cancel(&mut self, _list: &ToGuestList) {}
}

// SAFETY: pushes no iovec.
unsafe impl FromGuest for Nobody {
    fn take(&mut self, _batch: &mut FromGuestBatch) {}

    fn release(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_device_there_are_no_frames_and_no_room() {
        let mut link = NamespaceLink::new(None);
        assert!(link.attach(std::os::unix::net::UnixStream::pair().unwrap().0.into()).is_err());
        assert_eq!(link.on_event(0), PortEvents::default());
        link.counters(&mut |name, _| panic!("{name}"));
        link.flush();
        let mut batch = FromGuestBatch::new();
        let (from, _) = link.halves();
        from.take(&mut batch);
        assert!(batch.is_empty());
    }
}
