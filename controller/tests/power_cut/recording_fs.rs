//! Real files that record what is done to them.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use odradek_common::fs::{DirEntry, DiskSpace, File, Fs, OpenMode, RealFs};

use crate::disk::{Operation, Recorder};

#[derive(Clone)]
pub struct RecordingFs(Recorder);

struct RecordingFile {
    recorder: Recorder,
    path: PathBuf,
    file: Arc<dyn File>,
}

impl std::fmt::Debug for RecordingFs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordingFs")
    }
}

impl std::fmt::Debug for RecordingFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.path.fmt(f)
    }
}

impl RecordingFs {
    pub fn new(recorder: Recorder) -> Self {
        Self(recorder)
    }

    fn relative(&self, path: &Path) -> PathBuf {
        let parent = path.parent().expect("below the root").canonicalize().expect("its directory is there");
        self.0.relative(&parent.join(path.file_name().expect("a name"))).expect("below the root")
    }
}

impl Fs for RecordingFs {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let mut operations = self.0.operations();
        let was_there = path.exists();
        let file = RealFs.open(path, mode)?;
        let path = self.relative(path);
        if !was_there {
            operations.push(Operation::Create(path.clone()));
        }
        Ok(Arc::new(RecordingFile { recorder: self.0.clone(), path, file }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealFs.create_dir_all(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        RealFs.read_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut operations = self.0.operations();
        RealFs.rename(from, to)?;
        operations.push(Operation::Rename { from: self.relative(from), to: self.relative(to) });
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut operations = self.0.operations();
        RealFs.remove_file(path)?;
        operations.push(Operation::Unlink(self.relative(path)));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        RealFs.remove_dir_all(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        RealFs.exists(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut operations = self.0.operations();
        RealFs.sync_dir(path)?;
        operations.extend(self.0.relative(&path.canonicalize()?).map(Operation::SyncDir));
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        RealFs.lock(path)
    }

    fn space(&self, path: &Path) -> io::Result<DiskSpace> {
        RealFs.space(path)
    }
}

impl File for RecordingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_all_at(&self, buffers: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut operations = self.recorder.operations();
        self.file.write_all_at(buffers, offset)?;
        let bytes = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        operations.push(Operation::Write { path: self.path.clone(), offset, bytes });
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut operations = self.recorder.operations();
        self.file.set_len(length)?;
        operations.push(Operation::Truncate { path: self.path.clone(), length });
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut operations = self.recorder.operations();
        self.file.sync_data()?;
        operations.push(Operation::Sync(self.path.clone()));
        Ok(())
    }
}
