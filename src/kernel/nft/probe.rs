//! Probes which nftables features this kernel supports.
//!
//! A batch without its end is validated and then rolled back by the kernel, as `nft --check` uses it: it makes no
//! generation, sends no notification and leaves nothing behind.

use nix::errno::Errno;

use crate::core::state::nft::{Field, MatchValue, NftRule, Statement, TableFamily};

use super::batch::protocol;
use super::statement::expressions_of;
use super::uapi::*;
use super::wire::Writer;
use super::{Nft, NftError};

/// Names that only ever exist inside the probe's batch.
const OWNED_PROBE: &str = "egret-probe-owned";
const KIND_PROBE: &str = "egret-probe-kind";

/// The kernel's features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NftFeatures {
    /// Tables owned by a process that persist when it ends: `flags owner,persist`, Linux 6.9.
    pub owned_tables: bool,
    /// `meta iifkind`, Linux 5.6.
    pub interface_kinds: bool,
    /// `reject with tcp reset` in the `inet` family: CONFIG_NFT_REJECT_INET.
    pub resets: bool,
}

impl Nft {
    /// Probes the kernel. Changes nothing.
    pub async fn probe(&mut self) -> Result<NftFeatures, NftError> {
        /// The batch's begin, and its five messages.
        const MESSAGES: u32 = 6;
        let first = self.socket.reserve(MESSAGES);
        self.socket.send(&probe_batch(first)).await.map_err(NftError::Probe)?;
        let refusals = self.refusals(first, first.wrapping_add(MESSAGES - 1)).await?;
        let mut features = NftFeatures { owned_tables: true, interface_kinds: true, resets: true };
        for (sequence, refusal) in refusals {
            let unknown = [Errno::EOPNOTSUPP, Errno::EINVAL, Errno::ENOENT, Errno::EAFNOSUPPORT];
            let unsupported = unknown.into_iter().any(|errno| errno as i32 == refusal.errno);
            match sequence.wrapping_sub(first) {
                1 if unsupported => features.owned_tables = false,
                2..=4 if unsupported => features.interface_kinds = false,
                5 if unsupported => features.resets = false,
                _ => refusal.into_result().map_err(NftError::Probe)?,
            }
        }
        Ok(features)
    }
}

fn probe_batch(first: u32) -> Vec<u8> {
    let mut writer = Writer::default();
    let begin = (NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, first);
    writer.message(begin, (NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES), |_| {});
    let mut sequence = first;
    let mut message = |kind: u8, family: TableFamily, attributes: &dyn Fn(&mut Writer)| {
        sequence = sequence.wrapping_add(1);
        let header = (NFNL_SUBSYS_NFTABLES << 8 | u16::from(kind), NLM_F_REQUEST | NLM_F_CREATE | NLM_F_ACK, sequence);
        writer.message(header, (protocol(family), 0), attributes);
    };
    // add table inet egret-probe-owned { flags owner,persist; }
    message(NFT_MSG_NEWTABLE, TableFamily::Inet, &|table| {
        table.text(NFTA_TABLE_NAME, OWNED_PROBE);
        table.number(NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER | NFT_TABLE_F_PERSIST);
    });
    // add table inet egret-probe-kind
    message(NFT_MSG_NEWTABLE, TableFamily::Inet, &|table| table.text(NFTA_TABLE_NAME, KIND_PROBE));
    // add chain inet egret-probe-kind probe
    message(NFT_MSG_NEWCHAIN, TableFamily::Inet, &|chain| {
        chain.text(NFTA_CHAIN_TABLE, KIND_PROBE);
        chain.text(NFTA_CHAIN_NAME, "probe");
    });
    // add rule inet egret-probe-kind probe meta iifkind "veth"
    let veth = MatchValue::Interface("veth".to_owned());
    // add rule inet egret-probe-kind probe reject with tcp reset
    let kind = Statement::Compare { field: Field::Iifkind, mask: None, negated: false, value: veth };
    for statement in [kind, Statement::Reset] {
        let rule = NftRule(vec![statement]);
        let expressions = expressions_of(TableFamily::Inet, &rule).unwrap_or_default();
        message(NFT_MSG_NEWRULE, TableFamily::Inet, &|message| {
            message.text(NFTA_RULE_TABLE, KIND_PROBE);
            message.text(NFTA_RULE_CHAIN, "probe");
            message.nested(NFTA_RULE_EXPRESSIONS, |list| expressions.iter().for_each(|one| one.write(list)));
        });
    }
    // Without NFNL_MSG_BATCH_END.
    writer.finish().unwrap_or_default()
}
