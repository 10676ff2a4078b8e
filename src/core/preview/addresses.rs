//! What a change does to addresses of pools, for its reviewer.

use super::risks::{Risk, RiskLevel};
use crate::core::allocation::AddressChange;
use crate::core::escape::EscapedText;
use crate::core::text::counted;

/// The entry of the list of what to check.
pub(super) fn risk(change: &AddressChange) -> Risk {
    let begin = |policy| EscapedText::new().name(policy);
    let (level, code, title, text) = match change {
        AddressChange::Lacking { policy, pool, missing } => {
            let missing =
                missing.iter().map(|(family, count)| counted(*count, &format!("{} address", family.version())));
            let missing = missing.collect::<Vec<_>>().join(" and ");
            let text = begin(policy).words(format!(" goes without {missing}: the pool ")).name(pool);
            let text = text.words(" has no more to give. Add addresses to it, or ask for fewer");
            (RiskLevel::Danger, "pool-exhausted", "No address left", text)
        }
        AddressChange::Reused { policy, address, former, until } => {
            let until = until.map_or_else(|| "this change".to_owned(), |until| until.to_string());
            let text = begin(policy).words(" will have ").name(address).words(", which ").name(former);
            let text = text.words(format!(" has had until {until}. Firewalls may still let it in as that"));
            (RiskLevel::Warning, "pool-address-reused", "An address is used again", text)
        }
        AddressChange::Given { policy, pool, addresses } => {
            let text = begin(policy).words(" will have ").names(addresses).words(" of the pool ").name(pool);
            (RiskLevel::Note, "pool-address", "Address of a pool", text)
        }
        AddressChange::Freed { policy, pool, addresses } => {
            let text = begin(policy).words(" will not have ").names(addresses).words(" of the pool ").name(pool);
            let text = text.words(" any more. Firewalls need not let it in any longer");
            (RiskLevel::Note, "pool-address-freed", "Address of a pool", text)
        }
    };
    Risk { level, code, title, text }
}
