//! A reader far behind a log's end: what to bring into the page cache ahead of it, and what to drop behind it.
//!
//! Without this a consumer that reads a week of records would fill the page cache with them, and push out what all others
//! read: the logs' ends. So a reader that goes through a log in order, and comes upon records that are not in memory, has
//! them read ahead, and what was brought in for it, and for nobody else, is dropped when it has gone on. What was in
//! memory before it came stays, for somebody had it there; so does what another reader, a little behind, is about to read.
//!
//! Pure: it is told what is read and what had to be fetched from the disk, and answers with ranges of files.

use std::cmp::Ordering;
use std::collections::VecDeque;

/// A range of a segment's file, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Span {
    /// Its base offset.
    pub segment: i64,
    pub from: u64,
    pub to: u64,
}

impl Span {
    /// Where the part of it ends that lies before `place`.
    fn end_before(&self, place: Place) -> u64 {
        match self.segment.cmp(&place.0) {
            Ordering::Less => self.to,
            Ordering::Equal => place.1.clamp(self.from, self.to),
            Ordering::Greater => self.from,
        }
    }
}

/// Where a reader is: a segment, and a position in it.
pub type Place = (i64, u64);

/// So many ranges, each where the former ended, make a reader that goes through the log in order.
const RUNS_MIN: u32 = 2;
/// Read ahead of a reader. Twice a consumer's usual fetch from all partitions of a broker is read within a few milliseconds.
const AHEAD_BYTES: u64 = 4 << 20;
/// What was brought in is kept for others behind, up to so many bytes; the oldest goes first.
const KEPT_BYTES_MAX: u64 = 32 << 20;
/// Ranges that are kept; neighbours are one.
const KEPT_SPANS_MAX: usize = 64;

/// What to do with the page cache.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Bring it in, and tell [`ColdReader::on_brought`] of what was not there.
    pub ahead: Option<Span>,
    /// Drop it.
    pub behind: Vec<Span>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.ahead.is_none() && self.behind.is_empty()
    }
}

/// One reader of one log.
#[derive(Clone, Debug, Default)]
pub struct ColdReader {
    last: Option<Span>,
    /// Ranges in a row, after the first.
    runs: u32,
    /// Something had to be fetched from the disk for it.
    is_cold: bool,
    /// Up to where in its segment was read ahead.
    ahead_to: u64,
    /// What was fetched from the disk for it and was not dropped, in the order of the log.
    brought: VecDeque<Span>,
}

impl ColdReader {
    /// It reads `span`: all that comes before was read.
    pub fn on_read(&mut self, span: Span) {
        let Some(last) = self.last.replace(span) else {
            self.ahead_to = span.to;
            return;
        };
        if last == span {
            return;
        }
        // A range may end inside a batch, with which the next one begins.
        let goes_on = span.segment == last.segment && (last.from..=last.to).contains(&span.from);
        let is_next = span.segment > last.segment && span.from == 0;
        if !goes_on && !is_next {
            // It has jumped. What was brought in is left to the kernel's own judgement.
            *self = Self { last: Some(span), ahead_to: span.to, ..Self::default() };
            return;
        }
        self.runs = self.runs.saturating_add(1);
        self.ahead_to = if is_next { span.to } else { self.ahead_to.max(span.to) };
    }

    /// `span` was not in memory and is now.
    pub fn on_brought(&mut self, span: Span) {
        self.is_cold = true;
        // Read ahead and fetched on the way, they may overlap.
        let at = self.brought.partition_point(|known| *known < span);
        self.brought.insert(at, span);
        let mut merged: VecDeque<Span> = VecDeque::with_capacity(self.brought.len());
        for span in self.brought.drain(..) {
            match merged.back_mut() {
                Some(last) if last.segment == span.segment && span.from <= last.to => last.to = last.to.max(span.to),
                _ => merged.push_back(span),
            }
        }
        self.brought = merged;
        if self.brought.len() > KEPT_SPANS_MAX {
            self.brought.pop_front();
        }
    }

    /// Where it reads; behind that nothing of it is needed.
    pub fn place(&self) -> Option<Place> {
        self.last.map(|last| (last.segment, last.from))
    }

    /// Whether something had to be fetched from the disk for it, since it reads in order.
    pub fn is_cold(&self) -> bool {
        self.is_cold
    }

    /// Whether nothing is left to be dropped.
    pub fn is_done(&self) -> bool {
        self.brought.is_empty()
    }

    /// What to do now. `ahead_max`: up to where in the segment that it reads may be read ahead. `others` is where
    /// other readers of this log are.
    pub fn plan(&mut self, ahead_max: u64, others: &[Place]) -> Plan {
        let Some(last) = self.last.filter(|_| self.is_cold && self.runs >= RUNS_MIN) else { return Plan::default() };
        Plan { ahead: self.ahead_of(last, ahead_max), behind: self.behind(last, others) }
    }

    fn ahead_of(&mut self, last: Span, ahead_max: u64) -> Option<Span> {
        let to = (last.to + AHEAD_BYTES).min(ahead_max);
        // In large steps.
        if self.ahead_to >= to || (self.ahead_to > last.to + AHEAD_BYTES / 2 && to < ahead_max) {
            return None;
        }
        let from = std::mem::replace(&mut self.ahead_to, to);
        Some(Span { segment: last.segment, from, to })
    }

    fn behind(&mut self, last: Span, others: &[Place]) -> Vec<Span> {
        let place = (last.segment, last.from);
        // The one that is the farthest behind among those that are behind.
        let wanted_from = others.iter().copied().filter(|other| *other < place).min().unwrap_or(place);
        let mut kept_bytes: u64 = self.brought.iter().map(|span| span.to - span.from).sum();
        let mut dropped = Vec::new();
        while let Some(span) = self.brought.front_mut() {
            let mut to = span.end_before(wanted_from);
            if to == span.from {
                let excess = kept_bytes.saturating_sub(KEPT_BYTES_MAX);
                to = span.end_before(place).min(span.from + excess);
            }
            if to == span.from {
                break;
            }
            dropped.push(Span { to, ..*span });
            kept_bytes -= to - span.from;
            if to == span.to {
                self.brought.pop_front();
            } else {
                span.from = to;
            }
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn span(segment: i64, from: u64, to: u64) -> Span {
        Span { segment, from: from * MIB, to: to * MIB }
    }

    /// Reads MiB after MiB of a segment of 100 MiB, all of which has to be fetched.
    fn read(reader: &mut ColdReader, from: u64, to: u64, others: &[Place]) -> Vec<Plan> {
        let mut plans = Vec::new();
        for at in from..to {
            reader.on_read(span(0, at, at + 1));
            reader.on_brought(span(0, at, at + 1));
            plans.push(reader.plan(100 * MIB, others));
        }
        plans
    }

    #[test]
    fn a_cold_reader_in_order_is_read_ahead_and_dropped_behind() {
        let mut reader = ColdReader::default();
        let plans = read(&mut reader, 0, 6, &[]);
        assert_eq!(plans[..2], [Plan::default(), Plan::default()], "who reads two ranges need not read a third");
        assert_eq!(plans[2], Plan { ahead: Some(span(0, 3, 7)), behind: vec![span(0, 0, 2)] });
        // Not again before half of it is used.
        assert_eq!(plans[3], Plan { ahead: None, behind: vec![span(0, 2, 3)] });
        assert_eq!(plans[4], Plan { ahead: Some(span(0, 7, 9)), behind: vec![span(0, 3, 4)] });
        assert_eq!(plans[5].behind, [span(0, 4, 5)]);
    }

    #[test]
    fn what_was_in_memory_before_it_came_stays() {
        let mut reader = ColdReader::default();
        for at in 0..10 {
            reader.on_read(span(0, at, at + 1));
            assert_eq!(reader.plan(100 * MIB, &[]), Plan::default(), "it finds all in memory");
        }
        // One range of those to come was not there.
        reader.on_read(span(0, 10, 11));
        reader.on_brought(span(0, 10, 11));
        assert_eq!(reader.plan(100 * MIB, &[]).behind, []);
        reader.on_read(span(0, 11, 12));
        assert_eq!(reader.plan(100 * MIB, &[]).behind, [span(0, 10, 11)]);
        assert!(reader.is_done());
    }

    #[test]
    fn who_jumps_is_no_reader_in_order() {
        let mut reader = ColdReader::default();
        for at in [5, 3, 90, 17, 40, 2] {
            reader.on_read(span(0, at, at + 1));
            reader.on_brought(span(0, at, at + 1));
            assert_eq!(reader.plan(100 * MIB, &[]), Plan::default());
        }
        // The same range once more, as when an answer was lost, is no jump; nor is a range that begins with the batch in
        // which the former ended.
        reader.on_read(span(0, 2, 3));
        reader.on_read(Span { segment: 0, from: 3 * MIB - 100, to: 4 * MIB });
        reader.on_read(span(0, 4, 5));
        assert!(reader.plan(100 * MIB, &[]).ahead.is_some());
    }

    #[test]
    fn what_another_reader_is_about_to_read_is_kept_within_bounds() {
        let mut reader = ColdReader::default();
        let plans = read(&mut reader, 0, 20, &[(0, 0)]);
        assert!(plans.iter().all(|plan| plan.behind.is_empty()), "it is 20 MiB behind at most");
        // It comes closer: what it has read goes.
        reader.on_read(span(0, 20, 21));
        assert_eq!(reader.plan(100 * MIB, &[(0, 18 * MIB)]).behind, [span(0, 0, 18)]);
        // And gets ahead.
        reader.on_read(span(0, 21, 22));
        assert_eq!(reader.plan(100 * MIB, &[(0, 30 * MIB)]).behind, [span(0, 18, 20)]);

        let mut reader = ColdReader::default();
        read(&mut reader, 0, 40, &[(0, 0)]);
        let kept: u64 = reader.brought.iter().map(|span| span.to - span.from).sum();
        assert!(kept <= KEPT_BYTES_MAX + MIB, "one that is far behind does not fill the memory: {kept}");
    }

    #[test]
    fn it_goes_on_in_the_next_segment() {
        let mut reader = ColdReader::default();
        read(&mut reader, 95, 100, &[]);
        reader.on_read(span(7, 0, 1));
        let plan = reader.plan(2 * MIB, &[]);
        assert_eq!(plan.behind, [span(0, 99, 100)], "the rest of the one before");
        assert_eq!(plan.ahead, Some(span(7, 1, 2)), "no farther than the segment goes");
        assert_eq!(reader.place(), Some((7, 0)));
    }
}
