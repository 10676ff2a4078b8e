//! The demo's screen: numbered titles, commands as one would type them, what they answered, and a tick for what was seen to hold.
//!
//! Lines are cut at 100 columns, and coloured on a terminal only (and not under <https://no-color.org>).
//! Deliberately absent: what is shown.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};

/// No line is longer, in characters.
const COLUMNS: usize = 100;

/// How far everything but titles is set in.
const INDENT: &str = "    ";

/// Escape sequences of ECMA-48 (Select Graphic Rendition).
#[derive(Debug, Clone, Copy)]
enum Style {
    Plain = 0,
    Bold = 1,
    Faint = 2,
    Red = 31,
    Green = 32,
    Cyan = 36,
}

/// Standard output.
pub(crate) struct Screen {
    coloured: bool,
    scenes: Cell<usize>,
}

impl Screen {
    /// Looks whether colours are wanted.
    pub(crate) fn new() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { coloured: !refused && io::stdout().is_terminal(), scenes: Cell::new(0) }
    }

    /// The title of the next scene.
    pub(crate) fn title(&self, text: &str) -> io::Result<()> {
        self.scenes.set(self.scenes.get() + 1);
        line("", "")?;
        line(&format!("{}  {text}", self.scenes.get()), &self.begin(Style::Bold))
    }

    /// What somebody types, and where.
    pub(crate) fn command(&self, place: &str, command: &str) -> io::Result<()> {
        line(&format!("{INDENT}{place}$ {command}"), &self.begin(Style::Cyan))
    }

    /// An explanation.
    pub(crate) fn print(&self, text: &str) -> io::Result<()> {
        line(&format!("{INDENT}{text}"), &self.begin(Style::Plain))
    }

    /// What was answered, line by line; of a long text the first lines and how many more there are.
    pub(crate) fn quote(&self, text: &str, most: usize) -> io::Result<()> {
        let lines: Vec<&str> = text.trim_end().lines().collect();
        let shown = if lines.len() > most { most.saturating_sub(1) } else { lines.len() };
        for said in &lines[..shown] {
            line(&format!("{INDENT}  {}", said.replace('\t', "  ")), &self.begin(Style::Faint))?;
        }
        if shown < lines.len() {
            line(&format!("{INDENT}  … and {} more lines", lines.len() - shown), &self.begin(Style::Faint))?;
        }
        Ok(())
    }

    /// Something that was to be seen and was.
    pub(crate) fn seen(&self, text: &str) -> io::Result<()> {
        line(&format!("{INDENT}✓ {text}"), &self.begin(Style::Green))
    }

    /// Something that was to be seen and was not.
    pub(crate) fn failed(&self, text: &str) -> io::Result<()> {
        line("", "")?;
        text.lines().try_for_each(|said| line(&format!("✗ {said}"), &self.begin(Style::Red)))
    }

    fn begin(&self, style: Style) -> String {
        if self.coloured { format!("\x1b[{}m", style as u8) } else { String::new() }
    }
}

fn line(text: &str, begin: &str) -> io::Result<()> {
    let text = shortened(text);
    let end = if begin.is_empty() { "" } else { "\x1b[0m" };
    let mut out = io::stdout().lock();
    writeln!(out, "{begin}{text}{end}")?;
    out.flush()
}

/// At most [`COLUMNS`] characters, the last of them an ellipsis where something was cut.
fn shortened(text: &str) -> String {
    if text.chars().count() <= COLUMNS {
        return text.to_owned();
    }
    text.chars().take(COLUMNS - 1).chain(['…']).collect()
}
