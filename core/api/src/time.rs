//! Times: RFC 3339 and seconds since 1970, and ages as kubectl says them.

use jiff::Timestamp;

/// Seconds since 1970 of an RFC 3339 time, fractions cut.
pub fn parse(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_second)
}

/// Microseconds since 1970 of an RFC 3339 time (`metav1.MicroTime`).
pub fn parse_micro(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_microsecond)
}

/// `2026-11-21T00:32:28Z`; a time out of RFC 3339's range becomes its nearest end.
pub fn format(seconds: i64) -> String {
    let last = Timestamp::MAX.as_second();
    let at = Timestamp::from_second(seconds.clamp(0, last)).unwrap_or(Timestamp::UNIX_EPOCH);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-11-21T00:32:28.000001Z` (`metav1.MicroTime`).
pub fn format_micro(micros: i64) -> String {
    let last = Timestamp::MAX.as_microsecond();
    let at = Timestamp::from_microsecond(micros.clamp(0, last)).unwrap_or(Timestamp::UNIX_EPOCH);
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// An age as kubectl says it: two units at most, the second dropped as the first grows
/// (`apimachinery/pkg/util/duration.HumanDuration`).
pub fn human(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let two = |big: i64, unit: char, small: i64, minor: char| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{minor}") }
    };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, 'm', seconds % 60, 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, 'h', minutes % 60, 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if days < 8 {
        two(days, 'd', hours % 24, 'h')
    } else if days < 730 {
        format!("{days}d")
    } else if days < 8 * 365 {
        two(days / 365, 'y', days % 365, 'd')
    } else {
        format!("{}y", days / 365)
    }
}

/// The age of what happened at an RFC 3339 time; `<unknown>` where there is none.
pub fn age(since: &str, now: i64) -> String {
    parse(since).map_or_else(|| "<unknown>".to_owned(), |at| human(now - at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_says_them() {
        let table = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600 + 59, "8h"),
            (48 * 3600, "2d"),
            (49 * 3600, "2d1h"),
            (8 * 86400, "8d"),
            (324 * 86400, "324d"),
            (730 * 86400, "2y"),
            (731 * 86400, "2y1d"),
            (8 * 365 * 86400 + 86400, "8y"),
        ];
        for (seconds, said) in table {
            assert_eq!(human(seconds), said);
        }
    }

    #[test]
    fn times_go_there_and_back() {
        for seconds in [0, 1, 1_795_221_148] {
            assert_eq!(parse(&format(seconds)), Some(seconds));
        }
        assert_eq!(format(1_795_221_148), "2026-11-21T00:32:28Z");
        assert_eq!(parse_micro(&format_micro(1_795_221_148_000_001)), Some(1_795_221_148_000_001));
        assert_eq!(parse("yesterday"), None);
        assert_eq!(age("", 5), "<unknown>");
        assert_eq!(parse("2026-11-21T01:32:28+01:00"), Some(1_795_221_148));
    }
}
