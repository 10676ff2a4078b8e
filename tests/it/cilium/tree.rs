//! Documents as trees: their text, and what `kubectl` sends to the API server for it (`sigs.k8s.io/yaml`).

use std::fmt::Write;

use serde_json::{Map, Number, Value};

use crate::apiserver::schema::fits;

/// A scalar, as a value or as a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scalar {
    /// Without quotes.
    Plain(String),
    /// In double quotes.
    Quoted(String),
}

/// A node of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tree {
    Scalar(Scalar),
    List(Vec<Tree>),
    Map(Vec<(Scalar, Tree)>),
}

/// Text without quotes.
pub(crate) fn plain(text: &str) -> Tree {
    Tree::Scalar(Scalar::Plain(text.to_owned()))
}

/// Text in quotes.
pub(crate) fn quoted(text: &str) -> Tree {
    Tree::Scalar(Scalar::Quoted(text.to_owned()))
}

/// A step into a tree: the entry of a mapping or of a list.
pub(crate) type Step = usize;

impl Tree {
    /// Reads JSON: text is in quotes.
    pub(crate) fn of(value: &Value) -> Self {
        match value {
            Value::Null => plain("null"),
            Value::Bool(_) | Value::Number(_) => plain(&value.to_string()),
            Value::String(text) => quoted(text),
            Value::Array(items) => Self::List(items.iter().map(Self::of).collect()),
            Value::Object(map) => {
                Self::Map(map.iter().map(|(key, value)| (Scalar::Plain(key.clone()), Self::of(value))).collect())
            }
        }
    }

    /// The paths of all nodes, the root's first.
    pub(crate) fn paths(&self) -> Vec<Vec<Step>> {
        let below: Vec<&Tree> = match self {
            Self::Scalar(_) => Vec::new(),
            Self::List(items) => items.iter().collect(),
            Self::Map(entries) => entries.iter().map(|(_, value)| value).collect(),
        };
        let mut paths = vec![Vec::new()];
        for (step, child) in below.into_iter().enumerate() {
            paths.extend(child.paths().into_iter().map(|path| [vec![step], path].concat()));
        }
        paths
    }

    /// The node at a path.
    pub(crate) fn at(&mut self, path: &[Step]) -> &mut Tree {
        let Some((step, rest)) = path.split_first() else { return self };
        match self {
            Self::List(items) => items[*step].at(rest),
            Self::Map(entries) => entries[*step].1.at(rest),
            Self::Scalar(_) => panic!("a scalar has no parts"),
        }
    }

    /// The keys on the way to a node; entries of lists have none.
    pub(crate) fn keys(&self, path: &[Step]) -> Vec<String> {
        let mut keys = Vec::new();
        let mut node = self;
        for step in path {
            node = match node {
                Self::List(items) => &items[*step],
                Self::Map(entries) => {
                    keys.push(entries[*step].0.text().to_owned());
                    &entries[*step].1
                }
                Self::Scalar(_) => panic!("a scalar has no parts"),
            };
        }
        keys
    }

    /// Its text in YAML's block style.
    pub(crate) fn yaml(&self) -> String {
        let mut text = String::new();
        self.write(0, &mut text);
        text.trim_start_matches('\n').to_owned()
    }

    /// Writes what stands behind `key:` or `-`.
    fn write(&self, indent: usize, out: &mut String) {
        let pad = " ".repeat(indent);
        match self {
            Self::Scalar(scalar) => writeln!(out, " {}", scalar.written()).expect("a text grows"),
            Self::List(items) if items.is_empty() => out.push_str(" []\n"),
            Self::Map(entries) if entries.is_empty() => out.push_str(" {}\n"),
            Self::List(items) => {
                out.push('\n');
                for item in items {
                    write!(out, "{pad}-").expect("a text grows");
                    item.write(indent + 2, out);
                }
            }
            Self::Map(entries) => {
                out.push('\n');
                for (key, value) in entries {
                    write!(out, "{pad}{}:", key.written()).expect("a text grows");
                    value.write(indent + 2, out);
                }
            }
        }
    }

    /// What is sent for it; the error says why nothing is. Of two equal keys the last one counts.
    pub(crate) fn json(&self) -> Result<Value, String> {
        Ok(match self {
            Self::Scalar(Scalar::Quoted(text)) => Value::String(text.clone()),
            Self::Scalar(Scalar::Plain(text)) => resolve(text)?,
            Self::List(items) => Value::Array(items.iter().map(Self::json).collect::<Result<_, _>>()?),
            Self::Map(entries) => {
                let mut map = Map::new();
                for (key, value) in entries {
                    map.insert(key.key()?, value.json()?);
                }
                Value::Object(map)
            }
        })
    }
}

impl Scalar {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Plain(text) | Self::Quoted(text) => text,
        }
    }

    fn written(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            // YAML reads JSON's text, too.
            Self::Quoted(text) => Value::from(text.as_str()).to_string(),
        }
    }

    /// A key is made text.
    fn key(&self) -> Result<String, String> {
        let Self::Plain(text) = self else { return Ok(self.text().to_owned()) };
        match resolve(text)? {
            Value::String(text) => Ok(text),
            Value::Null => Err("a key is null".to_owned()),
            other => Ok(other.to_string()),
        }
    }
}

/// The value of a plain scalar by the rules of go-yaml 2. Their regular expressions are YAML 1.1's, with Go's prefixes.
fn resolve(text: &str) -> Result<Value, String> {
    let is_one_of = |words: &str| words.split(' ').any(|word| word == text);
    if text.is_empty() || is_one_of("~ null Null NULL") {
        return Ok(Value::Null);
    }
    if is_one_of("y Y yes Yes YES true True TRUE on On ON") {
        return Ok(Value::Bool(true));
    }
    if is_one_of("n N no No NO false False FALSE off Off OFF") {
        return Ok(Value::Bool(false));
    }
    if is_one_of(".nan .NaN .NAN .inf .Inf .INF +.inf +.Inf +.INF -.inf -.Inf -.INF") {
        return Err(format!("JSON has no {text}"));
    }
    if !text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) {
        return Ok(Value::String(text.to_owned()));
    }
    if let Some(number) = whole(text) {
        return Ok(number);
    }
    let bare = if text.starts_with('.') { text.to_owned() } else { text.replace('_', "") };
    let float = r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$";
    let number = bare.parse::<f64>().ok().and_then(Number::from_f64);
    Ok(match number.filter(|_| fits(float, &bare)) {
        Some(number) => Value::Number(number),
        None => Value::String(text.to_owned()),
    })
}

/// Whole numbers, with their prefixes.
fn whole(text: &str) -> Option<Value> {
    let forms = [
        ("^[-+]?0[xX][0-9a-fA-F]+$", 16),
        ("^[-+]?0[bB][01]+$", 2),
        ("^[-+]?0[oO]?[0-7]+$", 8),
        ("^[-+]?(0|[1-9][0-9]*)$", 10),
    ];
    text.starts_with(|first: char| first.is_ascii_digit() || "+-".contains(first)).then_some(())?;
    let bare = text.replace('_', "");
    let (_, radix) = forms.into_iter().find(|(form, _)| fits(form, &bare))?;
    let (sign, digits) = bare.split_at(usize::from(bare.starts_with(['+', '-'])));
    let digits = match radix {
        16 | 2 => &digits[2..],
        8 => digits[1..].trim_start_matches(['o', 'O']),
        _ => digits,
    };
    match sign {
        "" => u64::from_str_radix(digits, radix).ok().map(Value::from),
        sign => i64::from_str_radix(&format!("{sign}{digits}"), radix).ok().map(Value::from),
    }
}
