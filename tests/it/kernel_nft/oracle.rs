//! The nft program as a second opinion: what it lists and what our own text says, brought to one spelling.
//!
//! Deliberately absent: any knowledge of netlink. The two spell a few things differently and mean the same; each difference is a
//! line here.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Sets and chains by their headline: in a chain the lines in order, in a set its definition and elements.
pub(crate) type Blocks = BTreeMap<String, Vec<String>>;

/// Runs nft in the namespace of the calling thread; its output, or what it complains about.
pub(crate) fn nft(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("nft").args(arguments).output().expect("the nft program is needed for these tests");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A listing, of either, as blocks.
pub(crate) fn blocks(listing: &str) -> Blocks {
    let mut blocks = Blocks::new();
    let mut headline = String::new();
    let mut elements: BTreeSet<String> = BTreeSet::new();
    let mut in_elements = false;
    for line in listing.lines().map(str::trim) {
        if let Some(block) = line.strip_suffix(" {").filter(|block| !block.starts_with("table")) {
            block.clone_into(&mut headline);
            blocks.insert(headline.clone(), Vec::new());
        } else if let Some(element) = line.strip_prefix("element ") {
            elements.insert(normalised(element));
        } else if in_elements || line.starts_with("elements = {") {
            let list = line.trim_start_matches("elements = {");
            in_elements = !list.ends_with('}');
            let list = list.trim_end_matches('}').split(',').map(str::trim).filter(|element| !element.is_empty());
            elements.extend(list.map(normalised));
        } else if line == "}" {
            blocks.entry(headline.clone()).or_default().extend(std::mem::take(&mut elements));
        } else if let Some(lines) = blocks.get_mut(&headline).filter(|_| !line.is_empty()) {
            match line.split_once("; flags interval;") {
                Some((definition, "")) => lines.extend([normalised(definition), "flags interval".to_owned()]),
                _ => lines.push(normalised(line.strip_suffix(';').filter(|_| !line.contains("hook")).unwrap_or(line))),
            }
        }
    }
    blocks
}

/// One line in one spelling.
fn normalised(line: &str) -> String {
    let line = line.replace(" packets 0 bytes 0", "").replace(" == @", " @");
    let line = line.replace("ct state ! ", "ct state != ").replace(" | established", ",established");
    let names = [
        ("raw - 10;", "-310;"),
        ("mangle;", "-150;"),
        ("srcnat;", "100;"),
        ("srcnat + 1;", "101;"),
        ("srcnat - 1;", "99;"),
        ("filter;", "0;"),
    ];
    let line = names
        .iter()
        .fold(line, |line, (name, number)| line.replace(&format!("priority {name}"), &format!("priority {number}")));
    let words: Vec<String> = line.split_whitespace().map(hexadecimal).collect();
    or_is_in_the_mask(words).join(" ").replace(" & 0xffffffff |", " |")
}

/// `0x1fff` as `0x00001fff`.
fn hexadecimal(word: &str) -> String {
    match word.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
        Some(number) => format!("{number:#010x}"),
        None => word.to_owned(),
    }
}

/// `mark & 0xffffe003 | 0x00000003` is how nft prints `mark & 0xffffe000 | 0x00000003`.
fn or_is_in_the_mask(mut words: Vec<String>) -> Vec<String> {
    let number = |word: &String| word.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
    for position in 1..words.len().saturating_sub(1) {
        let around = (number(&words[position - 1]), words[position].as_str(), number(&words[position + 1]));
        if let (Some(mask), "|", Some(value)) = around {
            words[position - 1] = format!("{:#010x}", mask | value);
        }
    }
    words
}
