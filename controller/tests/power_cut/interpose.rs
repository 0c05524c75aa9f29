//! Stands in for the functions of the C library that change files, and records what they did to one directory.
//!
//! The executable's own symbols come before the library's, so std and sled call these. Each makes the system call that
//! the library's function would make.
#![allow(unsafe_code)]

use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use libc::{c_char, c_int, c_uint, c_void, mode_t, off64_t, size_t, ssize_t};

use crate::disk::{Operation, Recorder};

static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);

/// Records until it is dropped.
pub struct Recording;

pub fn start(recorder: &Recorder) -> Recording {
    *RECORDER.lock().expect("one test records") = Some(recorder.clone());
    Recording
}

impl Drop for Recording {
    fn drop(&mut self) {
        *RECORDER.lock().expect("one test records") = None;
    }
}

fn recorder() -> Option<Recorder> {
    RECORDER.lock().ok().and_then(|recorder| recorder.clone())
}

/// The path of an open file of the recorded directory.
fn path_of(recorder: &Recorder, fd: c_int) -> Option<PathBuf> {
    recorder.relative(&std::fs::read_link(format!("/proc/self/fd/{fd}")).ok()?)
}

/// # Safety
/// `path` is a C string.
unsafe fn path_at(recorder: &Recorder, path: *const c_char) -> Option<PathBuf> {
    // SAFETY: as promised.
    let path = unsafe { CStr::from_ptr(path) };
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let parent = path.parent()?.canonicalize().ok()?;
    recorder.relative(&parent.join(path.file_name()?))
}

/// Makes the call with the record locked, and records what it did if it succeeded.
fn recorded<T: PartialOrd + Default>(
    fd: c_int,
    call: impl FnOnce() -> T,
    operation: impl FnOnce(PathBuf, &T) -> Option<Operation>,
) -> T {
    let Some(recorder) = recorder() else { return call() };
    let Some(path) = path_of(&recorder, fd) else { return call() };
    let mut operations = recorder.operations();
    let result = call();
    if result >= T::default() {
        operations.extend(operation(path, &result));
    }
    result
}

/// # Safety
/// `bytes` points to `count` readable bytes.
unsafe fn write_at(fd: c_int, bytes: *const c_void, count: size_t, offset: off64_t) -> ssize_t {
    recorded(
        fd,
        // SAFETY: the caller's promise is the system call's demand.
        || unsafe { libc::syscall(libc::SYS_pwrite64, fd, bytes, count, offset) as ssize_t },
        |path, written| {
            // SAFETY: `written` is at most `count`.
            let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), *written as usize) };
            Some(Operation::Write { path, offset: offset as u64, bytes: bytes.to_vec() })
        },
    )
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, count: size_t, offset: off64_t) -> ssize_t {
    // SAFETY: the same contract.
    unsafe { write_at(fd, bytes, count, offset) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, bytes: *const c_void, count: size_t, offset: off64_t) -> ssize_t {
    // SAFETY: the same contract.
    unsafe { write_at(fd, bytes, count, offset) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, count: size_t) -> ssize_t {
    recorded(
        fd,
        // SAFETY: the caller's promise is the system call's demand.
        || unsafe { libc::syscall(libc::SYS_write, fd, bytes, count) as ssize_t },
        |path, written| {
            // SAFETY: asks for a file position, which any descriptor allows; the write has just moved it.
            let end = unsafe { libc::lseek64(fd, 0, libc::SEEK_CUR) };
            // SAFETY: `written` is at most `count`.
            let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), *written as usize) };
            Some(Operation::Write { path, offset: end as u64 - *written as u64, bytes: bytes.to_vec() })
        },
    )
}

fn truncate(fd: c_int, length: off64_t) -> c_int {
    recorded(
        fd,
        // SAFETY: takes numbers only.
        || unsafe { libc::syscall(libc::SYS_ftruncate, fd, length) as c_int },
        |path, _| Some(Operation::Truncate { path, length: length as u64 }),
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn ftruncate64(fd: c_int, length: off64_t) -> c_int {
    truncate(fd, length)
}

#[unsafe(no_mangle)]
pub extern "C" fn ftruncate(fd: c_int, length: off64_t) -> c_int {
    truncate(fd, length)
}

fn sync(fd: c_int, call: libc::c_long) -> c_int {
    let is_dir = std::fs::metadata(format!("/proc/self/fd/{fd}")).is_ok_and(|metadata| metadata.is_dir());
    recorded(
        fd,
        // SAFETY: takes numbers only.
        || unsafe { libc::syscall(call, fd) as c_int },
        |path, _| Some(if is_dir { Operation::SyncDir(path) } else { Operation::Sync(path) }),
    )
}

#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, libc::SYS_fsync)
}

#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, libc::SYS_fdatasync)
}

/// Starts and waits for the writing of pages; promises neither metadata nor that the disk has emptied its cache.
#[unsafe(no_mangle)]
pub extern "C" fn sync_file_range(fd: c_int, offset: off64_t, count: off64_t, flags: c_uint) -> c_int {
    // SAFETY: takes numbers only.
    unsafe { libc::syscall(libc::SYS_sync_file_range, fd, offset, count, flags) as c_int }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's promise is the system call's demand.
    let call = || unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) as c_int };
    let Some(recorder) = recorder() else { return call() };
    // SAFETY: `path` is a C string.
    let Some(relative) = (unsafe { path_at(&recorder, path) }) else { return call() };
    let mut operations = recorder.operations();
    // SAFETY: `path` is a C string.
    let was_there = unsafe { libc::access(path, libc::F_OK) } == 0;
    let fd = call();
    if fd >= 0 && flags & libc::O_CREAT != 0 && !was_there {
        operations.push(Operation::Create(relative));
    } else if fd >= 0 && flags & libc::O_TRUNC != 0 {
        operations.push(Operation::Truncate { path: relative, length: 0 });
    }
    fd
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the same contract.
    unsafe { open64(path, flags, mode) }
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the caller's promise is the system call's demand.
    let call = || unsafe { libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0) as c_int };
    let Some(recorder) = recorder() else { return call() };
    // SAFETY: both are C strings.
    let names = unsafe { (path_at(&recorder, from), path_at(&recorder, to)) };
    let (Some(from), Some(to)) = names else { return call() };
    let mut operations = recorder.operations();
    let result = call();
    if result == 0 {
        operations.push(Operation::Rename { from, to });
    }
    result
}

/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller's promise is the system call's demand.
    let call = || unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) as c_int };
    let Some(recorder) = recorder() else { return call() };
    // SAFETY: `path` is a C string.
    let Some(relative) = (unsafe { path_at(&recorder, path) }) else { return call() };
    let mut operations = recorder.operations();
    let result = call();
    if result == 0 {
        operations.push(Operation::Unlink(relative));
    }
    result
}
