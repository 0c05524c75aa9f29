//! `odradek log dump`: what the files of a log hold.

use std::io;
use std::path::{Path, PathBuf};

use odradek_broker_storage::files::{self, BatchFile, FileDamage, FileKind, FoundBatch};
use odradek_broker_storage::{checkpoints, verify};
use odradek_common::Offset;
use odradek_common::fs::{Fs, read_file};
use odradek_records::DECOMPRESSED_BYTES_MAX;

use super::super::Context;
use super::decoders::{self, Kind};
use super::printer::Printer;
use super::rows::{Batch, Checkpoint, Control, Damaged, Entry, Shown, pairs};
use crate::args::LogDump;
use crate::error::CliError;

/// A `meta.properties` or a marker is far smaller.
const SMALL_BYTES_MAX: u64 = 1 << 20;

pub fn execute(context: &Context, command: &LogDump) -> Result<(), CliError> {
    let fs = &*context.world.fs;
    let mut printer = Printer::new(context.global.output);
    let mut dump = Dump { fs, command, printer: &mut printer, damaged: 0 };
    for path in &command.paths {
        for (path, kind) in dump.files(path)? {
            dump.file(&path, kind)?;
        }
    }
    let damaged = dump.damaged;
    printer.flush()?;
    match damaged {
        0 => Ok(()),
        1 => Err(CliError::failed("one place is damaged; `odradek log verify` says what becomes of it")),
        many => {
            Err(CliError::failed(format!("{many} places are damaged; `odradek log verify` says what becomes of them")))
        }
    }
}

struct Dump<'a> {
    fs: &'a dyn Fs,
    command: &'a LogDump,
    printer: &'a mut Printer,
    /// Damage that was told.
    damaged: usize,
}

impl Dump<'_> {
    fn files(&self, path: &Path) -> Result<Vec<(PathBuf, FileKind)>, CliError> {
        match self.fs.read_dir(path) {
            Ok(_) => {
                let log_dir = match verify::is_partition_dir(self.fs, path) {
                    Ok(true) => path.parent().unwrap_or(path),
                    _ => path,
                };
                if verify::is_in_use(self.fs, log_dir).unwrap_or(false) {
                    eprintln!(
                        "odradek: {} is in use: what a broker is just writing may look cut off",
                        log_dir.display()
                    );
                }
                let found = files::list(self.fs, path).map_err(|error| unreadable(path, &error))?;
                if found.is_empty() {
                    return Err(CliError::failed(format!("{}: there are no files of a log in it", path.display())));
                }
                Ok(found)
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => match FileKind::of(path) {
                Some(kind) => Ok(vec![(path.to_owned(), kind)]),
                None => Err(CliError::usage(format!(
                    "{}: by its name this is no file of a log; known are .log, .index, .timeindex, .txnindex, .snapshot, \
                     .checkpoint and the files of a log directory",
                    path.display()
                ))),
            },
            Err(error) => Err(unreadable(path, &error)),
        }
    }

    /// Whether offsets from `first` to `last` concern whoever asked.
    fn wants(&self, first: Offset, last: Offset) -> bool {
        self.command.from.is_none_or(|from| last.0 >= from) && self.command.to.is_none_or(|to| first.0 < to)
    }

    fn file(&mut self, path: &Path, kind: FileKind) -> Result<(), CliError> {
        self.printer.begin(&path.display().to_string())?;
        let read = match kind {
            FileKind::Log { .. } => return self.batches(path, false),
            FileKind::MetadataSnapshot { .. } => return self.batches(path, true),
            FileKind::OffsetIndex { base } => files::read_offset_index(self.fs, path, base).map(|index| {
                let rows =
                    index.entries.into_iter().filter(|entry| self.wants(Offset(entry.offset), Offset(entry.offset)));
                (rows.map(Entry::Offset).collect(), index.torn_bytes)
            }),
            FileKind::TimeIndex { base } => files::read_time_index(self.fs, path, base).map(|index| {
                let rows = index.entries.into_iter().filter(|entry| self.wants(entry.offset, entry.offset));
                (rows.map(Entry::Time).collect(), index.torn_bytes)
            }),
            FileKind::TxnIndex { .. } => files::read_txn_index(self.fs, path).map(|index| {
                let rows = index.entries.into_iter().filter(|txn| self.wants(txn.first_offset, txn.last_offset));
                (rows.map(Entry::Aborted).collect(), index.torn_bytes)
            }),
            FileKind::ProducerSnapshot { .. } => files::read_producer_snapshot(self.fs, path)
                .map(|producers| (producers.into_iter().map(Entry::Producer).collect(), 0)),
            FileKind::LeaderEpochs => files::read_leader_epochs(self.fs, path)
                .map(|epochs| (epochs.into_iter().map(Entry::Epoch).collect::<Vec<_>>(), 0)),
            FileKind::Offsets => checkpoints::read_offsets(self.fs, path).map(|offsets| {
                let rows = offsets.into_iter().map(|(partition, offset)| Checkpoint {
                    topic: partition.topic,
                    partition: partition.partition.0,
                    offset: offset.0,
                });
                (rows.map(Entry::Checkpoint).collect(), 0)
            }),
            FileKind::PartitionMetadata | FileKind::MetaProperties | FileKind::CleanShutdown => {
                read_file(self.fs, path, SMALL_BYTES_MAX).map(|bytes| (pairs(kind, &bytes), 0))
            }
        };
        let (entries, torn_bytes): (Vec<Entry>, usize) = match read {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return self.damage(None, &error),
            result => result.map_err(|error| unreadable(path, &error))?,
        };
        for entry in &entries {
            entry.print(self.printer)?;
        }
        match torn_bytes {
            0 => Ok(()),
            torn => self.damage(None, &format!("{torn} bytes follow the last whole entry")),
        }
    }

    fn damage(&mut self, position: Option<u64>, what: &impl ToString) -> Result<(), CliError> {
        self.damaged += 1;
        self.printer.row(&Damaged { position, damage: what.to_string() })
    }

    fn batches(&mut self, path: &Path, is_snapshot: bool) -> Result<(), CliError> {
        let failed = |error: io::Error| unreadable(path, &error);
        let decoder = match decoders::of_file(self.command.decoders, path) {
            None if is_snapshot && !self.command.decoders.no_decoder => Some(Kind::Metadata),
            decoder => decoder,
        };
        let file = BatchFile::open(self.fs, path).map_err(failed)?;
        for found in file.batches(0) {
            let found = match found {
                Ok(found) => found,
                Err(FileDamage::Io(error)) => return Err(failed(error)),
                Err(FileDamage::Batch { position, error }) => return self.damage(Some(position), &error),
            };
            if self.command.max_bytes.is_some_and(|max| found.position >= max) {
                break;
            }
            let header = &found.header;
            if !self.wants(header.base_offset, header.last_offset()) {
                continue;
            }
            self.printer.row(&Batch::new(&found))?;
            if let Err(error) = found.crc {
                self.damage(Some(found.position), &error)?;
            } else if self.command.records {
                self.records(path, &file, &found, decoder)?;
            }
        }
        Ok(())
    }

    fn records(
        &mut self,
        path: &Path,
        file: &BatchFile,
        found: &FoundBatch,
        decoder: Option<Kind>,
    ) -> Result<(), CliError> {
        let batch = file.read(found).map_err(|error| unreadable(path, &error))?;
        let records = match batch.records(DECOMPRESSED_BYTES_MAX) {
            Ok(records) => records,
            Err(error) => return self.damage(Some(found.position), &error),
        };
        for record in records {
            let record = match record {
                Ok(record) => record,
                Err(error) => return self.damage(Some(found.position), &error),
            };
            if !self.wants(record.offset, record.offset) {
                continue;
            }
            if found.header.attributes.is_control() {
                self.printer.below(&Control::new(&record))?;
            } else {
                self.printer.below(&Shown::new(&record, decoder))?;
            }
        }
        Ok(())
    }
}

fn unreadable(path: &Path, error: &io::Error) -> CliError {
    CliError::failed(format!("{}: {error}", path.display()))
}
