//! Getting and listing, whole objects or their metadata, in pages and at versions.
//!
//! Deliberately absent: tables, and caches that lag by themselves: a list is stale where a test wants it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::resource::Target;
use super::selectors::Selector;
use super::status::{self, Outcome};
use super::store::Key;
use super::world::World;
use super::write::Answer;

/// GET of an object.
pub(crate) fn get(world: &World, target: &Target, partial: bool) -> Answer {
    let named = target.resource.named(&target.name);
    let object = world.store.get(&World::key(target)).ok_or_else(|| status::not_found(named))?;
    Ok((200, if partial { metadata_of(&object) } else { Value::clone(&object) }))
}

/// An object's metadata, as an object of its own.
pub(crate) fn metadata_of(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// Reads a version of a request; nothing and 0 are any.
pub(crate) fn version(text: &str) -> Outcome<u64> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| status::bad_request(format!("Invalid value: {text:?}: resourceVersion: Invalid value")))
}

/// GET of all objects.
pub(crate) fn list(world: &World, target: &Target, query: &dyn Fn(&str) -> String, partial: bool) -> Answer {
    let resource = &target.resource;
    let id = resource.id();
    let selector = Selector::parse(id, &query("labelSelector"), &query("fieldSelector"))?;
    let limit: usize = query("limit").parse().unwrap_or(0);
    let page = Page::read(&query("continue"))?;
    let wanted = version(&query("resourceVersion"))?;
    let current = world.stale.get(id).copied().unwrap_or_else(|| world.store.version());
    if wanted > world.store.version() {
        return Err(status::too_large(wanted, world.store.version()));
    }
    let exact = query("resourceVersionMatch") == "Exact" && wanted > 0;
    let at = page.as_ref().map_or(if exact { wanted } else { current }, |page| page.version);
    let objects = world.store.list_at(id, &target.namespace, at).ok_or_else(|| expired(page.is_some(), at))?;
    let start = |key: &Key| page.as_ref().is_none_or(|page| place(target, key) > page.start);
    let all = objects.into_iter().filter(|(key, object)| start(key) && selector.selects(object));
    let all: Vec<_> = all.collect();
    let (shown, rest) = all.split_at(if limit == 0 { all.len() } else { limit.min(all.len()) });
    let mut metadata = json!({"resourceVersion": at.to_string()});
    if resource.schema.is_some() && !partial {
        metadata["continue"] = json!("");
    }
    if let (Some((last, _)), false) = (shown.last(), rest.is_empty()) {
        metadata["continue"] = json!(Page { version: at, start: place(target, last) }.text());
        if selector.is_empty() {
            metadata["remainingItemCount"] = json!(rest.len());
        }
    }
    let item = |object: &Value| match (partial, &resource.schema) {
        (true, _) => metadata_of(object),
        (false, Some(_)) => object.clone(),
        (false, None) => {
            let fields = object.as_object().into_iter().flatten();
            let fields = fields.filter(|(name, _)| *name != "kind" && *name != "apiVersion");
            fields.map(|(name, value)| (name.clone(), value.clone())).collect()
        }
    };
    let items: Vec<Value> = shown.iter().map(|(_, object)| item(object)).collect();
    let (kind, api_version) = if partial {
        ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned())
    } else {
        (resource.list_kind.clone(), resource.api_version())
    };
    Ok((200, json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items})))
}

fn expired(continued: bool, at: u64) -> status::Refusal {
    if continued {
        status::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the \
             continue parameter.",
        )
    } else {
        status::expired(&format!("The provided resource version is too old: {at}"))
    }
}

/// Where a page begins: after this place, as everything was at this version.
struct Page {
    version: u64,
    start: String,
}

/// Where an object is within what is listed: `/batuu/tiefighter`.
fn place(target: &Target, key: &Key) -> String {
    if key.namespace.is_empty() || !target.namespace.is_empty() {
        format!("/{}", key.name)
    } else {
        format!("/{}/{}", key.namespace, key.name)
    }
}

impl Page {
    fn text(&self) -> String {
        let start = json!(format!("{}\0", self.start));
        URL_SAFE_NO_PAD.encode(format!(r#"{{"v":"meta.k8s.io/v1","rv":{},"start":{start}}}"#, self.version))
    }

    fn read(text: &str) -> Outcome<Option<Self>> {
        if text.is_empty() {
            return Ok(None);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let token: Option<Value> = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let page = token.and_then(|token| {
            let start = token["start"].as_str()?.trim_end_matches('\0').to_owned();
            Some(Self { version: token["rv"].as_u64()?, start })
        });
        page.map(Some).ok_or_else(|| status::bad_request("continue key is not valid"))
    }
}
