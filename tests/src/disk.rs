//! A disk small enough to be filled.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, ensure};

use crate::skip;

/// A file system of its own in memory, for as long as this lives.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
    mebibytes: u32,
}

impl SmallDisk {
    /// `None`, and said so, where mounting is not permitted.
    pub fn mount(path: PathBuf, mebibytes: u32) -> anyhow::Result<Option<Self>> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "odradek-test"]).arg(&path);
        let mounted = command.output();
        if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
            skip("full disks: mounting a small tmpfs is not permitted here");
            return Ok(None);
        }
        Ok(Some(Self { path, mebibytes }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves no page free, by making the disk as small as what is on it: that costs no memory, however large it is.
    pub fn fill(&self) -> anyhow::Result<()> {
        // Who writes meanwhile makes the size one that is too small.
        crate::wait_for("the disk is full", std::time::Duration::from_secs(10), || {
            let used = rustix::fs::statvfs(&self.path)?;
            let pages = used.f_blocks - used.f_bfree;
            let output = self.resize(&(pages * used.f_frsize).to_string())?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Ok(Some(()))
        })
    }

    pub fn clear(&self) -> anyhow::Result<()> {
        let output = self.resize(&format!("{}m", self.mebibytes))?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Keeps what is on it.
    pub fn copy_to(&self, to: &Path) -> anyhow::Result<()> {
        let output = Command::new("cp").arg("-a").arg(&self.path).arg(to).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    fn resize(&self, size: &str) -> anyhow::Result<Output> {
        let mut command = Command::new("mount");
        command.args(["-o", &format!("remount,size={size}")]).arg(&self.path);
        command.output().context("mount")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a broker that is about to be killed may still have files open there.
        let _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}
