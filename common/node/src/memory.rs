//! How a process takes its memory from the kernel.

/// Keeps the kernel from backing this process with huge pages. The allocator asks for them, and then a process that uses
/// a few MiB is charged with tens: each region that is touched at all counts 2 MiB.
///
/// # Errors
/// The kernel does not know the request; the process merely stays larger.
pub fn refuse_huge_pages() -> std::io::Result<()> {
    Ok(rustix::thread::disable_transparent_huge_pages(true)?)
}
