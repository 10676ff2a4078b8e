//! Pages of metrics as they were read one after the other, and sums over them that are made without Prometheus.

use std::collections::BTreeMap;

/// The seconds between two pages, as Prometheus gets them. Four of them are a little less than two minutes, so that a range of two minutes
/// takes in five pages whether its left end belongs to it (Prometheus 2) or not (3).
const STEP: f64 = 29.975;

/// Pages in a range of two minutes.
const WINDOW: usize = 5;

/// The labels of a series.
type Labels = BTreeMap<String, String>;

/// What every process served, page by page. Each process has as many.
#[derive(Debug, Default)]
pub(super) struct Pages {
    /// By process: the node of an agent, or `controller`.
    pub(super) processes: BTreeMap<String, Vec<String>>,
}

/// What is made of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    /// Its last value.
    Last,
    /// What it gained in a second, over two minutes.
    Rate,
    /// What it gained in two minutes.
    Increase,
}

/// How the series of one label are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joined {
    Sum,
    Max,
}

impl Pages {
    /// The page with a time behind every sample, as the format allows it.
    pub(super) fn at_times(&self, process: &str, last: f64) -> Vec<String> {
        let pages = &self.processes[process];
        let dated = |index: usize, page: &String| {
            let back = u32::try_from(pages.len() - 1 - index).map_or(0.0, f64::from) * STEP;
            let at = last - back;
            let line =
                |line: &str| if line.starts_with('#') { format!("{line}\n") } else { format!("{line} {at:.3}\n") };
            page.lines().map(line).collect()
        };
        pages.iter().enumerate().map(|(index, page)| dated(index, page)).collect()
    }

    /// The values of a name, joined by a label (`""` for all of them), where the series has these labels. `node` is the process.
    pub(super) fn by(
        &self,
        name: &str,
        with: &[(&str, &str)],
        label: &str,
        of: Of,
        joined: Joined,
    ) -> Vec<(String, f64)> {
        let mut found: BTreeMap<String, f64> = BTreeMap::new();
        for (labels, value) in self.series(name, of) {
            if with.iter().all(|(key, value)| labels.get(*key).is_some_and(|has| has == value)) {
                let group = labels.get(label).cloned().unwrap_or_default();
                let sum = found.get(&group).copied();
                let join = |sum: f64| if joined == Joined::Sum { sum + value } else { sum.max(value) };
                found.insert(group, sum.map_or(value, join));
            }
        }
        found.into_iter().collect()
    }

    /// Each series of a name with its value.
    fn series(&self, name: &str, of: Of) -> Vec<(Labels, f64)> {
        let mut found = Vec::new();
        for (process, pages) in &self.processes {
            let values: Vec<BTreeMap<Labels, f64>> = pages.iter().map(|page| samples(page, name)).collect();
            // Samples with times of their own have no end: Prometheus shows the last one for five minutes.
            let known: BTreeMap<&Labels, f64> =
                values.iter().flat_map(|page| page.iter().map(|(labels, value)| (labels, *value))).collect();
            let window = &values[values.len() - WINDOW..];
            for (labels, last) in known {
                let first = window[0].get(labels).copied().unwrap_or_default();
                // One sample gains nothing.
                let gains = window.iter().filter(|page| page.contains_key(labels)).count() > 1;
                let value = match of {
                    Of::Last => last,
                    Of::Rate | Of::Increase if !gains => continue,
                    Of::Rate => (last - first) / 120.0,
                    Of::Increase => last - first,
                };
                let mut labels = labels.clone();
                if process != "controller" {
                    labels.insert("node".to_owned(), process.clone());
                }
                found.push((labels, value));
            }
        }
        found
    }

    /// The value below which this share of observations lies, by linear interpolation within a bucket.
    pub(super) fn quantile(&self, share: f64, name: &str) -> f64 {
        let gained = self.by(&format!("{name}_bucket"), &[], "le", Of::Increase, Joined::Sum);
        let mut buckets: Vec<(f64, f64)> =
            gained.iter().map(|(le, count)| (le.parse().expect("a bound"), *count)).collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let rank = share * buckets.last().expect("a bucket").1;
        let at = buckets.iter().position(|(_, count)| *count >= rank).expect("the bucket of all");
        let (end, count) = buckets[at];
        let (start, before) = if at == 0 { (0.0, 0.0) } else { buckets[at - 1] };
        if end.is_infinite() { start } else { start + (end - start) * (rank - before) / (count - before) }
    }
}

/// The samples of a name on a page.
fn samples(page: &str, name: &str) -> BTreeMap<Labels, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let of_name = lines.filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, labels) = series.split_once('{').unwrap_or((series, "}"));
        let value = value.parse().expect("a number");
        (found == name).then(|| (read_labels(labels.trim_end_matches('}')), value))
    });
    of_name.collect()
}

/// `a="b",c="d"`. No label of the lab has a quote in it.
fn read_labels(text: &str) -> Labels {
    let pairs = text.split("\",").filter_map(|pair| pair.split_once("=\""));
    pairs.map(|(key, value)| (key.to_owned(), value.trim_end_matches('"').to_owned())).collect()
}
