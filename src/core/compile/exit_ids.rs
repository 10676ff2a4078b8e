//! Assigns a small number to each exit on a node; its mark, table and rule priority follow from it.
//!
//! A number must not move to another exit while connections still bear it, so existing assignments are kept. They are
//! read back from the kernel, where each exit's chain has the exit's identity as its comment.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::placement::ExitKey;
use crate::core::state::nft::{Ruleset, TableFamily};
use crate::core::state::ownership::DatapathConfig;

/// Prefix of an exit chain's name; its id follows.
pub const EXIT_CHAIN: &str = "exit_";

/// Ids by exit identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExitIds(BTreeMap<String, u32>);

impl ExitIds {
    /// The ids in use in the kernel.
    pub fn observed(ruleset: &Ruleset, range: DatapathConfig) -> Self {
        let chains = ruleset.get(&TableFamily::Inet).map(|table| &table.chains);
        let known = chains.into_iter().flatten().filter_map(|(name, chain)| {
            let id: u32 = name.strip_prefix(EXIT_CHAIN)?.parse().ok()?;
            let identity = chain.comment.clone()?;
            (1..=range.last_id()).contains(&id).then_some((identity, id))
        });
        Self(known.collect())
    }

    /// Whether an exit has an id already.
    pub fn knows(&self, exit: &ExitKey) -> bool {
        self.0.contains_key(&exit.identity())
    }

    /// The id of an exit, if it has one.
    pub fn of(&self, exit: &ExitKey) -> Option<u32> {
        self.0.get(&exit.identity()).copied()
    }

    /// Ids for the wanted exits, the most important ones first: existing ones are kept; new exits get the smallest ids not in use until now, because the
    /// connections of a removed exit have not been flushed yet. Exits beyond the last id get none.
    pub fn assign(&self, wanted: &[&ExitKey], range: DatapathConfig) -> BTreeMap<ExitKey, u32> {
        let mut taken: BTreeSet<u32> = self.0.values().copied().collect();
        let mut assigned = BTreeMap::new();
        let mut fresh = Vec::new();
        for exit in wanted {
            match self.0.get(&exit.identity()) {
                Some(id) => {
                    assigned.insert((*exit).clone(), *id);
                }
                None => fresh.push(*exit),
            }
        }
        let mut candidate = 1;
        for exit in fresh {
            while taken.contains(&candidate) {
                candidate += 1;
            }
            if candidate > range.last_id() {
                break;
            }
            taken.insert(candidate);
            assigned.insert(exit.clone(), candidate);
        }
        assigned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::name::NodeName;
    use crate::core::policy::Egress;
    use crate::core::state::nft::{Chain, Table};

    fn exit(node: &str) -> ExitKey {
        ExitKey { gateway: NodeName::parse(node).unwrap(), egress: Egress::DefaultRoute, next_hops: Vec::new() }
    }

    #[test]
    fn an_exit_keeps_its_id_and_a_new_one_never_gets_one_in_use() {
        let chain = |identity: &str| Chain { comment: Some(identity.to_owned()), ..Chain::default() };
        let chains = BTreeMap::from([
            ("exit_1".to_owned(), chain("gone default")),
            ("exit_3".to_owned(), chain("b default")),
            ("exit_x".to_owned(), chain("c default")),
        ]);
        let ruleset = Ruleset::from([(TableFamily::Inet, Table { chains, ..Table::default() })]);
        let marks = ExitIds::observed(&ruleset, DatapathConfig::default());
        let assigned = marks.assign(&[&exit("a"), &exit("b"), &exit("c")], DatapathConfig::default());
        assert_eq!(assigned, BTreeMap::from([(exit("a"), 2), (exit("b"), 3), (exit("c"), 4)]));
    }

    #[test]
    fn exits_beyond_the_last_id_get_none() {
        let range = DatapathConfig { mask: 0x3, ..DatapathConfig::default() };
        let assigned = ExitIds::default().assign(&[&exit("a"), &exit("b"), &exit("c")], range);
        assert_eq!(assigned, BTreeMap::from([(exit("a"), 1), (exit("b"), 2)]));
    }
}
