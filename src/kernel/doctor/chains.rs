//! Lists the chains of all nftables tables, of any owner, to find those that may drop Egret's packets.
//!
//! Not here: their rules (`foreign`) and the evaluation of packets (`firewall`).

use super::super::nft::socket::{self, ExchangeError, NetfilterSocket};
use super::super::nft::uapi::{NFPROTO_UNSPEC, NLM_F_DUMP, NLM_F_REQUEST};
use super::super::nft::wire::{self, Malformed, Message, Writer};
use super::survey::{ForeignChain, Hook};

/// include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWCHAIN: u8 = 3;
const NFT_MSG_GETCHAIN: u8 = 4;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_HOOK_HOOKNUM: u16 = 1;
/// include/uapi/linux/netfilter.h: families and, of the IP families, three hooks; a verdict.
const NFPROTO_INET: u8 = 1;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const NF_INET_LOCAL_IN: u32 = 1;
const NF_INET_FORWARD: u32 = 2;
const NF_INET_LOCAL_OUT: u32 = 3;
const NF_DROP: u32 = 0;

/// Lists all chains, sorted, in the network namespace of the calling thread. Must be called within a tokio runtime.
pub(super) async fn list() -> Result<Vec<ForeignChain>, ExchangeError> {
    let mut socket = NetfilterSocket::open(socket::LARGE_BUFFER).map_err(ExchangeError::Socket)?;
    let request = |sequence| {
        let kind = NFNL_SUBSYS_NFTABLES << 8 | u16::from(NFT_MSG_GETCHAIN);
        let mut writer = Writer::default();
        writer.message((kind, NLM_F_REQUEST | NLM_F_DUMP, sequence), (NFPROTO_UNSPEC, 0), |_| {});
        writer.finish().unwrap_or_default()
    };
    let mut chains = Vec::new();
    socket
        .ask(request, |message| {
            chains.extend(read(message)?);
            Ok(())
        })
        .await?;
    chains.sort();
    Ok(chains)
}

fn read(message: &Message<'_>) -> Result<Option<ForeignChain>, Malformed> {
    if message.of_subsystem(NFNL_SUBSYS_NFTABLES) != Some(NFT_MSG_NEWCHAIN) {
        return Ok(None);
    }
    let (family, attributes) = message.netfilter()?;
    let hook = match wire::find(attributes, NFTA_CHAIN_HOOK)? {
        Some(hook) => wire::find_u32(hook, NFTA_HOOK_HOOKNUM)?,
        None => None,
    };
    let layer3 = [NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6].contains(&family);
    Ok(Some(ForeignChain {
        family: match family {
            NFPROTO_INET => "inet".to_owned(),
            NFPROTO_IPV4 => "ip".to_owned(),
            NFPROTO_IPV6 => "ip6".to_owned(),
            other => other.to_string(),
        },
        table: wire::find_text(attributes, NFTA_CHAIN_TABLE)?.unwrap_or_default().to_owned(),
        name: wire::find_text(attributes, NFTA_CHAIN_NAME)?.unwrap_or_default().to_owned(),
        hook: match hook.filter(|_| layer3) {
            Some(NF_INET_LOCAL_IN) => Some(Hook::Input),
            Some(NF_INET_FORWARD) => Some(Hook::Forward),
            Some(NF_INET_LOCAL_OUT) => Some(Hook::Output),
            _ => None,
        },
        drops: wire::find_u32(attributes, NFTA_CHAIN_POLICY)? == Some(NF_DROP),
    }))
}
