//! Numbers and times as text for people.

/// Bytes: `1.5 GiB`.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// `12,345`
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 blob`, `2 blobs`
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

/// `93 %` for 0.93. `0 %` and `100 %` are exact, never rounded.
pub fn percent(part: f64) -> String {
    let whole = (part * 100.0).round() as u64;
    match whole {
        0 if part > 0.0 => "< 1 %".to_owned(),
        100 if part < 1.0 => "> 99 %".to_owned(),
        whole => format!("{whole} %"),
    }
}

/// A length of time in its two largest units: `3 d 4 h`.
pub fn lasting(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A time in the past, by its age.
pub fn ago(seconds: u64) -> String {
    let unit = |number: u64, one: &str, many: &str| {
        format!("{number} {} ago", if number == 1 { one } else { many })
    };
    match seconds {
        0..60 => "just now".to_owned(),
        60..3_600 => unit(seconds / 60, "minute", "minutes"),
        3_600..86_400 => unit(seconds / 3_600, "hour", "hours"),
        _ => unit(seconds / 86_400, "day", "days"),
    }
}

/// Seconds since 1970 as a UTC timestamp, for `datetime` and `title`.
pub fn date(seconds: u64) -> String {
    jiff::Timestamp::from_second(seconds as i64)
        .map(|at| at.to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "blob", "blobs"), "1 blob");
        assert_eq!(counted(0, "blob", "blobs"), "0 blobs");
        let percents = [0.0, 0.001, 0.5, 0.999, 1.0].map(percent);
        assert_eq!(percents, ["0 %", "< 1 %", "50 %", "> 99 %", "100 %"]);
        let times = [0, 59, 61, 3_600, 90_061].map(lasting);
        assert_eq!(times, ["0 s", "59 s", "1 min", "1 h 0 min", "1 d 1 h"]);
        let agos = [5, 60, 7_300, 86_400, 900_000].map(ago);
        assert_eq!(
            agos,
            [
                "just now",
                "1 minute ago",
                "2 hours ago",
                "1 day ago",
                "10 days ago"
            ]
        );
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
    }
}
