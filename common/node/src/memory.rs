//! How a process takes its memory from the kernel.

/// Keeps the kernel from backing this process with huge pages: a process that uses a few MiB would be charged with tens,
/// since each region that is touched at all counts 2 MiB. What was allocated before this call stays as it is; the allocator
/// is built so that it does not ask for huge pages then either.
///
/// # Errors
/// The kernel does not know the request; the process merely stays larger.
pub fn refuse_huge_pages() -> std::io::Result<()> {
    Ok(rustix::thread::disable_transparent_huge_pages(true)?)
}
