//! What the front-end asks of single rings, by their numbers.

use std::fs::File;

use super::{RINGS, Session, TOKEN_KICK, Violation};
use crate::run::Run;
use crate::vring::UserAddresses;

impl Session {
    /// Checks a ring's index.
    fn index(&self, index: u32) -> Result<usize, Violation> {
        let at = index as usize;
        if at < RINGS { Ok(at) } else { Err(Violation::NoRing(index)) }
    }

    /// The same for what must not change while the ring runs. One from which nothing was taken starts anew: some say it
    /// behind SET_VRING_KICK. One that is disabled is stopped: the driver is another one now, and User-Mode Linux says
    /// nothing else of that.
    fn stopped(&mut self, index: u32) -> Result<usize, Violation> {
        let at = self.index(index)?;
        let is_left = self.with(at, |user| {
            let vring = user.vring();
            match &vring.run {
                Run::Running(ring) if !ring.has_moved() => {
                    user.retract();
                    Ok(false)
                }
                Run::Running(_) if vring.enabled => Err(Violation::Running(at)),
                Run::Running(_) | Run::Unmapped { .. } => Ok(!vring.enabled),
                Run::Waiting | Run::Stopped => Ok(false),
            }
        })?;
        if is_left {
            self.halt(at);
        }
        Ok(at)
    }

    /// Forgets a ring that the driver has left, whose kicks are over. Nothing is written any more: what was its memory may
    /// be somebody else's.
    fn halt(&mut self, at: usize) {
        let registrar = self.registrar.clone();
        self.with(at, |user| {
            user.forget();
            user.vring_mut().drop_kick(&registrar);
        });
    }

    /// RESET_OWNER, which stops all rings in the words of vhost. It was deprecated because some said it where others
    /// went on, so that it stops those that are disabled.
    pub(crate) fn reset_owner(&mut self) {
        for at in 0..RINGS {
            let is_left = self.with(at, |user| {
                !user.vring().enabled && !matches!(user.vring().run, Run::Stopped)
            });
            if is_left {
                self.halt(at);
            }
        }
    }

    /// SET_VRING_NUM.
    pub(crate) fn set_ring_size(&mut self, index: u32, size: u32) -> Result<(), Violation> {
        let index = self.stopped(index)?;
        let had_size = self.with(index, |user| user.vring().has_size());
        if !self.with(index, |user| user.vring_mut().set_size(size)) {
            return Err(Violation::Range { what: "ring size", value: u64::from(size) });
        }
        // The first one may be all that was lacking.
        if had_size {
            self.go_on(index, |user| user.resume());
        } else {
            self.go_on(index, |user| user.start());
        }
        Ok(())
    }

    /// SET_VRING_BASE.
    pub(crate) fn set_ring_base(&mut self, index: u32, base: u32) -> Result<(), Violation> {
        let index = self.stopped(index)?;
        let range = |_| Violation::Range { what: "ring base", value: u64::from(base) };
        let base = u16::try_from(base).map_err(range)?;
        self.with(index, |user| user.vring().set_base(base));
        self.go_on(index, |user| user.resume());
        Ok(())
    }

    /// SET_VRING_ADDR. On a running ring only the place changes, not the indexes.
    pub(crate) fn set_ring_address(
        &mut self,
        index: u32,
        at: UserAddresses,
    ) -> Result<(), Violation> {
        let index = self.index(index)?;
        if !self.with(index, |user| user.vring_mut().set_addresses(at)) {
            return Err(Violation::BadAddress(index));
        }
        self.go_on(index, |user| user.start());
        Ok(())
    }

    /// SET_VRING_KICK.
    pub(crate) fn set_kick(&mut self, index: u32, fd: Option<File>) -> Result<(), Violation> {
        let index = self.index(index)?;
        let why = "polling instead of kicks is not supported";
        let fd = fd.ok_or(Violation::BadDescriptor(index, why))?;
        let (registrar, token) = (self.registrar.clone(), TOKEN_KICK + index as u16);
        self.with(index, |user| user.vring_mut().set_kick(fd, &registrar, token))
            .map_err(|_| Violation::BadDescriptor(index, "kicks cannot be polled for"))?;
        self.go_on(index, |user| user.start());
        Ok(())
    }

    /// SET_VRING_CALL. What was used before under another descriptor may have gone unnoticed, so
    /// the new one is signalled at once.
    pub(crate) fn set_call(&mut self, index: u32, fd: Option<File>) -> Result<(), Violation> {
        let index = self.index(index)?;
        self.with(index, |user| {
            let vring = user.vring();
            vring.set_call(fd).map_err(|_| Violation::BadDescriptor(index, "call descriptor"))?;
            if vring.is_running() {
                vring.call();
            }
            Ok(())
        })
    }

    /// SET_VRING_ERR.
    pub(crate) fn set_err(&mut self, index: u32, fd: Option<File>) -> Result<(), Violation> {
        let index = self.index(index)?;
        self.with(index, |user| user.vring_mut().set_err(fd))
            .map_err(|_| Violation::BadDescriptor(index, "error descriptor"))
    }

    /// SET_VRING_ENABLE.
    pub(crate) fn set_enable(&mut self, index: u32, enable: u32) -> Result<(), Violation> {
        let index = self.index(index)?;
        let range = Violation::Range { what: "enable flag", value: u64::from(enable) };
        let enable = if enable <= 1 { enable == 1 } else { return Err(range) };
        self.with(index, |user| user.vring_mut().enabled = enable);
        self.go_on(index, |user| user.resume());
        Ok(())
    }

    /// GET_VRING_BASE: stops the ring and says where to go on. Nothing is written any more then, and what was is
    /// marked.
    pub(crate) fn stop_ring(&mut self, index: u32) -> Result<u16, Violation> {
        let index = self.index(index)?;
        let registrar = self.registrar.clone();
        let base = self.with(index, |user| {
            let base = user.stop();
            let vring = user.vring_mut();
            vring.call();
            vring.drop_kick(&registrar);
            let _ = vring.set_call(None);
            base
        });
        self.logging.tell();
        self.lost().map_or(Ok(base), |what| Err(Violation::Lost(what)))
    }
}
