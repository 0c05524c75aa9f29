//! How long moving bytes will still take.

use odradek_common::time::Instant;

/// The pace since it was first looked at.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    begin: Instant,
    /// What was left then; `None`: not known.
    first: Option<u64>,
}

impl Pace {
    pub fn new(begin: Instant, first: Option<u64>) -> Self {
        Self { begin, first }
    }

    /// `None`: it is not known, as before anything has moved.
    pub fn seconds_left(&self, left: Option<u64>, now: Instant) -> Option<u64> {
        let (left, elapsed) = (left?, now.saturating_since(self.begin).as_secs_f64());
        let done = self.first?.checked_sub(left).filter(|done| *done > 0)?;
        Some((left as f64 * elapsed / done as f64).ceil() as u64)
    }
}

/// For the end of a line of progress.
pub fn text(seconds_left: Option<u64>) -> String {
    seconds_left.map_or_else(String::new, |left| format!(", about {left} s left"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_left_goes_by_the_pace_so_far() {
        let after = |secs| Instant(0) + Duration::from_secs(secs);
        let pace = |first| Pace::new(Instant(0), first);
        assert_eq!(pace(Some(100)).seconds_left(Some(75), after(10)), Some(30));
        assert_eq!(pace(Some(100)).seconds_left(Some(100), after(10)), None);
        assert_eq!(pace(None).seconds_left(Some(1), after(10)), None);
    }
}
