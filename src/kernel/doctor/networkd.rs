//! systemd-networkd's settings about rules and routes that it did not make (networkd.conf(5), section `[Network]`).
//!
//! Deliberately absent: the settings of single networks, which are about what networkd makes itself.

/// What it does to what it did not make, when it starts or a link changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Networkd {
    /// `ManageForeignRoutingPolicyRules=`: it deletes rules.
    pub(super) rules: bool,
    /// `ManageForeignRoutes=`: it deletes routes.
    pub(super) routes: bool,
}

/// Reads the files in the order in which they count: the main file, then drop-ins by name; the last word wins.
/// What no file sets is `yes`, which is networkd's default.
pub(super) fn read<'t>(files: impl IntoIterator<Item = &'t str>) -> Networkd {
    let mut networkd = Networkd { rules: true, routes: true };
    for text in files {
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                section = name;
            } else if section == "Network"
                && let Some((key, value)) = line.split_once('=')
            {
                let setting = match key.trim_end() {
                    "ManageForeignRoutingPolicyRules" => &mut networkd.rules,
                    "ManageForeignRoutes" => &mut networkd.routes,
                    _ => continue,
                };
                *setting = boolean(value.trim()).unwrap_or(*setting);
            }
        }
    }
    networkd
}

/// A boolean as systemd reads it (systemd.syntax(7)); what is none changes nothing.
fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "yes" | "y" | "true" | "t" | "on" => Some(true),
        "0" | "no" | "n" | "false" | "f" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_sets_is_managed() {
        assert_eq!(read([]), Networkd { rules: true, routes: true });
        assert_eq!(read(["[DHCP]\nManageForeignRoutes=no\n"]), Networkd { rules: true, routes: true });
    }

    #[test]
    fn the_last_word_counts_and_comments_and_nonsense_do_not() {
        let main =
            "[Network]\n#ManageForeignRoutes=yes\nManageForeignRoutingPolicyRules = no\nManageForeignRoutes=off\n";
        assert_eq!(read([main]), Networkd { rules: false, routes: false });
        let drop_in = "[Network]\nManageForeignRoutes=True\nManageForeignRoutingPolicyRules=perhaps\n";
        assert_eq!(read([main, drop_in]), Networkd { rules: false, routes: true });
    }
}
