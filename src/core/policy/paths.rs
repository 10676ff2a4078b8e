//! Entries of `paths` in egret.yaml: folders, files, and patterns with `*`, `?` and `**`, as in .gitignore.
//!
//! Not here: which files there are (`catalogue`).

/// Whether an entry selects a file: it is the file, a folder above it, or a pattern of one of them. The empty entry
/// selects every file.
pub fn selects(entry: &str, path: &str) -> bool {
    if entry.is_empty() {
        return true;
    }
    if !is_pattern(entry) {
        return path.strip_prefix(entry).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    }
    let parts: Vec<&str> = entry.split('/').collect();
    // The numbers of parts that names so far can have used up.
    let mut used = vec![false; parts.len() + 1];
    used[0] = true;
    pass_over(&parts, &mut used);
    for name in path.split('/') {
        let mut next = vec![false; parts.len() + 1];
        for (index, part) in parts.iter().enumerate().filter(|(index, _)| used[*index]) {
            match *part {
                "**" => next[index] = true,
                part => next[index + 1] |= matches(part, name),
            }
        }
        pass_over(&parts, &mut next);
        if next[parts.len()] {
            return true;
        }
        used = next;
    }
    false
}

/// Whether an entry is a pattern.
pub fn is_pattern(entry: &str) -> bool {
    entry.contains(['*', '?'])
}

/// `**` may stand for no folder at all.
fn pass_over(parts: &[&str], used: &mut [bool]) {
    for (index, part) in parts.iter().enumerate() {
        used[index + 1] |= used[index] && *part == "**";
    }
}

/// Whether `*` (any characters) and `?` (any one) of a pattern can stand for a name.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut from) = (0, 0);
    // The last `*`, and what follows what it stands for: it takes one character more when the rest does not fit.
    let mut star: Option<(usize, usize)> = None;
    while from < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(letter) if *letter == '?' || *letter == name[from] => (at, from) = (at + 1, from + 1),
            _ => {
                let Some((place, taken)) = star else { return false };
                star = Some((place, taken + 1));
                (at, from) = (place + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|letter| *letter == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_selects_files_and_what_is_below_folders() {
        for (entry, path) in [
            ("", "a.yaml"),
            ("policies", "policies/a.yaml"),
            ("policies/a.yaml", "policies/a.yaml"),
            ("clusters/*/egress", "clusters/prod/egress/a/b.yaml"),
            ("**/egress", "a/b/egress/x.yaml"),
            ("**/egress", "egress/x.yaml"),
            ("**/*.egress.yaml", "a.egress.yaml"),
            ("a/**/z", "a/z/1.yaml"),
            ("a/**/z", "a/b/c/z/1.yaml"),
            ("p?", "p1/x.yaml"),
            ("*", "a.yaml"),
            ("**", "a/b.yaml"),
        ] {
            assert!(selects(entry, path), "{entry} {path}");
        }
        for (entry, path) in [
            ("policies", "policies2/a.yaml"),
            ("policies/a", "policies/a.yaml"),
            ("clusters/*/egress", "clusters/a/b/egress/x.yaml"),
            ("*.yaml", "a/b.json"),
            ("p?", "p/x.yaml"),
            ("a/**/z", "b/z/1.yaml"),
            ("**/egress", "egresses/x.yaml"),
        ] {
            assert!(!selects(entry, path), "{entry} {path}");
        }
    }

    /// The definition, by trying everything.
    fn by_definition(pattern: &[char], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, _) => name.is_empty(),
            (Some(('*', rest)), _) => (0..=name.len()).any(|taken| by_definition(rest, &name[taken..])),
            (Some((letter, rest)), Some((first, after))) => {
                (*letter == '?' || letter == first) && by_definition(rest, after)
            }
            (Some(_), None) => false,
        }
    }

    /// The definition for whole paths.
    fn selects_by_definition(entry: &[&str], path: &[&str]) -> bool {
        match entry.split_first() {
            None => true,
            Some((&"**", rest)) => (0..=path.len()).any(|taken| selects_by_definition(rest, &path[taken..])),
            Some((part, rest)) => path.split_first().is_some_and(|(name, after)| {
                let (part, name): (Vec<char>, Vec<char>) = (part.chars().collect(), name.chars().collect());
                by_definition(&part, &name) && selects_by_definition(rest, after)
            }),
        }
    }

    #[test]
    fn patterns_mean_what_their_definition_says() {
        bolero::check!().with_type::<(Vec<u8>, Vec<u8>)>().for_each(|(entry, path)| {
            let text = |bytes: &[u8], letters: &[u8]| -> String {
                bytes.iter().take(12).map(|byte| char::from(letters[usize::from(*byte) % letters.len()])).collect()
            };
            let tidy = |text: String| text.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
            let (entry, path) = (tidy(text(entry, b"ab*?/**")), tidy(text(path, b"ab/")));
            if entry.is_empty() || path.is_empty() {
                return;
            }
            let (parts, names): (Vec<&str>, Vec<&str>) = (entry.split('/').collect(), path.split('/').collect());
            assert_eq!(selects(&entry, &path), selects_by_definition(&parts, &names), "{entry} {path}");
        });
    }
}
