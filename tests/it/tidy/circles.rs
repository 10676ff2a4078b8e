//! The module graph of `src`, read from its text: who names whom, and where that goes round in a circle.
//!
//! Not here: macros that build paths, of which there are none, and what is compiled for tests only.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A module's place: the segments of its path, without `crate`.
type Place = Vec<String>;

/// A word or sign of a source text, and its line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    text: String,
    line: usize,
}

/// Where a module names another: the line, and the path as it stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mention {
    file: String,
    line: usize,
    path: String,
}

/// What a module's text gives away.
#[derive(Debug, Default)]
struct Module {
    file: String,
    /// Names that `use` brings in, with the path that each stands for.
    imports: BTreeMap<String, Vec<String>>,
    /// Paths whose every name is brought in.
    globs: Vec<Vec<String>>,
    /// Items that are defined here.
    defined: BTreeSet<String>,
    /// Every path in the text, with its line.
    paths: Vec<(Vec<String>, usize)>,
}

impl Module {
    /// One name of a `use`; `use a::{self}` is `use a`.
    fn bring_in(&mut self, path: &[String], alias: Option<String>, line: usize) {
        let path = path.strip_suffix(&["self".to_owned()]).filter(|path| !path.is_empty()).unwrap_or(path);
        let Some(name) = alias.or_else(|| path.last().cloned()) else { return };
        self.paths.push((path.to_vec(), line));
        self.imports.insert(name, path.to_vec());
    }
}

/// A circle among the children of one module.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Circle {
    /// The module whose children these are, as a folder of `src`.
    pub(super) folder: String,
    /// Every child that is on some circle with the others.
    pub(super) members: Vec<String>,
    /// One shortest circle, each step with the place where one names the next.
    pub(super) shown: String,
}

/// The circles among siblings in these files (by path below `src`): each file and folder is compared with those beside it, a folder as a
/// whole.
pub(super) fn circles(files: &BTreeMap<String, String>) -> Vec<Circle> {
    let modules = modules(files);
    let mut edges: BTreeMap<Place, BTreeMap<(String, String), Mention>> = BTreeMap::new();
    for (place, module) in &modules {
        for (path, line) in &module.paths {
            let Some(target) = absolute(place, path, &modules).and_then(|path| resolve(&path, &modules, 0)) else {
                continue;
            };
            let common = place.iter().zip(&target).take_while(|(one, other)| one == other).count();
            // One of them is above the other: a parent and its child, or a module and itself.
            let (Some(from), Some(to)) = (place.get(common), target.get(common)) else { continue };
            let mention = Mention { file: module.file.clone(), line: *line, path: path.join("::") };
            let level = edges.entry(place[..common].to_vec()).or_default();
            level.entry((from.clone(), to.clone())).or_insert(mention);
        }
    }
    edges.iter().flat_map(|(folder, edges)| circles_among(folder, edges)).collect()
}

fn circles_among(folder: &Place, edges: &BTreeMap<(String, String), Mention>) -> Vec<Circle> {
    let nodes: BTreeSet<&String> = edges.keys().map(|(from, _)| from).collect();
    let mut seen: BTreeSet<&String> = BTreeSet::new();
    let mut found = Vec::new();
    for node in nodes {
        if seen.contains(node) {
            continue;
        }
        let Some(circle) = shortest(node, edges) else { continue };
        let reached = reachable(node, edges);
        let members: BTreeSet<&String> =
            reached.into_iter().filter(|other| *other == node || reachable(other, edges).contains(node)).collect();
        let steps = circle.windows(2).map(|pair| {
            let mention = &edges[&(pair[0].clone(), pair[1].clone())];
            format!("\n    {} → {} (src/{}:{} names {})", pair[0], pair[1], mention.file, mention.line, mention.path)
        });
        found.push(Circle {
            folder: format!("src/{}", folder.join("/")),
            members: members.iter().map(|member| (*member).clone()).collect(),
            shown: steps.collect(),
        });
        seen.extend(members);
    }
    found
}

fn next<'a>(
    node: &'a String,
    edges: &'a BTreeMap<(String, String), Mention>,
) -> impl Iterator<Item = &'a String> + use<'a> {
    edges.keys().filter(move |(from, _)| from == node).map(|(_, to)| to)
}

fn reachable<'a>(node: &'a String, edges: &'a BTreeMap<(String, String), Mention>) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&String> = next(node, edges).collect();
    while let Some(one) = open.pop() {
        if reached.insert(one) {
            open.extend(next(one, edges));
        }
    }
    reached
}

/// A shortest way from a node back to itself, both ends included.
fn shortest(node: &String, edges: &BTreeMap<(String, String), Mention>) -> Option<Vec<String>> {
    let mut before: BTreeMap<&String, &String> = BTreeMap::new();
    let mut open = VecDeque::from([node]);
    while let Some(one) = open.pop_front() {
        for other in next(one, edges) {
            if other == node {
                let mut way = vec![node.clone(), one.clone()];
                let mut at = one;
                while at != node {
                    at = before[at];
                    way.push(at.clone());
                }
                way.reverse();
                return Some(way);
            }
            if !before.contains_key(other) {
                before.insert(other, one);
                open.push_back(other);
            }
        }
    }
    None
}

fn modules(files: &BTreeMap<String, String>) -> BTreeMap<Place, Module> {
    let mut modules = BTreeMap::new();
    let mut for_tests: BTreeSet<Place> = BTreeSet::new();
    for (file, text) in files.iter().filter(|(file, _)| *file != "main.rs") {
        let place = place(file);
        let (tokens, test_modules) = without_tests(&tokens(text));
        for_tests.extend(test_modules.into_iter().map(|name| [place.clone(), vec![name]].concat()));
        modules.insert(place, read(file, &tokens));
    }
    modules.retain(|place, _| !for_tests.iter().any(|test| place.starts_with(test)));
    modules
}

fn place(file: &str) -> Place {
    let path = file.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" { Place::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// The path from the crate's root, where it is one of this crate.
fn absolute(place: &Place, path: &[String], modules: &BTreeMap<Place, Module>) -> Option<Vec<String>> {
    let first = path.first()?.as_str();
    match first {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([place.as_slice(), &path[1..]].concat()),
        "super" => {
            let up = path.iter().take_while(|segment| *segment == "super").count();
            Some([place.get(..place.len().checked_sub(up)?)?, &path[up..]].concat())
        }
        _ => {
            let child = [place.as_slice(), &path[..1]].concat();
            if modules.contains_key(&child) {
                return Some([place.as_slice(), path].concat());
            }
            let import = modules[place].imports.get(first)?;
            if import.first().is_some_and(|segment| segment == first) {
                return None;
            }
            Some([&absolute(place, import, modules)?, &path[1..]].concat())
        }
    }
}

/// The module in which the item of this path is defined, through whatever `use` hands it on.
fn resolve(path: &[String], modules: &BTreeMap<Place, Module>, depth: usize) -> Option<Place> {
    let known = (0..=path.len()).rev().find(|length| modules.contains_key(&path[..*length]))?;
    let place = path[..known].to_vec();
    let Some(name) = path.get(known) else { return Some(place) };
    let module = &modules[&place];
    if depth > 8 || module.defined.contains(name) {
        return Some(place);
    }
    if let Some(import) = module.imports.get(name) {
        let onward = absolute(&place, import, modules);
        return onward.and_then(|path| resolve(&path, modules, depth + 1)).or(Some(place));
    }
    let through = module.globs.iter().find_map(|glob| {
        let onward = [absolute(&place, glob, modules)?, vec![name.clone()]].concat();
        let found = resolve(&onward, modules, depth + 1)?;
        modules[&found].defined.contains(name).then_some(found)
    });
    Some(through.unwrap_or(place))
}

/// Words, `::` and single signs; without comments, texts and lifetimes.
fn tokens(text: &str) -> Vec<Token> {
    let letters: Vec<char> = text.chars().collect();
    let (mut at, mut line, mut tokens) = (0, 1, Vec::new());
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    while let Some(&letter) = letters.get(at) {
        let begun = at;
        let following = letters.get(at + 1).copied().unwrap_or(' ');
        if letter == '/' && following == '/' {
            at = (at..letters.len()).find(|at| letters[*at] == '\n').unwrap_or(letters.len());
        } else if letter == '/' && following == '*' {
            let end = |at: &usize| letters[*at] == '*' && letters.get(at + 1) == Some(&'/');
            at = (at..letters.len()).find(end).map_or(letters.len(), |end| end + 2);
        } else if is_raw_string(&letters[at..]) {
            let hashes = letters[at..].iter().skip_while(|letter| **letter != '#' && **letter != '"');
            let hashes = hashes.take_while(|letter| **letter == '#').count();
            let open = (at..letters.len()).find(|at| letters[*at] == '"').unwrap_or(at);
            let end = |at: &usize| letters[*at] == '"' && (1..=hashes).all(|step| letters.get(at + step) == Some(&'#'));
            at = (open + 1..letters.len()).find(end).map_or(letters.len(), |end| end + 1 + hashes);
        } else if letter == '"' {
            at += 1;
            while at < letters.len() && letters[at] != '"' {
                at += if letters[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if letter == '\'' {
            // A letter between two quotes, or else a lifetime.
            at = match (following, letters.get(at + 2)) {
                ('\\', _) => (at + 3..letters.len()).find(|at| letters[*at] == '\'').map_or(letters.len(), |at| at + 1),
                (_, Some('\'')) => at + 3,
                _ => (at + 1..letters.len()).find(|at| !is_word(letters[*at])).unwrap_or(letters.len()),
            };
        } else if is_word(letter) {
            at = (at..letters.len()).find(|at| !is_word(letters[*at])).unwrap_or(letters.len());
            tokens.push(Token { text: letters[begun..at].iter().collect(), line });
        } else {
            at += if letter == ':' && following == ':' { 2 } else { 1 };
            if !letter.is_whitespace() {
                tokens.push(Token { text: letters[begun..at].iter().collect(), line });
            }
        }
        at = at.min(letters.len());
        line += letters[begun..at].iter().filter(|letter| **letter == '\n').count();
    }
    tokens
}

/// Whether a raw text begins here: `r"`, `r#"`, `br"`.
fn is_raw_string(letters: &[char]) -> bool {
    let rest = letters.strip_prefix(&['b']).unwrap_or(letters);
    let Some(rest) = rest.strip_prefix(&['r']) else { return false };
    rest.iter().find(|letter| **letter != '#') == Some(&'"')
}

/// Without the items that are compiled for tests only; and the names of the modules among them.
fn without_tests(tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    let is = |at: usize, words: &[&str]| {
        words.iter().enumerate().all(|(step, word)| tokens.get(at + step).is_some_and(|token| token.text == *word))
    };
    let (mut kept, mut test_modules, mut at) = (Vec::new(), Vec::new(), 0);
    while at < tokens.len() {
        if !is(at, &["#", "[", "cfg", "(", "test", ")", "]"]) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        let (begun, mut depth) = (at, 0_usize);
        at += 7;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token.text.as_str() {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            if depth == 0 && (token.text == ";" || token.text == "}") {
                break;
            }
        }
        let module = (begun..at).find(|at| tokens[*at].text == "mod").and_then(|at| tokens.get(at + 1));
        test_modules.extend(module.map(|token| token.text.clone()));
    }
    (kept, test_modules)
}

fn read(file: &str, tokens: &[Token]) -> Module {
    let mut module = Module { file: file.to_owned(), ..Module::default() };
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let is_word = |text: &str| text.starts_with(|letter: char| letter.is_alphabetic() || letter == '_');
    let mut at = 0;
    while at < tokens.len() {
        let line = tokens[at].line;
        match text(at) {
            "use" => at = read_use(tokens, at + 1, &mut Vec::new(), &mut module),
            "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" | "union" | "mod" => {
                module.defined.insert(text(at + 1).to_owned());
                at += 1;
            }
            "(" if text(at + 1) == "in" => at += 2,
            word if is_word(word) && text(at + 1) == "::" && (at == 0 || text(at - 1) != "::") => {
                let mut path = vec![word.to_owned()];
                while text(at + 1) == "::" && is_word(text(at + 2)) {
                    path.push(text(at + 2).to_owned());
                    at += 2;
                }
                module.paths.push((path, line));
                at += 1;
            }
            _ => at += 1,
        }
    }
    module
}

/// Reads one tree of a `use` from here on; where it ends.
fn read_use(tokens: &[Token], mut at: usize, before: &mut Vec<String>, module: &mut Module) -> usize {
    let length = before.len();
    let mut alias = None;
    let mut open = false;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token.text.as_str() {
            "::" => {}
            "as" => {
                alias = tokens.get(at).map(|token| token.text.clone());
                at += 1;
            }
            "*" => {
                module.paths.push((before.clone(), token.line));
                module.globs.push(before.clone());
                open = false;
            }
            "{" => {
                open = false;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = read_use(tokens, at, before, module);
                }
                at += 1;
            }
            "," | ";" | "}" => {
                if open {
                    module.bring_in(before, alias.take(), token.line);
                }
                before.truncate(length);
                return if token.text == "}" { at - 1 } else { at };
            }
            word => {
                before.push(word.to_owned());
                open = true;
            }
        }
    }
    before.truncate(length);
    at
}

/// The rule itself, on texts of its own.
#[test]
fn a_circle_is_found_through_reexports_and_inner_paths_and_a_parent_is_none() {
    let graph = |files: &[(&str, &str)]| {
        let files = files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
        circles(&files).into_iter().map(|circle| (circle.folder, circle.members.join(" "))).collect::<Vec<_>>()
    };
    let one = |folder: &str, members: &str| vec![(folder.to_owned(), members.to_owned())];
    let lib = ("lib.rs", "pub mod a; pub mod b; pub mod c;");
    // Straight, in a list, and by a path in the code.
    assert_eq!(
        graph(&[lib, ("a.rs", "use crate::b::B;"), ("b.rs", "use crate::{c, a::{A as X, D}};")]),
        one("src/", "a b")
    );
    assert_eq!(
        graph(&[lib, ("a.rs", "fn f() { super::b::g() }"), ("b.rs", "fn g() { crate::a::f() }")]),
        one("src/", "a b")
    );
    assert_eq!(graph(&[lib, ("a.rs", "use crate::b; fn f() { b::g() }"), ("b.rs", "// crate::a::f\nfn g() {}")]), []);
    // Through what a folder hands on, between the folder's own files and between folders.
    let handed = [
        lib,
        ("a/mod.rs", "mod x; mod y; pub use x::X; pub struct Own;"),
        ("a/x.rs", "use super::Own; use super::y::Y; pub struct X;"),
    ];
    let with = |more: (&'static str, &'static str)| graph(&[&handed[..], &[more]].concat());
    assert_eq!(with(("a/y.rs", "use super::X; pub struct Y;")), one("src/a", "x y"));
    assert_eq!(with(("a/y.rs", "use super::Own; pub struct Y;")), []);
    assert_eq!(with(("a/y.rs", "#[cfg(test)] mod tests { use super::super::X; } pub struct Y;")), []);
    assert_eq!(with(("a/y.rs", "const TEXT: &str = \"use super::X;\"; pub struct Y;")), []);
    let between =
        [&handed[..], &[("a/y.rs", "use crate::c::C;"), ("c.rs", "use crate::b::B;"), ("b.rs", "use crate::a::X;")]];
    assert_eq!(graph(&between.concat()), one("src/", "a b c"));
}
