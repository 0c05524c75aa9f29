//! Replicas that are not in sync catch up beside everything else, and take second place.
//!
//! They are followed by fetchers of their own (a large answer would keep the replicas waiting that acknowledgements wait
//! for), in small pieces. While this broker takes in records that clients or in-sync replication wait for, a fetcher rests
//! after each piece for a multiple of the time that the piece took. The multiple shrinks, to nothing if need be, while the
//! replicas do not come nearer to their leaders' ends fast enough: whatever the load, they get there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use odradek_common::Offset;
use odradek_common::time::Instant;

/// Of an answer, while the broker is busy. A piece is on its way for some milliseconds.
pub(super) const PIECE_BYTES: u32 = 1 << 20;
/// What is shorter is the end of what there was, and no reason to rest.
const FULL_BYTES: usize = PIECE_BYTES as usize / 2;
/// After the last record that somebody waits for.
const BUSY_FOR: Duration = Duration::from_millis(100);
/// A fetcher works a seventh of the time.
const REST_FACTOR_MAX: f64 = 6.0;
/// Less is none.
const REST_FACTOR_MIN: f64 = 0.25;
/// Of a single rest: a stall is no measure of what a piece costs.
const REST_MAX: Duration = Duration::from_millis(200);
/// How often the factor is reconsidered.
const WINDOW: Duration = Duration::from_millis(500);
/// To be fast enough, replicas take so many offsets for each hundred that are appended meanwhile.
const GAIN_PERCENT: u64 = 150;

/// When the broker last took in records that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Load {
    last: AtomicU64,
}

impl Load {
    pub fn note(&self, now: Instant) {
        self.last.store(now.0, Ordering::Relaxed);
    }

    pub fn is_busy(&self, now: Instant) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        last != 0 && now.saturating_since(Instant(last)) < BUSY_FOR
    }
}

/// How long a fetcher rests.
#[derive(Debug)]
pub(super) struct Rest {
    factor: f64,
    window_start: Instant,
    /// Offsets that replicas took, and that their leaders' logs grew by, in this window.
    taken: u64,
    grown: u64,
}

impl Rest {
    pub fn new(now: Instant) -> Self {
        Self { factor: REST_FACTOR_MAX, window_start: now, taken: 0, grown: 0 }
    }

    /// A replica came from one offset to another while its leader's high watermark did (`Offset::NONE`: not known before).
    pub fn on_appended(&mut self, replica: (Offset, Offset), leader: (Offset, Offset)) {
        let gained = |(from, to): (Offset, Offset)| u64::try_from(to.0.saturating_sub(from.0)).unwrap_or(0);
        self.taken = self.taken.saturating_add(gained(replica));
        if leader.0 != Offset::NONE {
            self.grown = self.grown.saturating_add(gained(leader));
        }
    }

    /// After an answer of `bytes` that took `piece` from the request to the end of the append.
    pub fn after(&mut self, bytes: usize, piece: Duration, now: Instant, load: &Load) -> Duration {
        if now.saturating_since(self.window_start) >= WINDOW {
            self.factor = if self.taken.saturating_mul(100) < self.grown.saturating_mul(GAIN_PERCENT) {
                let less = self.factor / 2.0;
                if less < REST_FACTOR_MIN { 0.0 } else { less }
            } else {
                (self.factor + REST_FACTOR_MIN).min(REST_FACTOR_MAX)
            };
            (self.window_start, self.taken, self.grown) = (now, 0, 0);
        }
        if bytes < FULL_BYTES || !load.is_busy(now) {
            return Duration::ZERO;
        }
        piece.mul_f64(self.factor).min(REST_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: Duration = Duration::from_millis(5);

    fn at(millis: u64) -> Instant {
        Instant(0) + Duration::from_millis(millis)
    }

    /// The rest after a full piece at `now`, of `taken` offsets while the leader's log grew by `grown`.
    fn rest(rest: &mut Rest, now: Instant, load: &Load, taken: i64, grown: i64) -> Duration {
        rest.on_appended((Offset(0), Offset(taken)), (Offset(1_000), Offset(1_000 + grown)));
        rest.after(FULL_BYTES, PIECE, now, load)
    }

    #[test]
    fn it_rests_while_somebody_waits_for_records() {
        let (load, mut fetcher) = (Load::default(), Rest::new(at(0)));
        assert_eq!(rest(&mut fetcher, at(1), &load, 100, 0), Duration::ZERO);
        load.note(at(50));
        assert_eq!(rest(&mut fetcher, at(149), &load, 100, 0), PIECE * 6);
        assert_eq!(fetcher.after(FULL_BYTES - 1, PIECE, at(149), &load), Duration::ZERO);
        assert_eq!(fetcher.after(FULL_BYTES, Duration::from_secs(9), at(149), &load), REST_MAX);
        assert_eq!(rest(&mut fetcher, at(150), &load, 100, 0), Duration::ZERO);
    }

    #[test]
    fn it_rests_less_and_less_while_the_leader_is_faster() {
        let (load, mut fetcher) = (Load::default(), Rest::new(at(0)));
        let rests: Vec<_> = (1..8)
            .map(|n| {
                load.note(at(n * 500));
                rest(&mut fetcher, at(n * 500), &load, 149, 100).as_micros()
            })
            .collect();
        assert_eq!(rests, [15_000, 7_500, 3_750, 1_875, 0, 0, 0]);
        load.note(at(4_000));
        assert_eq!(rest(&mut fetcher, at(4_000), &load, 150, 100).as_micros(), 1_250);
    }

    #[test]
    fn what_the_leader_held_before_is_no_growth() {
        let (load, mut fetcher) = (Load::default(), Rest::new(at(0)));
        load.note(at(500));
        fetcher.on_appended((Offset(0), Offset(10)), (Offset::NONE, Offset(1_000_000)));
        assert_eq!(fetcher.after(FULL_BYTES, PIECE, at(500), &load), PIECE * 6);
    }
}
