//! Chooses the bits of packet and connection marks that a node uses, given those that other programs use
//! (`datapath.markMask: auto`).
//!
//! Marks never leave a node, so nodes may differ. Not here: finding out what others use (`kernel::marks`).

use std::collections::BTreeMap;
use std::fmt;

use super::ownership::DatapathConfig;

/// Maximum number of bits of `markMask`: an exit's id is at most 0x7ffe.
pub const WIDEST: u32 = 15;
/// With fewer bits a node has room for fewer than 254 exits, which is reported as a finding.
pub const ENOUGH: u32 = 8;
/// Number of bits of the default; no more are chosen.
const WANTED: u32 = 13;
/// kube-proxy's bits for masquerading and dropping (`iptables.masqueradeBit` 14, and 15). They count as used on every
/// node: kube-proxy may start after Egret, and CNIs and kubelet use the same two.
pub const KUBE_PROXY: u32 = 0x4000 | 0x8000;

/// Mark bits that other programs on a node use, by program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MarkUsage(BTreeMap<String, u32>);

impl MarkUsage {
    /// Adds the bits that a program uses.
    pub fn add(&mut self, user: impl Into<String>, bits: u32) {
        if bits != 0 {
            *self.0.entry(user.into()).or_default() |= bits;
        }
    }

    /// All bits.
    pub fn bits(&self) -> u32 {
        self.0.values().fold(0, |all, bits| all | bits)
    }

    /// The programs that use some of these bits, and which.
    #[must_use]
    pub fn within(&self, mask: u32) -> Self {
        let common = self.0.iter().map(|(user, bits)| (user.clone(), bits & mask));
        Self(common.filter(|(_, bits)| *bits != 0).collect())
    }

    /// Whether no program uses any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for MarkUsage {
    /// `Calico 0xffff0000, the ip rule 1024 0x80`; of many the first few.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        let shown: Vec<String> = self.0.iter().take(SHOWN).map(|(user, bits)| format!("{user} {bits:#x}")).collect();
        f.write_str(&shown.join(", "))?;
        match self.0.len() {
            0 => f.write_str("nobody"),
            more if more > SHOWN => write!(f, " and {} more", more - SHOWN),
            _ => Ok(()),
        }
    }
}

/// The bits used by a rule that compares a mark under a mask with a value, or sets those bits. Without a mask (all bits)
/// only the bits of the value count: such a rule fails with any other bit set, whichever it is, so no choice avoids it.
pub fn touched(mask: u32, value: u32) -> u32 {
    if mask == u32::MAX { value } else { mask | value }
}

/// Why a node has its mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaskReason {
    /// The mask in the kernel is kept: connections there have its marks.
    Kept,
    /// No other program uses the default.
    Default,
    /// The default is in use: this is the widest free run.
    Free,
    /// Nothing wide enough is free: this is the widest free run.
    Narrow,
    /// No two adjacent bits are free: the default, although it is in use.
    Taken,
}

/// The bits a node takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskChoice {
    /// The bits, one contiguous run.
    pub mask: u32,
    /// The reason.
    pub why: MaskReason,
}

/// Chooses a mask. `before` is the mask in the kernel: it is kept until another program uses one of its bits.
pub fn choose(used: &MarkUsage, before: Option<u32>) -> MaskChoice {
    let taken = used.bits() | KUBE_PROXY;
    let default = DatapathConfig::default().mask;
    let free = |mask: u32| mask & taken == 0;
    let widest = widest_run(!taken);
    if let Some(mask) = before
        && free(mask)
        && (2..=WIDEST).contains(&mask.count_ones())
        && mask.count_ones() >= ENOUGH.min(widest.count_ones())
    {
        // A narrow mask is reported in every round, not only in the one that chose it.
        return MaskChoice {
            mask,
            why: if mask.count_ones() < ENOUGH { MaskReason::Narrow } else { MaskReason::Kept },
        };
    }
    if free(default) {
        return MaskChoice { mask: default, why: MaskReason::Default };
    }
    match widest.count_ones() {
        ENOUGH.. => MaskChoice { mask: widest, why: MaskReason::Free },
        2.. => MaskChoice { mask: widest, why: MaskReason::Narrow },
        _ => MaskChoice { mask: default, why: MaskReason::Taken },
    }
}

/// The widest run of set bits, of equal ones the lowest; of a run wider than wanted the lower bits.
fn widest_run(free: u32) -> u32 {
    let mut widest = 0_u32;
    let mut run = 0_u32;
    for bit in 0..u32::BITS {
        let bit = 1 << bit;
        run = if free & bit == 0 || run.count_ones() == WANTED { free & bit } else { run | bit };
        if run.count_ones() > widest.count_ones() {
            widest = run;
        }
    }
    widest
}

impl fmt::Display for MaskReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "in use by Egret alone",
            Self::Default => "the default, otherwise unused",
            Self::Free => "the default is in use",
            Self::Narrow => "no eight bits in a row are free",
            Self::Taken => "the default, as nothing is free",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(bits: u32) -> MarkUsage {
        let mut used = MarkUsage::default();
        used.add("somebody", bits);
        used
    }

    fn chosen(bits: u32, before: Option<u32>) -> (u32, MaskReason) {
        let MaskChoice { mask, why } = choose(&used(bits), before);
        (mask, why)
    }

    #[test]
    fn the_default_mask_is_used_where_it_is_free() {
        assert_eq!(chosen(0, None), (0x1fff, MaskReason::Default));
        assert_eq!(chosen(0xffff_0000, None), (0x1fff, MaskReason::Default), "Calico");
        assert_eq!(chosen(0x00ff_0000, None), (0x1fff, MaskReason::Default), "Tailscale");
    }

    #[test]
    fn where_the_default_is_in_use_the_widest_free_run_is_used_without_kube_proxys_bits() {
        assert_eq!(chosen(0x80, None), (0x1fff_0000, MaskReason::Free), "AWS");
        assert_eq!(chosen(0xffff_0f00, None), (0xff, MaskReason::Free), "Cilium");
        assert_eq!(chosen(0x1, None), (0x3ffe, MaskReason::Free), "Antrea as it was");
        assert_eq!(chosen(0x0080_0080, None), (0xff00_0000, MaskReason::Free), "eight bits above, seven below");
        for bits in [0x80, 0x800, 0xca6c, 0x5555, 0x8000_00ff] {
            let (mask, why) = chosen(bits, None);
            assert_eq!(why, MaskReason::Free, "{bits:#x}");
            assert_eq!(mask & (bits | KUBE_PROXY), 0, "{bits:#x}");
            let run = mask >> mask.trailing_zeros();
            assert_eq!(run & (run + 1), 0, "{mask:#x} is one run");
            assert!((ENOUGH..=WANTED).contains(&mask.count_ones()), "{mask:#x}");
        }
    }

    #[test]
    fn the_mask_in_the_kernel_is_kept_until_another_program_uses_a_bit_of_it() {
        assert_eq!(
            chosen(0, Some(0x1fff_0000)),
            (0x1fff_0000, MaskReason::Kept),
            "also where the default is free again"
        );
        assert_eq!(chosen(0x80, Some(0x1fff_0000)), (0x1fff_0000, MaskReason::Kept));
        assert_eq!(chosen(0x80, Some(0x1fff)), (0x1fff_0000, MaskReason::Free));
        assert_eq!(chosen(0x10_0000, Some(0x1fff_0000)), (0x1fff, MaskReason::Default));
        assert_eq!(chosen(0, Some(0xff00)), (0x1fff, MaskReason::Default), "bits of kube-proxy's are not kept");
        assert_eq!(chosen(0, Some(0xffff_0000)), (0x1fff, MaskReason::Default), "nor are more than an exit's id has");
    }

    #[test]
    fn a_narrow_run_is_used_only_while_no_wide_one_is_free() {
        let aws_and_calico = 0xffff_0080;
        assert_eq!(chosen(aws_and_calico, None), (0x7f, MaskReason::Narrow));
        assert_eq!(chosen(aws_and_calico, Some(0x7f)), (0x7f, MaskReason::Narrow), "each time it is looked at");
        assert_eq!(chosen(0x80, Some(0x7f)), (0x1fff_0000, MaskReason::Free), "Calico has gone");
        assert_eq!(chosen(u32::MAX, None), (0x1fff, MaskReason::Taken));
        assert_eq!(chosen(u32::MAX, Some(0x1fff)), (0x1fff, MaskReason::Taken), "no moving to and fro");
        assert_eq!(chosen(0x5555_5555, None), (0x1fff, MaskReason::Taken), "one bit is none");
    }

    #[test]
    fn a_comparison_of_the_whole_mark_uses_the_bits_of_its_value() {
        assert_eq!(touched(u32::MAX, 0x51), 0x51);
        assert_eq!(touched(0xf00, 0x200), 0xf00);
        assert_eq!(touched(0xff, 0x100), 0x1ff, "what is set beside the mask");
    }

    #[test]
    fn mark_usage_is_shown_on_one_line() {
        let mut used = MarkUsage::default();
        assert_eq!(used.to_string(), "nobody");
        used.add("the ip rule 1024", 0x80);
        used.add("Calico", 0xffff_0000);
        used.add("nobody", 0);
        assert_eq!(used.to_string(), "Calico 0xffff0000, the ip rule 1024 0x80");
        assert_eq!(used.within(0xff).to_string(), "the ip rule 1024 0x80");
        (0..4).for_each(|number| used.add(format!("x{number}"), 1));
        assert_eq!(used.to_string(), "Calico 0xffff0000, the ip rule 1024 0x80, x0 0x1, x1 0x1 and 2 more");
    }
}
