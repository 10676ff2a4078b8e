//! Validated names: strings that only `parse` can construct.

use std::fmt;

/// Why a string is not a valid name. States the rule, not the value, which the caller shows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub &'static str);

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks the rule of this kind of name.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text).map(|()| Self(text.to_owned()))
            }

            /// The name as it was written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// A node's name: an RFC 1123 subdomain, at most 253 characters (Kubernetes, `apimachinery/pkg/util/validation`).
    NodeName,
    subdomain
);
name!(
    /// The name of an object in Kubernetes: an RFC 1123 subdomain, at most 253 characters.
    ObjectName,
    subdomain
);
name!(
    /// A network interface: 1 to 15 bytes without `/`, `:` and white space (`dev_valid_name` in the kernel's net/core/dev.c).
    /// Lists and patterns are refused as well: the kernel would take such a name, but none is in use.
    Interface,
    interface
);

fn subdomain(text: &str) -> Result<(), NameError> {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= 253 && text.split('.').all(label) {
        Ok(())
    } else {
        Err(NameError(
            "a name has lower case letters, digits, `-` and `.`, starts and ends with a letter or digit, 253 at most",
        ))
    }
}

fn interface(text: &str) -> Result<(), NameError> {
    let valid = (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.bytes().any(|b| b"/:,;*?%$\"'".contains(&b) || b.is_ascii_whitespace() || b == 0);
    if valid {
        Ok(())
    } else {
        Err(NameError("one interface's name: 1 to 15 bytes, none of them white space or one of /:,;*?%$ or a quote"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_kubernetes_and_kernel_rules() {
        for good in ["kind-worker2", "a", "node-1.eu-central-1.compute.internal"] {
            assert_eq!(NodeName::parse(good).expect(good).as_str(), good);
        }
        for bad in ["", "Kind", "-a", "a-", "a..b", "a_b", &"a".repeat(254)] {
            assert!(NodeName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Interface::parse("enp0s31f6.100").is_ok());
        for bad in [
            "",
            "sixteen-bytes-xx",
            "a b",
            "a/b",
            "..",
            "a:b",
            "eth0,eth1",
            "*",
            "eth*",
            "eth?",
            "eth%d",
            "${IFACE}",
            "\"eth0\"",
            "eth0;",
        ] {
            assert!(Interface::parse(bad).is_err(), "{bad:?}");
        }
    }
}
