//! One look at namespaces and pods of the whole cluster, for a snapshot: an hour's look is cheaper, for both sides, than following every
//! pod for ever.
//!
//! Deliberately absent: trying again, which whoever wants it does, and what a watch is for.

use std::collections::BTreeMap;

use kube::core::Request;
use kube::core::params::ListParams;

use super::error::ApiError;
use super::reflector::Page;
use super::wire::{Namespaces, Pods, Watched};
use super::{ApiClient, PAGE};
use crate::core::facts::Facts;

/// Objects a page: what the server holds ready at once, and what we parse at once.
const OBJECTS: u32 = 500;

impl ApiClient {
    /// Namespaces and pods as they are now, page by page; nothing of nodes, which are known.
    pub async fn look(&self) -> Result<Facts, ApiError> {
        let namespaces = self.all::<Namespaces>().await?;
        Ok(Facts { namespaces, pods: self.all::<Pods>().await?, ..Facts::default() })
    }

    async fn all<W: Watched>(&self) -> Result<BTreeMap<W::Key, W::Value>, ApiError> {
        let doing = format!("listing {} for a snapshot", W::NAME);
        let mut found = BTreeMap::new();
        let mut next: Option<String> = None;
        loop {
            let parameters = ListParams { limit: Some(OBJECTS), continue_token: next.take(), ..ListParams::default() };
            let page: Page<W::Wire> = self.call(&doing, Request::new(W::PATH).list(&parameters), PAGE).await?;
            found.extend(page.items.unwrap_or_default().into_iter().filter_map(W::read));
            next = page.metadata.next.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(found);
            }
        }
    }
}
