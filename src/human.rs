//! Sizes, durations and times as people read them, in the forms Barman prints.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `26.2 GiB`; below one KiB whole bytes: `123 B`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0: the next unit says it better.
    while amount >= 1023.95 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// `12.3 MiB/s`; `-` when no time has passed.
pub fn rate(bytes: u64, time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds <= 0.0 {
        "-".to_owned()
    } else {
        format!("{}/s", size((bytes as f64 / seconds) as u64))
    }
}

/// `1 day, 2 hours, 3 minutes, 4 seconds`, without what is zero.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let parts: Vec<String> = [
        (seconds / 86_400, "day"),
        (seconds / 3600 % 24, "hour"),
        (seconds / 60 % 60, "minute"),
        (seconds % 60, "second"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, unit)| format!("{count} {unit}{}", if count == 1 { "" } else { "s" }))
    .collect();
    if parts.is_empty() { "less than one second".to_owned() } else { parts.join(", ") }
}

/// `Thu Jan  1 01:03:20 2026`, in the local time zone: the form of Barman's lists and JSON.
pub fn time(at: Timestamp) -> String {
    format_time(at, TimeZone::system(), "%a %b %e %H:%M:%S %Y")
}

/// The same with the offset from UTC behind it, where there is room: `… 2026 +01:00`.
pub fn time_with_offset(at: Timestamp) -> String {
    format_time(at, TimeZone::system(), "%a %b %e %H:%M:%S %Y %:z")
}

/// Seconds since 1970 as a string: what Barman's `*_timestamp` keys hold.
pub fn epoch(at: Timestamp) -> String {
    at.as_second().to_string()
}

fn format_time(at: Timestamp, zone: TimeZone, format: &str) -> String {
    at.to_zoned(zone).strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_decimal_from_a_kibibyte_on() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (16 << 20, "16.0 MiB"),
            (28_132_035_788, "26.2 GiB"),
            ((1 << 30) - 1, "1.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
        assert_eq!(rate(3 << 20, Duration::from_secs(2)), "1.5 MiB/s");
        assert_eq!(rate(3, Duration::ZERO), "-");
    }

    #[test]
    fn durations_name_what_is_not_zero() {
        for (seconds, shown) in [
            (0, "less than one second"),
            (1, "1 second"),
            (3600, "1 hour"),
            (93_784, "1 day, 2 hours, 3 minutes, 4 seconds"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), shown);
        }
    }

    #[test]
    fn times_have_barmans_form() {
        let at: Timestamp = "2026-01-01T01:03:20Z".parse().unwrap();
        let shown = |format| format_time(at, TimeZone::fixed(jiff::tz::offset(1)), format);
        assert_eq!(shown("%a %b %e %H:%M:%S %Y"), "Thu Jan  1 02:03:20 2026");
        assert_eq!(shown("%a %b %e %H:%M:%S %Y %:z"), "Thu Jan  1 02:03:20 2026 +01:00");
        assert_eq!(epoch(at), "1767229400");
    }
}
