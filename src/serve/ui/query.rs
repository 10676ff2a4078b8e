//! What a request asks for: the values of a form, in the URL.

use axum::http::Uri;

use crate::core::escape::shown;
use crate::core::text::{form_value, url_part};

/// Longer values are cut: the server shows them again.
const LONGEST: usize = 300;
/// More values than any form has.
const MOST: usize = 16;

/// The values, in their order.
#[derive(Debug, Clone, Default)]
pub(super) struct Query {
    path: String,
    values: Vec<(String, String)>,
}

impl Query {
    /// Of a URL.
    pub(super) fn of(uri: &Uri) -> Self {
        let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        // Invisible characters are shown as numbers: a link may come from another person.
        let value = |text: &str| shown(&form_value(text)).chars().take(LONGEST).collect::<String>();
        let values = pairs.map(|(name, text)| (value(name), value(text))).take(MOST).collect();
        Self { path: uri.path().to_owned(), values }
    }

    /// A value without the space around it; empty if there is none.
    pub(super) fn get(&self, name: &str) -> &str {
        self.values.iter().find(|(one, _)| one == name).map_or("", |(_, value)| value.trim())
    }

    /// A number, at least 1.
    pub(super) fn number(&self, name: &str) -> usize {
        self.get(name).parse().unwrap_or(1).max(1)
    }

    /// The same page with another value; an empty one is left out.
    pub(super) fn with(&self, name: &str, value: &str) -> String {
        let others = self.values.iter().filter(|(one, other)| one != name && !other.is_empty());
        let own = [(name.to_owned(), value.to_owned())].into_iter().filter(|(_, value)| !value.is_empty());
        let all: Vec<String> = others
            .cloned()
            .chain(own)
            .map(|(name, value)| format!("{}={}", url_part(&name), url_part(&value)))
            .collect();
        if all.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, all.join("&")) }
    }
}
