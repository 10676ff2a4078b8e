//! Reads systemd-networkd's settings about foreign rules and routes (networkd.conf(5), section `[Network]`).
//!
//! Not here: `.network` files, which concern what networkd itself configures.

/// Whether networkd deletes foreign objects when it starts or a link changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Networkd {
    /// `ManageForeignRoutingPolicyRules=`: deletes rules.
    pub(super) rules: bool,
    /// `ManageForeignRoutes=`: deletes routes.
    pub(super) routes: bool,
}

/// Reads the files in order of precedence: the main file, then drop-ins by name; the last assignment wins. The default is
/// `yes`, as networkd's.
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

/// A boolean in systemd's syntax (systemd.syntax(7)); an invalid value changes nothing.
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
    fn unset_options_default_to_yes() {
        assert_eq!(read([]), Networkd { rules: true, routes: true });
        assert_eq!(read(["[DHCP]\nManageForeignRoutes=no\n"]), Networkd { rules: true, routes: true });
    }

    #[test]
    fn the_last_assignment_wins_and_comments_and_invalid_values_are_ignored() {
        let main =
            "[Network]\n#ManageForeignRoutes=yes\nManageForeignRoutingPolicyRules = no\nManageForeignRoutes=off\n";
        assert_eq!(read([main]), Networkd { rules: false, routes: false });
        let drop_in = "[Network]\nManageForeignRoutes=True\nManageForeignRoutingPolicyRules=perhaps\n";
        assert_eq!(read([main, drop_in]), Networkd { rules: false, routes: true });
    }
}
