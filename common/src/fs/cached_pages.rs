//! How much of a file is in the page cache, by one system call that neither touches the pages nor begins to read what is not
//! there. Linux has it since 6.5.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

const PAGE_BYTES: u64 = 4096;
/// The number of the call, which `libc` does not name yet; the same wherever numbers are of the common table.
const CACHESTAT: libc::c_long = 451;

/// As the kernel has them.
#[repr(C)]
struct Range {
    offset: u64,
    len: u64,
}

#[repr(C)]
#[derive(Default)]
struct Counts {
    cached: u64,
    dirty: u64,
    written_back: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Whether all pages of a range are in the page cache, some perhaps still being read. `None`: the kernel does not tell.
pub(super) fn all_present(file: &File, offset: u64, len: u64) -> Option<bool> {
    static IS_REFUSED: AtomicBool = AtomicBool::new(false);
    if IS_REFUSED.load(Ordering::Relaxed) {
        return None;
    }
    let range = Range { offset, len };
    let mut counts = Counts::default();
    // SAFETY: the descriptor is open and both structures, laid out as the kernel wants them, outlive the call, which reads
    // the one and writes the other.
    #[allow(unsafe_code)]
    let result = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut counts, 0u32) };
    if result != 0 {
        IS_REFUSED.store(true, Ordering::Relaxed);
        return None;
    }
    let pages = (offset + len).div_ceil(PAGE_BYTES) - offset / PAGE_BYTES;
    Some(counts.cached >= pages)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_nobody_has_read_is_not_there_and_a_look_does_not_bring_it() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(8 << 20).expect("a hole");
        file.write_all_at(&[7; 5000], 100).expect("written");
        let Some(written) = all_present(&file, 100, 5000) else {
            // A kernel that does not tell is not asked again.
            assert_eq!(all_present(&file, 0, 1), None);
            return;
        };
        assert!(written);
        for _ in 0..2 {
            assert_eq!(all_present(&file, 4 << 20, 1 << 20), Some(false));
            assert_eq!(all_present(&file, 0, 1 << 20), Some(false), "some of it");
        }
    }
}
