//! Events of connection tracking: connections that begin and end.
//!
//! Not here: what becomes of them (`core::nat_record`).

use std::io;

use socket2::{SockFilter, SockRef};

use super::super::nft::socket::{ExchangeError, NetfilterSocket};
use super::super::nft::wire::{Malformed, Messages};
use super::flows::flow;
use super::{CTA_MARK, Flow, IPCTNL_MSG_CT_DELETE, IPCTNL_MSG_CT_NEW, NFNL_SUBSYS_CTNETLINK};

/// include/uapi/linux/netfilter/nfnetlink.h.
const NFNLGRP_CONNTRACK_NEW: u32 = 1;
const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;
/// Some 30,000 events.
const BUFFER: usize = 8 << 20;

/// A connection began or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowEvent {
    /// It began.
    Began(Flow),
    /// It ended.
    Ended(Flow),
}

/// Events of the TCP connections and UDP flows with a mark of Egret's, in the network namespace of the thread that opened it.
pub struct FlowEvents {
    socket: NetfilterSocket,
}

impl FlowEvents {
    /// Begins to listen. Must be called within a tokio runtime. The kernel leaves out connections without a bit of `mask`.
    pub fn open(mask: u32) -> io::Result<Self> {
        let mut socket = NetfilterSocket::open(BUFFER)?;
        SockRef::from(&socket).attach_filter(&with_mark(mask))?;
        socket.join(NFNLGRP_CONNTRACK_NEW)?;
        socket.join(NFNLGRP_CONNTRACK_DESTROY)?;
        Ok(Self { socket })
    }

    /// The next events; [`ExchangeError::Lost`]: some were lost. Cancel-safe.
    pub async fn next(&mut self) -> Result<Vec<FlowEvent>, ExchangeError> {
        let mut events = Vec::new();
        match self.socket.receive().await {
            Ok(datagram) => read(datagram, &mut events).map_err(ExchangeError::Malformed)?,
            Err(error) => {
                // Until all is read the kernel drops further events silently.
                while self.socket.receive_now().is_some() {}
                return Err(error);
            }
        }
        Ok(events)
    }
}

fn read(datagram: &[u8], events: &mut Vec<FlowEvent>) -> Result<(), Malformed> {
    for message in Messages(datagram) {
        let message = message?;
        let kind = message.of_subsystem(NFNL_SUBSYS_CTNETLINK);
        if kind != Some(IPCTNL_MSG_CT_NEW) && kind != Some(IPCTNL_MSG_CT_DELETE) {
            continue;
        }
        let (family, attributes) = message.netfilter()?;
        if let Some(flow) = flow(family, attributes)? {
            let began = kind == Some(IPCTNL_MSG_CT_NEW);
            events.push(if began { FlowEvent::Began(flow) } else { FlowEvent::Ended(flow) });
        }
    }
    Ok(())
}

/// A filter of the socket: the attribute `CTA_MARK` has a bit of the mask. The kernel then makes no copy of other messages for it
/// (`sk_filter`, net/netlink/af_netlink.c).
fn with_mark(mask: u32) -> [SockFilter; 10] {
    // include/uapi/linux/filter.h and bpf_common.h.
    const SKF_AD_NLATTR: u32 = 0xffff_f000 + 12;
    const HEADERS: u32 = 20;
    [
        // ldx #CTA_MARK
        SockFilter::new(0x01, 0, 0, u32::from(CTA_MARK)),
        // ld #HEADERS: where attributes begin
        SockFilter::new(0x00, 0, 0, HEADERS),
        // ld #nlattr: where this one is, or 0
        SockFilter::new(0x20, 0, 0, SKF_AD_NLATTR),
        // jeq #0, drop
        SockFilter::new(0x15, 5, 0, 0),
        // tax
        SockFilter::new(0x07, 0, 0, 0),
        // ld [x + 4]: behind its header
        SockFilter::new(0x40, 0, 0, 4),
        // and #mask
        SockFilter::new(0x54, 0, 0, mask),
        // jeq #0, drop
        SockFilter::new(0x15, 1, 0, 0),
        // ret #all
        SockFilter::new(0x06, 0, 0, u32::MAX),
        // drop: ret #0
        SockFilter::new(0x06, 0, 0, 0),
    ]
}
