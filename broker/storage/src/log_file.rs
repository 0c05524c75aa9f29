//! A segment's file as readers get it. They read when no lock is held and long after the look-up, and what they come upon
//! is the directory's end all the same.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;

use odradek_common::fs::{Advice, File};

use crate::dir::LogDir;

#[derive(Debug)]
pub(crate) struct LogFile {
    pub file: Arc<dyn File>,
    pub path: PathBuf,
    pub log_dir: Arc<LogDir>,
}

impl File for LogFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset).inspect_err(|error| {
            if error.kind() != ErrorKind::Interrupted {
                self.log_dir.fail("reading", self.path.clone(), error);
            }
        })
    }

    fn write_all_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buffers, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn advise(&self, offset: u64, len: u64, advice: Advice) -> io::Result<()> {
        self.file.advise(offset, len, advice)
    }

    fn is_cached(&self, offset: u64, len: usize) -> bool {
        self.file.is_cached(offset, len)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.file.descriptor()
    }
}
