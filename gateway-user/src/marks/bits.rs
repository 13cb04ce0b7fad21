//! What statements do to the bits of a mark.

use super::{MarkOf, Ours, Use};
use crate::config::Mark;

/// What is known of the bits of an expression: each is in at most one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits {
    /// As they were in the mark that is written.
    pub(super) kept: u32,
    /// Zero for certain.
    pub(super) zero: u32,
    /// One for certain.
    pub(super) one: u32,
}

impl Bits {
    pub(super) const OLD: Self = Self { kept: u32::MAX, zero: 0, one: 0 };

    pub(super) const fn constant(value: u32) -> Self {
        Self { kept: 0, zero: !value, one: value }
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            kept: (self.kept & other.one) | (self.one & other.kept),
            zero: self.zero | other.zero,
            one: self.one & other.one,
        }
    }

    pub(super) const fn or(self, other: Self) -> Self {
        Self {
            kept: (self.kept & other.zero) | (self.zero & other.kept),
            zero: self.zero & other.zero,
            one: self.one | other.one,
        }
    }

    pub(super) const fn xor(self, other: Self) -> Self {
        Self {
            kept: (self.kept & other.zero) | (self.zero & other.kept),
            zero: (self.zero & other.zero) | (self.one & other.one),
            one: (self.zero & other.one) | (self.one & other.zero),
        }
    }
}

impl Ours {
    /// A write that leaves `kept` as it was: our bits that it does not leave.
    pub(super) fn written(self, of: MarkOf, kept: u32) -> Option<(Use, u32)> {
        let bits = self.bits(of) & !kept;
        (bits != 0).then_some((Use::Writes, bits))
    }

    /// A comparison of the bits under `mask` with `value`; `None`, with several or with what is not
    /// known.
    pub(super) fn compared(self, of: MarkOf, mask: u32, value: Option<u32>) -> Option<(Use, u32)> {
        let bits = self.bits(of) & mask;
        let Mark { mask: ours, value: direct } = self.mark;
        // Under the whole mask: direct, and marked by nobody else.
        let asks_whether_direct = match value {
            Some(value) if mask == ours => value == direct || value == 0,
            Some(value) => mask == u32::MAX && value == direct,
            None => false,
        };
        let asks_whether_decided = of == MarkOf::Connection && mask == self.decided;
        if bits == 0 || asks_whether_direct || asks_whether_decided {
            return None;
        }
        let is_whole = mask == u32::MAX && value.is_some_and(|value| value & bits == 0);
        Some((if is_whole { Use::Compares } else { Use::Reads }, bits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ours = Ours { mark: Mark { value: 0x0100, mask: 0x0100 }, decided: 0x0200 };

    #[test]
    fn masked_writes_leave_the_rest() {
        let masked = Bits::OLD.and(Bits::constant(!0xff)).or(Bits::constant(0x7));
        assert_eq!(masked.kept, !0xff);
        assert_eq!(masked.one, 0x7);
        let toggled = Bits::OLD.xor(Bits::constant(0x10));
        assert_eq!(toggled.kept, !0x10);
        assert_eq!(Bits::default().and(Bits::constant(0xf)).zero, !0xf, "unknown under a mask");
        let merged =
            Bits::OLD.and(Bits::constant(0xff)).or(Bits::default().and(Bits::constant(0xf00)));
        assert_eq!(merged.kept, 0xff);
    }

    #[test]
    fn writes_are_told_by_what_they_do_not_leave() {
        assert_eq!(OURS.written(MarkOf::Packet, 0), Some((Use::Writes, 0x100)));
        assert_eq!(OURS.written(MarkOf::Connection, 0), Some((Use::Writes, 0x300)));
        assert_eq!(OURS.written(MarkOf::Packet, !0xff), None);
        assert_eq!(OURS.written(MarkOf::Packet, !0x200), None, "DECIDED is the connection's");
    }

    #[test]
    fn who_asks_what_our_mark_says_does_not_collide() {
        for of in [MarkOf::Packet, MarkOf::Connection] {
            assert_eq!(OURS.compared(of, 0x100, Some(0x100)), None);
            assert_eq!(OURS.compared(of, 0x100, Some(0)), None);
            assert_eq!(OURS.compared(of, 0xff, Some(7)), None);
            assert_eq!(OURS.compared(of, 0xff00, Some(0x100)).map(|it| it.0), Some(Use::Reads));
            assert_eq!(OURS.compared(of, u32::MAX, Some(1)).map(|it| it.0), Some(Use::Compares));
            assert_eq!(OURS.compared(of, u32::MAX, Some(0x100)), None);
            assert_eq!(OURS.compared(of, u32::MAX, Some(0x101)).map(|it| it.0), Some(Use::Reads));
            assert_eq!(OURS.compared(of, u32::MAX, None).map(|it| it.0), Some(Use::Reads));
        }
        assert_eq!(OURS.compared(MarkOf::Connection, 0x200, Some(0x200)), None);
        assert_eq!(OURS.compared(MarkOf::Packet, 0x200, Some(0x200)), None);
    }
}
