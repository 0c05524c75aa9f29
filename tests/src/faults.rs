//! A TCP proxy that can be cut, black-holed or slowed down: the network between two parties of a test.
//!
//! `Mode::Cut` resets what is open and refuses what is new, as a crashed peer does. `Mode::BlackHole` keeps connections
//! open and moves no byte, as a partitioned network does. Plain threads and short read timeouts; enough for tests.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;

/// How often a proxied direction looks whether its mode has changed.
const TICK: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    Pass = 0,
    Cut = 1,
    BlackHole = 2,
}

#[derive(Debug)]
struct Shared {
    mode: AtomicU8,
    delay_ms: AtomicU64,
    closed: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
    target: String,
}

impl Shared {
    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::Relaxed) == mode as u8
    }
}

/// Listens on a port of its own and forwards to `target`.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    address: String,
}

impl Proxy {
    /// A proxy on `port` of 127.0.0.1 in front of `target` (`host:port`), which need not be listening yet.
    pub fn start(port: u16, target: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("listen on {port}"))?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::new(Shared {
            mode: AtomicU8::new(Mode::Pass as u8),
            delay_ms: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            open: Mutex::new(Vec::new()),
            target: target.to_owned(),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.closed.load(Ordering::Relaxed) {
                    return;
                }
                if !accepting.is(Mode::Cut) {
                    let shared = accepting.clone();
                    std::thread::spawn(move || connect(&shared, client));
                }
            }
        });
        Ok(Self { shared, address })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn set(&self, mode: Mode) {
        self.shared.mode.store(mode as u8, Ordering::Relaxed);
        if mode == Mode::Cut {
            self.shared.close_all();
        }
    }

    /// Every chunk of bytes waits this long, in both directions.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.shared.close_all();
        // Wakes the accepting thread, so that it sees the end.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn close_all(&self) {
        for stream in self.open.lock().expect("no panic under this lock").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn connect(shared: &Arc<Shared>, client: TcpStream) {
    while shared.is(Mode::BlackHole) {
        std::thread::sleep(TICK);
    }
    let Ok(server) = TcpStream::connect(&shared.target) else { return };
    let pair = [&client, &server].map(TcpStream::try_clone);
    let [Ok(client_again), Ok(server_again)] = pair else { return };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
        if let Ok(copy) = stream.try_clone() {
            shared.open.lock().expect("no panic under this lock").push(copy);
        }
    }
    let there = shared.clone();
    std::thread::spawn(move || pump(&there, client_again, server_again));
    pump(shared, server, client);
}

fn pump(shared: &Shared, mut from: TcpStream, mut to: TcpStream) {
    let _ = from.set_read_timeout(Some(TICK));
    let mut buffer = vec![0; 64 << 10];
    while !shared.closed.load(Ordering::Relaxed) && !shared.is(Mode::Cut) {
        if shared.is(Mode::BlackHole) {
            std::thread::sleep(TICK);
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                std::thread::sleep(Duration::from_millis(shared.delay_ms.load(Ordering::Relaxed)));
                // Bytes read just before the network went stay with it.
                while shared.is(Mode::BlackHole) {
                    std::thread::sleep(TICK);
                }
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
