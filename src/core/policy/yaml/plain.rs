//! What a scalar without quotes is, as the Kubernetes API reads it: `sigs.k8s.io/yaml`, which is go-yaml 2 with the
//! booleans and octal numbers of YAML 1.1.
//!
//! Not here: scalars in quotes, which are text.

/// The value of a scalar without quotes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Plain {
    Null,
    Boolean(bool),
    Integer(i128),
    /// A number that is not an integer; also `.inf` and `.nan`, which JSON cannot hold.
    Fraction,
    Text,
}

/// Reads a scalar without quotes.
pub(super) fn resolve(text: &str) -> Plain {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Plain::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Plain::Boolean(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Plain::Boolean(false),
        ".nan" | ".NaN" | ".NAN" => Plain::Fraction,
        _ => match text.strip_prefix(['+', '-']).unwrap_or(text) {
            ".inf" | ".Inf" | ".INF" => Plain::Fraction,
            _ => number(text),
        },
    }
}

/// Underscores stand anywhere in a number that begins with a sign or a digit.
fn number(text: &str) -> Plain {
    if !text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) {
        return Plain::Text;
    }
    let digits = if text.starts_with('.') { text.to_owned() } else { text.replace('_', "") };
    match integer(&digits) {
        Some(number) => Plain::Integer(number),
        None if is_decimal(&digits) && digits.parse::<f64>().is_ok_and(f64::is_finite) => Plain::Fraction,
        None => Plain::Text,
    }
}

/// An integer as Go's `strconv.ParseInt` and `ParseUint` read it with base 0: `017` is octal.
fn integer(text: &str) -> Option<i128> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let lower = unsigned.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some(start) if start.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if !digits.bytes().all(|digit| digit.is_ascii_alphanumeric()) {
        return None;
    }
    let size = i128::from_str_radix(digits, radix).ok()?;
    let number = if text.starts_with('-') { -size } else { size };
    // Only a number without a sign has the range of 64 bits without one.
    let most = if unsigned.len() == text.len() { i128::from(u64::MAX) } else { i128::from(i64::MAX) };
    (i128::from(i64::MIN)..=most).contains(&number).then_some(number)
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_decimal(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fits = if whole.is_empty() { digits(part) } else { digits(whole) && (part.is_empty() || digits(part)) };
    fits && exponent.is_none_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_are_those_of_go_yaml_2() {
        for (text, expected) in [
            ("y", Plain::Boolean(true)),
            ("Off", Plain::Boolean(false)),
            ("oN", Plain::Text),
            ("", Plain::Null),
            ("nil", Plain::Text),
            ("0", Plain::Integer(0)),
            ("-07", Plain::Integer(-7)),
            ("010", Plain::Integer(8)),
            ("0o17", Plain::Integer(15)),
            ("0X1f", Plain::Integer(31)),
            ("0b101", Plain::Integer(5)),
            ("1_000_", Plain::Integer(1000)),
            ("18446744073709551615", Plain::Integer(u64::MAX.into())),
            ("+18446744073709551615", Plain::Fraction),
            ("09", Plain::Fraction),
            ("1.", Plain::Fraction),
            ("1e3", Plain::Fraction),
            (".5", Plain::Fraction),
            ("-.5E-2", Plain::Fraction),
            (".inf", Plain::Fraction),
            ("-.Inf", Plain::Fraction),
            (".iNf", Plain::Text),
            ("+.nan", Plain::Text),
            (".5_0", Plain::Text),
            ("0o9", Plain::Text),
            ("0x", Plain::Text),
            ("1e", Plain::Text),
            ("1e400", Plain::Text),
            ("1:30", Plain::Text),
            ("2001-12-14", Plain::Text),
            ("_1", Plain::Text),
            ("-", Plain::Text),
            ("10.0.0.1", Plain::Text),
        ] {
            assert_eq!(resolve(text), expected, "{text}");
        }
    }
}
