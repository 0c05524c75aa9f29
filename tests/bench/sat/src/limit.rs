//! `sat limit`: what the kernel alone costs a server on this machine: receiving, a checksum and a write, and sendfile. It
//! is the floor under every figure that a broker can reach here.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::{Args, Res, crc32c, say};

/// CPU-seconds of the calling thread.
fn thread_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

// The libc that every program here is linked to; declared by hand so that the meter needs nothing for it.
#[allow(unsafe_code)]
unsafe extern "C" {
    fn sendfile(out_fd: i32, in_fd: i32, offset: *mut i64, count: usize) -> isize;
}

pub fn limit(a: &Args) -> Res<()> {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    let path = format!("{}/sat-limit-{}", a.str("dir", "/tmp"), std::process::id());
    // A new file for each GiB, as a log rolls its segments: fresh pages cost more than overwritten ones.
    let segment = || -> Res<std::fs::File> {
        let f = std::fs::OpenOptions::new().create(true).truncate(true).read(true).write(true).open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(f)
    };
    let chunk = a.num("batch-bytes", 65_536) as usize;
    let seconds = Duration::from_secs(a.num("seconds", 5) as u64);
    let (mut file, size) = (segment()?, 1u64 << 30);
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    for verb in ["produce", "fetch"] {
        let client = std::thread::spawn(move || {
            let mut s = TcpStream::connect(addr).unwrap();
            let (mut buf, until) = (vec![7u8; chunk], Instant::now() + seconds);
            if verb == "produce" {
                while Instant::now() < until && s.write_all(&buf).is_ok() {}
            } else {
                while s.read(&mut buf).is_ok_and(|n| n > 0) {}
            }
        });
        let (mut s, _) = listener.accept()?;
        let (mut buf, mut bytes, mut sum) = (vec![0u8; chunk], 0u64, 0u32);
        let (mut t0, mut cpu0) = (Instant::now(), thread_cpu());
        if verb == "produce" {
            while s.read_exact(&mut buf).is_ok() {
                sum ^= crc32c(&buf);
                if bytes / size != (bytes + chunk as u64) / size {
                    file = segment()?;
                }
                file.write_all_at(&buf, bytes % size)?;
                bytes += chunk as u64;
            }
        } else {
            let have = 256 << 20;
            file.set_len(0)?;
            for at in (0..have as u64).step_by(chunk) {
                file.write_all_at(&buf, at)?;
            }
            let (t1, cpu1) = (Instant::now(), thread_cpu());
            (t0, cpu0) = (t1, cpu1);
            while t0.elapsed() < seconds {
                let mut offset = (bytes as i64) % have;
                // SAFETY: both descriptors are open for the whole call, and `offset` outlives it.
                #[allow(unsafe_code)]
                let n = unsafe { sendfile(s.as_raw_fd(), file.as_raw_fd(), &mut offset, 1 << 20) };
                if n <= 0 {
                    return Err("sendfile failed".into());
                }
                bytes += n as u64;
            }
        }
        let (took, cpu) = (t0.elapsed().as_secs_f64(), thread_cpu() - cpu0);
        drop(s);
        client.join().unwrap();
        std::hint::black_box(sum);
        let gib = bytes as f64 / (1u64 << 30) as f64;
        say(&format!(
            "{{\"run\":\"limit-{verb}\",\"mib_s\":{:.1},\"cpu_s_per_gib\":{:.3}}}",
            gib * 1024.0 / took,
            cpu / gib
        ));
    }
    Ok(())
}
