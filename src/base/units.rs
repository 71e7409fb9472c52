//! Sizes, rates and durations as people write and read them.

use std::time::Duration;

/// One binary kilo-, mega- and gigabyte.
pub const KIB: u64 = 1 << 10;
/// 1024 KiB.
pub const MIB: u64 = 1 << 20;
/// 1024 MiB.
pub const GIB: u64 = 1 << 30;

/// Writes a byte count with a binary unit and three significant digits, as in `1.41 GiB`.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < KIB {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 {
        2
    } else {
        usize::from(value < 99.95)
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Writes a duration for people: `0.12 s`, `42.0 s`, `3 min 20 s`, `2 h 05 min`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..=9 => format!("{:.2} s", duration.as_secs_f64()),
        10..=119 => format!("{:.1} s", duration.as_secs_f64()),
        120..=7199 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Reads a byte count: digits, then an optional `k m g t` (powers of 1024; `KiB` and `K` too).
///
/// # Errors
/// If the text is no such count or does not fit.
pub fn parse_bytes(text: &str) -> Result<u64, BadUnit> {
    let (number, unit) = split_number(text)?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => KIB,
        "m" | "mib" => MIB,
        "g" | "gib" => GIB,
        "t" | "tib" => GIB << 10,
        _ => return Err(BadUnit),
    };
    scale(number, factor)
}

/// Reads a rate in bits per second as network people write it (`200mbit`, `2.5g`, `10Gbit/s`,
/// powers of 1000) and gives bytes per second.
///
/// # Errors
/// If the text is no such rate or does not fit.
pub fn parse_rate(text: &str) -> Result<u64, BadUnit> {
    let (number, unit) = split_number(text)?;
    let unit = unit.to_ascii_lowercase();
    let unit = unit
        .trim_end_matches("/s")
        .trim_end_matches("ps")
        .trim_end_matches("bit");
    let factor = match unit {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        _ => return Err(BadUnit),
    };
    scale(number, factor).map(|bits| bits / 8)
}

/// Reads a duration: digits, then `s`, `m`, `h` or `d`; seconds without.
///
/// # Errors
/// If the text is no such duration or does not fit.
pub fn parse_duration(text: &str) -> Result<Duration, BadUnit> {
    let (number, unit) = split_number(text)?;
    let factor = match unit {
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(BadUnit),
    };
    scale(number, factor).map(Duration::from_millis)
}

/// A text that is no size, rate or duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "Not understood; examples: 64m, 10g (sizes), 200mbit, 2.5gbit (rates), 90s, 24h (durations)"
)]
pub struct BadUnit;

fn split_number(text: &str) -> Result<(f64, &str), BadUnit> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let number: f64 = text[..end].parse().map_err(|_| BadUnit)?;
    Ok((number, text[end..].trim()))
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the number is bounded just before it is turned back"
)]
fn scale(number: f64, factor: u64) -> Result<u64, BadUnit> {
    let value = number * factor as f64;
    if value.is_finite() && (0.0..9e18).contains(&value) {
        Ok(value.round() as u64)
    } else {
        Err(BadUnit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_read_as_people_write_them() {
        assert_eq!(parse_bytes("64m"), Ok(64 * MIB));
        assert_eq!(parse_bytes("1.5 GiB"), Ok(3 * GIB / 2));
        assert_eq!(parse_bytes("12"), Ok(12));
        assert_eq!(parse_rate("200mbit"), Ok(25_000_000));
        assert_eq!(parse_rate("2.5Gbit/s"), Ok(312_500_000));
        assert_eq!(parse_rate("1g"), Ok(125_000_000));
        for bad in ["", "x", "1q", "-1", "1e99g", "1..2"] {
            assert_eq!(parse_bytes(bad), Err(BadUnit), "{bad:?}");
            assert_eq!(parse_rate(bad), Err(BadUnit), "{bad:?}");
        }
    }

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(parse_duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "h", "5 weeks", "-1s", "1e9d"] {
            assert_eq!(parse_duration(bad), Err(BadUnit), "{bad:?}");
        }
    }

    #[test]
    fn sizes_and_durations_print_short() {
        assert_eq!(format_bytes(1023), "1023 B");
        assert_eq!(format_bytes(1536), "1.50 KiB");
        assert_eq!(format_bytes(GIB * 3 / 2), "1.50 GiB");
        assert_eq!(format_bytes(1023 * KIB), "1.00 MiB");
        assert_eq!(format_duration(Duration::from_millis(123)), "0.12 s");
        assert_eq!(format_duration(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(format_duration(Duration::from_secs(7500)), "2 h 05 min");
    }
}
