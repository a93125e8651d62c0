//! TCP sequence numbers: arithmetic modulo 2^32 (RFC 9293, section 3.4).

/// A sequence number. Comparison is by signed distance, so it holds for numbers less than 2^31 apart.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct SeqNr(pub u32);

impl SeqNr {
    /// Bytes from `earlier` to `self`; negative when `self` comes first.
    pub const fn offset_from(self, earlier: Self) -> i32 {
        self.0.wrapping_sub(earlier.0) as i32
    }

    /// Whether `self` comes before `other`.
    pub(crate) const fn before(self, other: Self) -> bool {
        self.offset_from(other) < 0
    }

    /// Whether `self` comes after `other`.
    pub(crate) const fn after(self, other: Self) -> bool {
        self.offset_from(other) > 0
    }

    /// The later of both.
    #[must_use]
    pub(crate) const fn max(self, other: Self) -> Self {
        if self.before(other) { other } else { self }
    }
}

impl std::ops::Add<u32> for SeqNr {
    type Output = Self;

    fn add(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl std::ops::AddAssign<u32> for SeqNr {
    fn add_assign(&mut self, bytes: u32) {
        *self = *self + bytes;
    }
}

impl std::ops::Sub<u32> for SeqNr {
    type Output = Self;

    fn sub(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }
}

impl std::fmt::Debug for SeqNr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_holds_across_the_wrap() {
        let before = SeqNr(u32::MAX - 1);
        let after = before + 5;
        assert_eq!(after, SeqNr(3));
        assert!(before.before(after) && after.after(before));
        assert_eq!(after.offset_from(before), 5);
        assert_eq!(before.offset_from(after), -5);
        assert_eq!(before.max(after), after);
    }

    /// Numbers that cover the circle in steps of 2^24, with the neighbours of each: every wrap, every half,
    /// and all distances that are near one of them.
    fn circle() -> impl Iterator<Item = u32> + Clone {
        (0..=u8::MAX)
            .flat_map(|step| [-1, 0, 1].map(|off| (u32::from(step) << 24).wrapping_add_signed(off)))
    }

    #[test]
    fn arithmetic_is_that_of_the_integers_modulo_2_to_the_32() {
        const HALF: i64 = 1 << 31;
        for (a, b) in circle().flat_map(|a| circle().map(move |b| (a, b))) {
            // The distance from b to a that is nearest to zero.
            let distance = (i64::from(a) - i64::from(b) + HALF).rem_euclid(2 * HALF) - HALF;
            let (x, y) = (SeqNr(a), SeqNr(b));
            assert_eq!(i64::from(x.offset_from(y)), distance, "{x:?} {y:?}");
            assert_eq!((x.before(y), x.after(y)), (distance < 0, distance > 0), "{x:?} {y:?}");
            assert_eq!((y + a.wrapping_sub(b), x - a.wrapping_sub(b)), (x, y));
            if distance == -HALF {
                continue;
            }
            assert_eq!((x.before(y), x.after(y)), (y.after(x), y.before(x)), "{x:?} {y:?}");
            assert_eq!((x.max(y), y.max(x)), if distance < 0 { (y, y) } else { (x, x) });
        }
    }
}
