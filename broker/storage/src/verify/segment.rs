//! One segment: its batches, and its three indexes against them. The indexes are walked beside the batches, so that no more
//! than the indexes themselves is in memory.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use odradek_common::Offset;
use odradek_records::{BatchHeader, DECOMPRESSED_BYTES_MAX, EndTxnMarker};

use super::partition::Chain;
use super::{Problem, Told, Verifier};
use crate::files::{self, BatchFile, Entries, FileDamage, FoundBatch, TimeEntry};
use crate::leader_epochs::FILE as LEADER_EPOCHS;
use crate::offset_index::{self, OffsetPosition};
use crate::recovery::CONTROL_BATCH_BYTES_MAX;
use crate::segment::LOG_SUFFIX;
use crate::txn_index::AbortedTxn;
use crate::{time_index, txn_index};

/// Where a segment stands in its log.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentPlace<'a> {
    pub dir: &'a Path,
    pub base: i64,
    /// The base of the one behind it.
    pub next: Option<i64>,
    /// The next start reads all of it.
    pub is_read: bool,
    /// Segments behind it.
    pub later: usize,
    pub clean: bool,
}

impl SegmentPlace<'_> {
    fn file(&self, suffix: &str) -> PathBuf {
        self.dir.join(format!("{:020}{suffix}", self.base))
    }

    /// What the start makes of a batch that is not sound.
    fn fate_of_batch(&self, cut: u64, offset: i64) -> String {
        match (self.is_read, self.later) {
            (true, 0) => {
                format!("the log is cut at offset {offset}: {cut} bytes are lost, if no other replica has them")
            }
            (true, later) => format!(
                "the log is cut at offset {offset}: {cut} bytes of this file and {later} later segments are lost, if no \
                 other replica has them"
            ),
            (false, _) => format!(
                "it is not looked at; consumers fail at offset {offset}. Where another replica is sound, move this \
                 directory away while the broker is stopped, and it is fetched anew"
            ),
        }
    }

    fn fate_of_index(&self) -> &'static str {
        match self.is_read {
            true => "it is made anew",
            false => {
                "it is used as it is, and look-ups may be slow or wrong; remove the file while the broker is stopped, \
                 and it is made anew"
            }
        }
    }
}

/// What a walk over a segment came to.
#[derive(Debug)]
pub(super) struct Scanned {
    /// A damaged header ended it: what is behind is not known.
    pub is_cut_short: bool,
}

/// The state of a walk.
struct Walk<'a> {
    place: &'a SegmentPlace<'a>,
    log: PathBuf,
    bytes: u64,
    offsets: Cursor<OffsetPosition>,
    times: Cursor<TimeEntry>,
    /// The largest timestamp so far.
    max_timestamp: i64,
    /// Offsets of abort markers.
    aborts: BTreeSet<i64>,
    chain_told: Told,
    records_told: Told,
    epochs_told: Told,
}

/// An index on its way along the batches.
struct Cursor<T> {
    path: PathBuf,
    is_there: bool,
    entries: std::vec::IntoIter<(u64, T)>,
    /// The next entry, with its place in the file.
    next: Option<(u64, T)>,
    told: Told,
    last: Option<T>,
}

impl<T: Copy> Cursor<T> {
    fn advance(&mut self) {
        self.next = self.entries.next();
    }
}

impl Verifier<'_> {
    pub(super) fn segment(&mut self, place: &SegmentPlace<'_>, chain: &mut Chain) -> io::Result<Scanned> {
        self.checked.segments += 1;
        let log = place.file(LOG_SUFFIX);
        let file = BatchFile::open(self.fs, &log)?;
        let offsets = self.offset_index(place, file.len())?;
        let times = self.time_index(place, file.len())?;
        let mut walk = Walk {
            place,
            log,
            bytes: file.len(),
            offsets,
            times,
            max_timestamp: -1,
            aborts: BTreeSet::new(),
            chain_told: Told::default(),
            records_told: Told::default(),
            epochs_told: Told::default(),
        };
        let aborted = self.txn_index(place)?;
        chain.end = chain.end.max(place.base);
        let mut is_cut_short = false;
        for found in file.batches(0) {
            match found {
                Ok(found) => self.batch(&mut walk, chain, &file, &found)?,
                Err(FileDamage::Io(error)) => return Err(error),
                // Preallocated; the next start cuts it.
                Err(FileDamage::Batch { position, .. }) if place.is_read && file.is_unwritten_from(position)? => {}
                Err(FileDamage::Batch { position, error }) => {
                    is_cut_short = true;
                    let at_next_start = place.fate_of_batch(file.len() - position, chain.end);
                    self.batch_problem(&walk, position, Offset(chain.end), error.to_string(), at_next_start);
                }
            }
        }
        self.end(&mut walk, &aborted, is_cut_short, chain.compacted);
        Ok(Scanned { is_cut_short })
    }

    fn batch(
        &mut self,
        walk: &mut Walk<'_>,
        chain: &mut Chain,
        file: &BatchFile,
        found: &FoundBatch,
    ) -> io::Result<()> {
        let header = &found.header;
        self.checked.batches += 1;
        self.checked.bytes += header.size as u64;
        if !self.options.records {
            self.checked.records += u64::try_from(header.record_count).unwrap_or(0);
        }
        let what = match found.crc {
            Err(error) => Some(error.to_string()),
            Ok(()) => self.misfit(walk, chain, header),
        };
        if let Some(what) = what
            && walk.chain_told.may_tell()
        {
            let at_next_start = walk.place.fate_of_batch(walk.bytes - found.position, chain.end);
            self.batch_problem(walk, found.position, header.base_offset, what, at_next_start);
        }
        if found.crc.is_ok() {
            self.records(walk, chain, file, found)?;
            self.check_epoch(walk, chain, header);
        }
        chain.compacted |= header.base_offset.0 > chain.end && found.position > 0;
        chain.end = chain.end.max(header.next_offset().0);
        self.step_offset_index(walk, found);
        self.step_time_index(walk, header);
        Ok(())
    }

    fn batch_problem(&mut self, walk: &Walk<'_>, position: u64, offset: Offset, what: String, at_next_start: String) {
        let (file, position, offset) = (walk.log.clone(), Some(position), Some(offset));
        self.problem(Problem { file, position, offset, what, at_next_start });
    }

    /// Why the batch cannot stand here.
    fn misfit(&mut self, walk: &Walk<'_>, chain: &mut Chain, header: &BatchHeader) -> Option<String> {
        let (base, last) = (header.base_offset, header.last_offset());
        let before = chain.leader_epoch;
        if header.leader_epoch.0 >= 0 {
            chain.leader_epoch = before.max(header.leader_epoch.0);
        }
        if base.0 < chain.end {
            return Some(format!("the batch begins at offset {base}, but {} is the next one", chain.end));
        }
        if let Some(next) = walk.place.next.filter(|next| last.0 >= *next) {
            return Some(format!("the batch ends at offset {last}, but the next segment begins at {next}"));
        }
        if last.0 - walk.place.base > i64::from(i32::MAX) {
            return Some(format!("offset {last} is too far from the segment's base for its indexes"));
        }
        let epoch = header.leader_epoch;
        (epoch.0 >= 0 && epoch.0 < before)
            .then(|| format!("the batch of leader epoch {epoch} follows one of epoch {before}"))
    }

    fn records(
        &mut self,
        walk: &mut Walk<'_>,
        chain: &mut Chain,
        file: &BatchFile,
        found: &FoundBatch,
    ) -> io::Result<()> {
        let header = &found.header;
        chain.compacted |= i64::from(header.record_count) != i64::from(header.last_offset_delta) + 1;
        let is_marker =
            header.attributes.is_control() && header.has_producer() && header.size <= CONTROL_BATCH_BYTES_MAX;
        if !is_marker && !self.options.records {
            return Ok(());
        }
        let batch = file.read(found)?;
        let mut fault = None;
        if is_marker {
            match EndTxnMarker::of_batch(&batch) {
                Ok(Some((marker, _))) if !marker.is_commit => drop(walk.aborts.insert(header.base_offset.0)),
                Ok(_) => {}
                Err(error) => fault = Some(error.to_string()),
            }
        }
        if self.options.records {
            let mut expected = header.base_offset;
            match batch.records(DECOMPRESSED_BYTES_MAX) {
                Err(error) => fault = Some(error.to_string()),
                Ok(records) => {
                    for record in records {
                        match record {
                            Err(error) => fault = Some(error.to_string()),
                            Ok(record) if record.offset < expected || record.offset > header.last_offset() => {
                                fault = Some(format!("a record has offset {}, which is not its turn", record.offset));
                            }
                            Ok(record) => expected = record.offset.plus(1),
                        }
                        self.checked.records += 1;
                    }
                }
            }
        }
        if let Some(what) = fault
            && walk.records_told.may_tell()
        {
            let at_next_start = match is_marker && walk.place.is_read {
                true => walk.place.fate_of_batch(walk.bytes - found.position, header.base_offset.0),
                false => format!("it is not looked at; consumers fail at offset {}", header.base_offset),
            };
            self.batch_problem(walk, found.position, header.base_offset, what, at_next_start);
        }
        Ok(())
    }

    fn check_epoch(&mut self, walk: &mut Walk<'_>, chain: &Chain, header: &BatchHeader) {
        let Some(epochs) = chain.epochs.as_deref().filter(|epochs| !epochs.is_empty()) else { return };
        if header.leader_epoch.0 < 0 {
            return;
        }
        let known = epochs.partition_point(|entry| entry.start <= header.last_offset());
        let known = known.checked_sub(1).and_then(|index| epochs.get(index)).map(|entry| entry.epoch);
        if known == Some(header.leader_epoch) || !walk.epochs_told.may_tell() {
            return;
        }
        let (last, epoch) = (header.last_offset(), header.leader_epoch);
        let known = known.map_or_else(|| "no epoch".to_owned(), |epoch| format!("epoch {epoch}"));
        let at_next_start = match walk.place.is_read {
            true => "the epochs of the segments that are read are taken from the batches",
            false => {
                "it is used as it is, and a follower may be told to truncate at a wrong offset; remove the file while \
                 the broker is stopped, and it is made anew"
            }
        };
        self.problem(Problem {
            file: walk.place.dir.join(LEADER_EPOCHS),
            position: None,
            offset: Some(last),
            what: format!("offset {last} is of leader epoch {epoch}, and the file says {known}"),
            at_next_start: at_next_start.to_owned(),
        });
    }

    // ---------------------------------------------------------------- indexes

    /// An index that can be walked. `decodes` drops what is out of order or behind the log.
    fn open_index<T: Copy>(
        &mut self,
        place: &SegmentPlace<'_>,
        log_bytes: u64,
        suffix: &str,
        entry_bytes: u64,
        read: impl FnOnce(&Path) -> io::Result<Entries<T>>,
        follows: impl Fn(Option<T>, T) -> Result<(), String>,
    ) -> io::Result<Cursor<T>> {
        let path = place.file(suffix);
        let read = match read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.file_problem(&path, error.to_string(), place.fate_of_index());
                None
            }
            result => Some(result?),
        };
        let is_there = read.is_some();
        if !is_there && log_bytes > 0 && !place.is_read && !self.fs.exists(&path)? {
            self.file_problem(&path, "is missing", "it is made anew");
        }
        let index = read.unwrap_or_else(|| Entries { entries: Vec::new(), padding: 0, torn_bytes: 0 });
        self.checked.index_entries += index.entries.len() as u64;
        if index.torn_bytes > 0 && !place.is_read {
            let what = format!("{} bytes follow the last whole entry", index.torn_bytes);
            let then = if place.next.is_none() { "it is made anew" } else { place.fate_of_index() };
            self.file_problem(&path, what, then);
        }
        if index.padding > 0 && place.clean {
            let what = format!("{} entries of zeros follow the last one, though the shutdown was clean", index.padding);
            self.file_problem(&path, what, place.fate_of_index());
        }
        let mut told = Told::default();
        let mut kept: Vec<(u64, T)> = Vec::with_capacity(index.entries.len());
        for (number, entry) in index.entries.into_iter().enumerate() {
            let position = number as u64 * entry_bytes;
            match follows(kept.last().map(|(_, last)| *last), entry) {
                Ok(()) => kept.push((position, entry)),
                Err(what) if told.may_tell() => self.problem(Problem {
                    file: path.clone(),
                    position: Some(position),
                    offset: None,
                    what,
                    at_next_start: place.fate_of_index().to_owned(),
                }),
                Err(_) => {}
            }
        }
        let last = kept.last().map(|(_, entry)| *entry);
        let mut cursor = Cursor { path, is_there, entries: kept.into_iter(), next: None, told, last };
        cursor.advance();
        Ok(cursor)
    }

    fn offset_index(&mut self, place: &SegmentPlace<'_>, log_bytes: u64) -> io::Result<Cursor<OffsetPosition>> {
        let fs = self.fs;
        let read = |path: &Path| files::read_offset_index(fs, path, Offset(place.base));
        let follows = |last: Option<OffsetPosition>, entry: OffsetPosition| {
            let OffsetPosition { offset, position } = entry;
            if position >= log_bytes {
                return Err(format!("the entry of offset {offset} points to byte {position} of {log_bytes}"));
            }
            match last {
                Some(last) if last.offset >= offset || last.position >= position => Err(format!(
                    "the entry of offset {offset} at byte {position} follows that of {} at {}",
                    last.offset, last.position
                )),
                _ => Ok(()),
            }
        };
        let entry_bytes = offset_index::ENTRY_BYTES as u64;
        self.open_index(place, log_bytes, offset_index::SUFFIX, entry_bytes, read, follows)
    }

    fn time_index(&mut self, place: &SegmentPlace<'_>, log_bytes: u64) -> io::Result<Cursor<TimeEntry>> {
        let fs = self.fs;
        let read = |path: &Path| files::read_time_index(fs, path, Offset(place.base));
        let follows = |last: Option<TimeEntry>, entry: TimeEntry| match last {
            Some(last) if last.timestamp >= entry.timestamp || last.offset > entry.offset => Err(format!(
                "the entry of time {} and offset {} follows that of {} and {}",
                entry.timestamp.0, entry.offset, last.timestamp.0, last.offset
            )),
            _ => Ok(()),
        };
        let entry_bytes = time_index::ENTRY_BYTES as u64;
        self.open_index(place, log_bytes, time_index::SUFFIX, entry_bytes, read, follows)
    }

    fn txn_index(&mut self, place: &SegmentPlace<'_>) -> io::Result<Vec<AbortedTxn>> {
        let path = place.file(txn_index::SUFFIX);
        let fate = match place.is_read {
            true => "it is made anew",
            false => "read-committed consumers of this segment fail, or see what was aborted",
        };
        match files::read_txn_index(self.fs, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.file_problem(&path, error.to_string(), fate);
                Ok(Vec::new())
            }
            Err(error) => Err(error),
            Ok(index) => {
                self.checked.index_entries += index.entries.len() as u64;
                if index.torn_bytes > 0 {
                    let what = format!("{} bytes follow the last whole entry", index.torn_bytes);
                    self.file_problem(&path, what, fate);
                }
                Ok(index.entries)
            }
        }
    }

    fn index_problem<T>(
        &mut self,
        place: &SegmentPlace<'_>,
        cursor: &mut Cursor<T>,
        position: u64,
        offset: i64,
        what: String,
    ) {
        if cursor.told.may_tell() {
            self.problem(Problem {
                file: cursor.path.clone(),
                position: Some(position),
                offset: Some(Offset(offset)),
                what,
                at_next_start: place.fate_of_index().to_owned(),
            });
        }
    }

    fn step_offset_index(&mut self, walk: &mut Walk<'_>, found: &FoundBatch) {
        while let Some((at, entry)) = walk.offsets.next.filter(|(_, entry)| entry.position <= found.position) {
            walk.offsets.advance();
            let OffsetPosition { offset, position } = entry;
            let what = if position < found.position {
                format!("the entry of offset {offset} points to byte {position}, where no batch begins")
            } else if offset < found.header.base_offset.0 {
                let base = found.header.base_offset;
                format!(
                    "the entry of offset {offset} points to byte {position}, behind that offset: there {base} begins"
                )
            } else {
                continue;
            };
            self.index_problem(walk.place, &mut walk.offsets, at, offset, what);
        }
    }

    fn step_time_index(&mut self, walk: &mut Walk<'_>, header: &BatchHeader) {
        let before = walk.max_timestamp;
        walk.max_timestamp = before.max(header.max_timestamp.0);
        while let Some((at, entry)) = walk.times.next.filter(|(_, entry)| entry.offset <= header.last_offset()) {
            walk.times.advance();
            let max = if entry.offset < header.base_offset { before } else { walk.max_timestamp };
            if entry.timestamp.0 != max {
                let (time, offset) = (entry.timestamp.0, entry.offset);
                let what =
                    format!("the entry says that {time} is the largest timestamp up to offset {offset}, but {max} is");
                self.index_problem(walk.place, &mut walk.times, at, offset.0, what);
            }
        }
    }

    /// What can be said when all batches were seen.
    fn end(&mut self, walk: &mut Walk<'_>, aborted: &[AbortedTxn], is_cut_short: bool, compacted: bool) {
        let place = walk.place;
        while let Some((at, entry)) = walk.offsets.next.filter(|_| !is_cut_short) {
            walk.offsets.advance();
            let OffsetPosition { offset, position } = entry;
            let what = format!("the entry of offset {offset} points to byte {position}, where no batch begins");
            self.index_problem(place, &mut walk.offsets, at, offset, what);
        }
        while let Some((at, entry)) = walk.times.next.filter(|_| !is_cut_short) {
            walk.times.advance();
            let what = format!(
                "the entry of time {} is of offset {}, which the segment does not have",
                entry.timestamp.0, entry.offset
            );
            self.index_problem(place, &mut walk.times, at, entry.offset.0, what);
        }
        // A segment that is no longer written to has an entry for its largest timestamp, by which retention goes.
        let last = walk.times.last.map_or(-1, |entry| entry.timestamp.0);
        let is_complete = place.next.is_some() || place.clean;
        if walk.times.is_there && !is_cut_short && is_complete && !place.is_read && last < walk.max_timestamp {
            let what = format!("its last timestamp is {last}, but the segment's largest is {}", walk.max_timestamp);
            let then = "retention by time takes the segment for older than it is";
            self.file_problem(&walk.times.path.clone(), what, then);
        }
        let path = place.file(txn_index::SUFFIX);
        let fate = if place.is_read {
            "it is made anew"
        } else {
            "read-committed consumers may be given what was aborted, or denied what was not"
        };
        let mut told = Told::default();
        for (number, txn) in aborted.iter().enumerate() {
            let has_marker = compacted || is_cut_short || walk.aborts.contains(&txn.last_offset.0);
            let is_ordered = txn.first_offset <= txn.last_offset;
            if (!has_marker || !is_ordered) && told.may_tell() {
                self.problem(Problem {
                    file: path.clone(),
                    position: Some((number * txn_index::ENTRY_BYTES) as u64),
                    offset: Some(txn.last_offset),
                    what: format!(
                        "the entry of the transaction from {} to {} has no abort marker at its end",
                        txn.first_offset, txn.last_offset
                    ),
                    at_next_start: fate.to_owned(),
                });
            }
        }
        let untold = [
            (walk.log.clone(), walk.chain_told.untold() + walk.records_told.untold()),
            (place.dir.join(LEADER_EPOCHS), walk.epochs_told.untold()),
            (walk.offsets.path.clone(), walk.offsets.told.untold()),
            (walk.times.path.clone(), walk.times.told.untold()),
            (path, told.untold()),
        ];
        for (file, count) in untold.into_iter().filter(|(_, count)| *count > 0) {
            self.file_problem(
                &file,
                format!("{count} more of the kind are not told one by one"),
                "as with those above",
            );
        }
    }
}
