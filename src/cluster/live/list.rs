//! Lists objects of the whole cluster once, page by page: namespaces and pods for a snapshot, as an hourly list is cheaper,
//! for client and server, than watching every pod; what an uninstallation removes; and the versions of what is watched, to
//! compare.
//!
//! Not here: retries (the caller's) and watches (see `watch`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube::core::Request;
use kube::core::params::ListParams;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use super::known::Versions;
use super::reflector::{Page, Query};
use super::wire::{Identity, Namespaces, Pods, Watched};
use super::{ApiClient, PAGE};
use crate::core::facts::{Facts, Pod, PodName};
use crate::core::labels::Labels;
use crate::core::name::NodeName;

/// The page size: the objects that the server prepares at once, and that the client parses at once.
const OBJECTS: u32 = 500;

/// An object of which only the version is of interest.
#[derive(Deserialize)]
struct Versioned {
    metadata: VersionMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionMeta {
    namespace: Option<String>,
    name: String,
    resource_version: String,
}

impl ApiClient {
    /// The current version of each watched object. Only metadata is sent, and the list is as new as the request.
    pub(super) async fn versions<W: Watched>(self, query: Query) -> Result<Versions, ApiError> {
        let doing = format!("comparing {}", W::NAME);
        let mut found = Versions::new();
        let mut next: Option<String> = None;
        loop {
            let request = Request::new(query.path::<W>()).list_metadata(&query.list(query.page, next.take()));
            let page: Page<Versioned> = self.call(&doing, request, PAGE).await?;
            for VersionMeta { namespace, name, resource_version } in
                page.items.unwrap_or_default().into_iter().map(|item| item.metadata)
            {
                let object = Identity { namespace: namespace.as_deref(), name: &name, version: "" };
                found.insert(object.key(), resource_version);
            }
            next = page.metadata.next.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(found);
            }
        }
    }

    /// Current namespaces and pods, page by page; no nodes, which are watched already.
    pub async fn list_facts(&self) -> Result<Facts, ApiError> {
        let (namespaces, pods) = tokio::join!(self.all::<Namespaces>(), self.all::<Pods>());
        Ok(Facts { namespaces: namespaces?, pods: pods?, ..Facts::default() })
    }

    /// One pod, with the labels of its namespace; none if there is none. By lists of one, as the right to list is all that the controller has.
    pub async fn pod(&self, name: &PodName) -> Result<Option<(Pod, Labels)>, ApiError> {
        let doing = "looking for a pod";
        // What is no name would be another path, or a list of others.
        let parts = [&name.namespace, &name.name].map(|part| NodeName::parse(part).is_ok());
        if parts != [true, true] {
            return Ok(None);
        }
        let path = format!("/api/v1/namespaces/{}/pods", name.namespace);
        let named = |name: &str| ListParams::default().fields(&format!("metadata.name={name}"));
        let pods: Page<<Pods as Watched>::Wire> =
            self.call(doing, Request::new(path).list(&named(&name.name)), PAGE).await?;
        let mut pods = pods.items.unwrap_or_default().into_iter().filter_map(Pods::read);
        let Some((_, pod)) = pods.find(|(found, _)| found == name) else { return Ok(None) };
        let path = <Namespaces as Watched>::PATH;
        let all: Page<<Namespaces as Watched>::Wire> =
            self.call(doing, Request::new(path).list(&named(&name.namespace)), PAGE).await?;
        let mut namespaces = all.items.unwrap_or_default().into_iter().filter_map(Namespaces::read);
        let labels = namespaces.find(|(found, _)| *found == name.namespace).map(|(_, labels)| labels);
        Ok(Some((pod, labels.unwrap_or_default())))
    }

    /// The pods whose first address this is.
    pub(super) async fn pods_with(&self, address: IpAddr) -> Result<Vec<(PodName, Pod)>, ApiError> {
        let parameters = ListParams::default().fields(&format!("status.podIP={address}"));
        let request = Request::new(<Pods as Watched>::PATH).list(&parameters);
        let found: Page<<Pods as Watched>::Wire> = self.call("looking for pods with an address", request, PAGE).await?;
        Ok(found.items.unwrap_or_default().into_iter().filter_map(Pods::read).collect())
    }

    async fn all<W: Watched>(&self) -> Result<BTreeMap<W::Key, W::Value>, ApiError> {
        let items: Vec<W::Wire> = self.pages(&format!("listing {}", W::NAME), W::PATH).await?;
        Ok(items.into_iter().filter_map(W::read).collect())
    }

    /// All objects at a path.
    pub(super) async fn pages<T: DeserializeOwned>(&self, doing: &str, path: &str) -> Result<Vec<T>, ApiError> {
        self.pages_by(doing, |page| Request::new(path).list(page)).await
    }

    /// All objects. `list` makes the request for a page.
    pub(super) async fn pages_by<T: DeserializeOwned>(
        &self,
        doing: &str,
        list: impl Fn(&ListParams) -> Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<Vec<T>, ApiError> {
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let parameters = ListParams { limit: Some(OBJECTS), continue_token: next.take(), ..ListParams::default() };
            let page: Page<T> = self.call(doing, list(&parameters), PAGE).await?;
            found.extend(page.items.unwrap_or_default());
            next = page.metadata.next.filter(|token| !token.is_empty());
            if next.is_none() {
                return Ok(found);
            }
        }
    }
}
