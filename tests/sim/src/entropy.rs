//! The kernel's randomness, replaced for this process: `getrandom` answers from a generator of the calling thread,
//! seeded by `on_seeded_thread`. Hash tables (`RandomState`) and the crates that use `rand` all draw
//! from there, so nothing that runs inside a simulation differs between two runs of one seed.

use std::cell::Cell;

thread_local! {
    /// The state of SplitMix64; 0 until seeded, when the kernel is asked.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

fn next() -> u64 {
    STATE.with(|state| {
        let mut rng = odradek_common::rng::SplitMix64::new(state.get());
        let value = odradek_common::rng::Rng::next_u64(&mut rng);
        // One step of the generator's own counter.
        state.set(state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        value
    })
}

/// Runs `work` on a new thread whose every random bit comes from `seed`. A new thread, since a hash table's keys are
/// drawn once per thread. Panics when the work panicked.
pub fn on_seeded_thread<T: Send + 'static>(seed: u64, work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().name(format!("seed-{seed}")).stack_size(16 << 20).spawn(move || {
        STATE.with(|state| state.set(seed.wrapping_mul(2).wrapping_add(1)));
        work()
    });
    match thread.expect("the kernel gives a thread").join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The C library's `getrandom`, which the standard library and the `getrandom` crate call.
///
/// # Safety
/// `buffer` points to `len` writable bytes, as for the function of the C library.
// SAFETY: the name and the signature are those of the C library's function; the body writes exactly `len` bytes.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut libc::c_void, len: libc::size_t, flags: libc::c_uint) -> libc::ssize_t {
    if STATE.with(Cell::get) == 0 {
        // SAFETY: the arguments are passed on as they came.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, len, flags) as libc::ssize_t };
    }
    // SAFETY: the caller gives `len` writable bytes at `buffer`.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), len) };
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&next().to_le_bytes()[..chunk.len()]);
    }
    len as libc::ssize_t
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::hash::{BuildHasher, RandomState};

    #[test]
    fn a_seed_decides_hashes_and_random_numbers() {
        let draw = |seed| {
            super::on_seeded_thread(seed, || {
                let map: HashMap<u32, u32> = (0..100).map(|n| (n, n)).collect();
                (RandomState::new().hash_one(7), map.into_keys().collect::<Vec<_>>())
            })
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
