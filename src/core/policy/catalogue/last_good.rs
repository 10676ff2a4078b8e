//! The texts of held documents, to be persisted across restarts. The caller stores them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::check::Checked;
use super::super::published;
use super::{Catalogue, DocumentIdentity, Standing, parse};

/// Texts with held documents. All other active documents are in the repository: a start reads this, then the files of the
/// commit last applied, then those of newer ones.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastGoodDocuments {
    /// Sorted by path and text.
    pub texts: Vec<LastGoodText>,
    /// The specs of published policies, by resource name. What was persisted may be lost, as with a controller's pod that is moved
    /// to another node; the cluster still has the last good version of each policy.
    #[serde(skip)]
    pub published: BTreeMap<String, Value>,
}

/// One version of one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LastGoodText {
    /// Its path in the repository.
    pub path: String,
    /// Its content.
    pub text: String,
    /// The held documents in it, as [`DocumentIdentity`] displays them. Other documents in it are not activated by it.
    pub documents: BTreeSet<String>,
}

impl Catalogue {
    /// The texts that have to be persisted so that held documents stay active after a restart.
    pub fn export_good(&self) -> LastGoodDocuments {
        let mut texts: BTreeMap<(&str, &str), BTreeSet<String>> = BTreeMap::new();
        for (identity, standing) in self.standing.iter().filter(|(_, standing)| standing.held.is_some()) {
            texts.entry((&standing.path, &standing.text)).or_default().insert(identity.to_string());
        }
        let texts = texts.into_iter().map(|((path, text), documents)| LastGoodText {
            path: path.to_owned(),
            text: text.to_owned(),
            documents,
        });
        LastGoodDocuments { texts: texts.collect(), published: BTreeMap::new() }
    }

    /// Restores persisted texts, before the first [`Catalogue::update`]. Documents that cannot be read any more (by a
    /// newer Egret with stricter rules) are left out.
    pub fn import_good(&mut self, good: &LastGoodDocuments) {
        let mut touched = BTreeSet::new();
        for LastGoodText { path, text, documents } in &good.texts {
            let text: Arc<str> = text.as_str().into();
            for (identity, document) in parse(path, &text).good {
                if documents.contains(&identity.to_string()) && !self.standing.contains_key(&identity) {
                    let held = Some("it was held before the restart".to_owned());
                    let standing = Standing { path: path.clone(), text: Arc::clone(&text), document, held };
                    self.standing.insert(identity.clone(), standing);
                    touched.insert(identity);
                }
            }
        }
        for (name, spec) in &good.published {
            let Ok((checked, text)) = published::read_checked(name, spec) else { continue };
            let identity = DocumentIdentity::Policy(checked.policy.id.clone());
            let path = checked.policy.origin.file.clone();
            if !self.standing.contains_key(&identity) {
                let held = Some("it was published before the restart".to_owned());
                let document = Arc::new(Checked::Policy(checked));
                let standing = Standing { path, text: text.into(), document, held };
                self.standing.insert(identity.clone(), standing);
                touched.insert(identity);
            }
        }
        if touched.contains(&DocumentIdentity::Config) {
            self.apply_config();
        }
        self.publish(&touched);
    }
}
