//! The dashboard as an SVG, with what Prometheus answered: each panel where Grafana puts it.

use std::fmt::Write;

use serde_json::Value;

const COLUMN: f64 = 50.0;
const ROW: f64 = 34.0;
const GAP: f64 = 8.0;
const COLOURS: [&str; 6] = ["#3274d9", "#e0752d", "#56a64b", "#a352cc", "#e02f44", "#8f8f8f"];

/// A series with its name: times and values.
pub(super) type Line = (String, Vec<(f64, f64)>);

/// A panel of the dashboard, and the lines of all its expressions.
pub(super) struct Drawn<'d> {
    pub(super) panel: &'d Value,
    pub(super) lines: Vec<Line>,
}

/// The whole picture.
pub(super) fn draw(panels: &[Drawn<'_>]) -> String {
    let bottom = |drawn: &Drawn<'_>| (place(drawn.panel, "y") + place(drawn.panel, "h")) * ROW;
    let height = panels.iter().map(bottom).fold(0.0, f64::max) + GAP;
    let width = 24.0 * COLUMN + GAP;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#f4f5f5\"/>\n"
    );
    for drawn in panels {
        panel(&mut svg, drawn).expect("writing to a text");
    }
    svg + "</svg>\n"
}

fn place(panel: &Value, key: &str) -> f64 {
    panel["gridPos"][key].as_f64().expect("a number")
}

fn panel(svg: &mut String, drawn: &Drawn<'_>) -> std::fmt::Result {
    let (x, y) = (place(drawn.panel, "x") * COLUMN + GAP, place(drawn.panel, "y") * ROW + GAP);
    let (width, height) = (place(drawn.panel, "w") * COLUMN - GAP, place(drawn.panel, "h") * ROW - GAP);
    let title = escaped(drawn.panel["title"].as_str().unwrap_or_default());
    let unit = drawn.panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap_or_default();
    writeln!(svg, "<g transform=\"translate({x:.0} {y:.0})\">")?;
    writeln!(svg, "<rect width=\"{width:.0}\" height=\"{height:.0}\" rx=\"3\" fill=\"#fff\" stroke=\"#dcdcdc\"/>")?;
    writeln!(svg, "<text x=\"8\" y=\"17\" font-weight=\"bold\">{title}</text>")?;
    match drawn.panel["type"].as_str() {
        Some("stat") => {
            let value = drawn.lines.first().and_then(|(_, points)| points.last()).map_or(f64::NAN, |(_, value)| *value);
            let (middle, base) = (width / 2.0, height / 2.0 + 24.0);
            let shown = number(value, unit);
            writeln!(
                svg,
                "<text x=\"{middle:.0}\" y=\"{base:.0}\" font-size=\"34\" text-anchor=\"middle\">{shown}</text>"
            )?;
        }
        Some("table") => {
            for (row, (name, points)) in drawn.lines.iter().enumerate() {
                let at = 40.0 + f64::from(u32::try_from(row).unwrap_or_default()) * 17.0;
                let value = points.last().map_or(f64::NAN, |(_, value)| *value);
                writeln!(svg, "<text x=\"8\" y=\"{at:.0}\">{}: {}</text>", escaped(name), number(value, unit))?;
            }
        }
        _ => graph(svg, &drawn.lines, unit, width, height)?,
    }
    writeln!(svg, "</g>")
}

fn graph(svg: &mut String, lines: &[Line], unit: &str, width: f64, height: f64) -> std::fmt::Result {
    let points = || lines.iter().flat_map(|(_, points)| points);
    let top = points().map(|(_, value)| *value).fold(0.0, f64::max);
    let top = if top > 0.0 { top } else { 1.0 };
    let (from, to) = points().fold((f64::MAX, f64::MIN), |(from, to), (at, _)| (from.min(*at), to.max(*at)));
    let (left, above, right, below) = (70.0, 30.0, width - 12.0, height - 34.0);
    for share in [0.0, 0.5, 1.0] {
        let at = below - (below - above) * share;
        writeln!(svg, "<path d=\"M{left:.0} {at:.1}H{right:.0}\" stroke=\"#e3e3e3\"/>")?;
        writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#666\">{}</text>",
            left - 5.0,
            at + 4.0,
            number(top * share, unit)
        )?;
    }
    let mut legend = 8.0;
    for (index, (name, points)) in lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let on = |(at, value): &(f64, f64)| {
            let share = if to > from { (at - from) / (to - from) } else { 1.0 };
            format!("{:.1},{:.1}", left + (right - left) * share, below - (below - above) * value / top)
        };
        let path: Vec<String> = points.iter().filter(|(_, value)| value.is_finite()).map(on).collect();
        writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>",
            path.join(" ")
        )?;
        // A series of one point is no line.
        if let Some((x, y)) = path.last().and_then(|last| last.split_once(',')) {
            writeln!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"2.5\" fill=\"{colour}\"/>")?;
        }
        let length = 10.0 + 6.2 * f64::from(u32::try_from(name.chars().count()).unwrap_or_default());
        if legend + length <= right {
            let (y, name) = (height - 10.0, escaped(name));
            writeln!(svg, "<text x=\"{legend:.0}\" y=\"{y:.0}\" font-size=\"10\" fill=\"{colour}\">{name}</text>")?;
        }
        legend += length;
    }
    Ok(())
}

/// A number with its unit, in few characters.
fn number(value: f64, unit: &str) -> String {
    if value.is_nan() {
        return "–".to_owned();
    }
    let (value, suffix) = match unit {
        "percentunit" => (value * 100.0, " %"),
        "s" if value < 1.0 => (value * 1000.0, " ms"),
        "s" => (value, " s"),
        "Bps" => (value, " B/s"),
        "pps" | "cps" | "ops" => (value, "/s"),
        _ => (value, ""),
    };
    let digits = if value.fract() == 0.0 || value >= 1000.0 { 0 } else { 2 };
    format!("{value:.digits$}{suffix}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
