//! Parses crontab lines and time zones, for the schedule and the change windows of egret.yaml.
//!
//! Time zone names are looked up in the built-in database, not in the machine's.

use cron::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZoneDatabase;

use crate::core::policy::diagnostic_sink::{DiagnosticSink, nearest, quoted};
use crate::core::policy::mapping_reader::text;
use crate::core::policy::yaml::YamlNode;

/// A node as the five fields of a crontab line.
pub(super) fn crontab<'n>(node: &'n YamlNode, out: &mut DiagnosticSink<'_>) -> Option<&'n str> {
    let line = text(node, "`cron`", out)?;
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    if let Err(error) = parser.parse(line) {
        out.error(node.span, "bad-cron", format!("{} is no crontab line: {error}", quoted(line)))
            .hint("minute, hour, day of the month, month, day of the week: `0 * * * *` is every hour");
        return None;
    }
    Some(line)
}

/// A node as the name of a time zone.
pub(super) fn time_zone<'n>(node: &'n YamlNode, out: &mut DiagnosticSink<'_>) -> Option<&'n str> {
    let name = text(node, "`timeZone`", out)?;
    let zones = TimeZoneDatabase::bundled();
    if zones.get(name).is_ok() {
        return Some(name);
    }
    let known: Vec<String> = zones.available().map(|name| name.as_str().to_owned()).collect();
    let hint = match nearest(name, known.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "a name of the IANA database, as in Europe/Berlin".to_owned(),
    };
    out.error(node.span, "bad-time-zone", format!("{} is no time zone", quoted(name))).hint(hint);
    None
}
