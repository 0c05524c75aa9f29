//! Points in time on the command line: milliseconds since 1970, or RFC 3339 in UTC.

/// Of 400 years, whichever they are.
const DAYS_OF_CYCLE: i64 = 146_097;

/// Milliseconds since 1970-01-01 UTC of `1763793600000`, `2025-11-22`, `2025-11-22T06:40:00Z` or `...T06:40:00.250Z`.
pub fn parse(text: &str) -> Option<i64> {
    if let Ok(milliseconds) = text.parse::<i64>() {
        return (milliseconds >= 0).then_some(milliseconds);
    }
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let [year, month, day] = numbers(date, '-')?;
    let (seconds, fraction) = time.split_once('.').unwrap_or((time, ""));
    let [hour, minute, second] = numbers(seconds, ':')?;
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let milliseconds: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let seconds = ((days_before(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(seconds * 1000 + milliseconds)
}

/// `2025-11-22T06:40:00.250Z`.
pub fn format(milliseconds: i64) -> String {
    let (days, of_day) = (milliseconds.div_euclid(86_400_000), milliseconds.rem_euclid(86_400_000));
    // The calendar repeats itself; a timestamp may be any number, and must not take as long as its years are many.
    let (mut year, mut left) = (1970 + days.div_euclid(DAYS_OF_CYCLE) * 400, days.rem_euclid(DAYS_OF_CYCLE));
    while left >= days_of_year(year) {
        left -= days_of_year(year);
        year += 1;
    }
    let mut month = 1;
    while left >= days_of(year, month) {
        left -= days_of(year, month);
        month += 1;
    }
    let (seconds, fraction) = (of_day / 1000, of_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{fraction:03}Z", left + 1)
}

fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(|part| {
        let digits = part.len() >= 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse().ok()).flatten()
    });
    let three = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(three)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of_year(year: i64) -> i64 {
    if is_leap(year) { 366 } else { 365 }
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

/// From 1970-01-01 to this day.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let years: i64 = (1970..year).map(days_of_year).sum();
    let months: i64 = (1..month).map(|month| days_of(year, month)).sum();
    years + months + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_written() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1763793600000", Some(1_763_793_600_000)),
            ("1970-01-01", Some(0)),
            ("2024-02-29T12:00:00Z", Some(1_709_208_000_000)),
            ("2025-11-22T06:40:00.25Z", Some(1_763_793_600_250)),
            ("2025-02-29", None),
            ("2025-13-01", None),
            ("2025-11-22T24:00:00Z", None),
            ("2025-11-22T06:40:00", None),
            ("yesterday", None),
            ("-5", None),
            ("2025-11-22T06:40:00.2x5Z", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(format(1_763_793_600_250), "2025-11-22T06:40:00.250Z");
        assert_eq!(format(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(format(253_402_300_800_000), "10000-01-01T00:00:00.000Z");
        assert_eq!(format(i64::MAX), "292278994-08-17T07:12:55.807Z");
        assert_eq!(format(i64::MIN), "-292275055-05-16T16:47:04.192Z");
        assert_eq!(parse(&format(1_709_208_000_000)), Some(1_709_208_000_000));
    }
}
