//! Latencies, what processes have used, and the line of JSON that tells them.

use std::io::Write;

use crate::Res;

/// Counts by value with under 2 % error: 64 steps to each power of two.
pub struct Histogram(Vec<u64>);

impl Histogram {
    pub fn new() -> Self {
        Self(vec![0; 64 * 40])
    }
    pub fn add(&mut self, micros: u64) {
        let v = micros.max(64);
        let power = 63 - v.leading_zeros() as usize;
        let slot = (power - 6) * 64 + ((v >> (power - 6)) as usize - 64);
        self.0[slot.min(64 * 40 - 1)] += 1;
    }
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a += b);
    }
    pub fn at(&self, q: f64) -> u64 {
        let want = (self.0.iter().sum::<u64>() as f64 * q).ceil() as u64;
        let mut seen = 0;
        for (slot, n) in self.0.iter().enumerate() {
            seen += n;
            if seen >= want.max(1) {
                return ((slot % 64 + 64) as u64) << (slot / 64);
            }
        }
        0
    }
    pub fn json(&self) -> String {
        format!(
            "\"p50_us\":{},\"p99_us\":{},\"p999_us\":{},\"max_us\":{}",
            self.at(0.5),
            self.at(0.99),
            self.at(0.999),
            self.at(1.0)
        )
    }
}

/// CPU-seconds used so far by these processes, and their peak resident memory in MiB.
pub fn usage(pids: &[u32]) -> (f64, f64) {
    let mut ticks = 0u64;
    let mut kib = 0u64;
    for pid in pids {
        if let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            let f: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
            ticks += f[11].parse::<u64>().unwrap() + f[12].parse::<u64>().unwrap();
        }
        if let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) {
            let hwm = status.lines().find(|l| l.starts_with("VmHWM")).unwrap_or("0 0");
            kib += hwm.split_whitespace().nth(1).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    (ticks as f64 / 100.0, kib as f64 / 1024.0)
}

/// One line to stdout; a reader that has gone away is no error of ours.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

#[allow(clippy::too_many_arguments)]
pub fn report(
    verb: &str,
    bytes: u64,
    records: u64,
    took: f64,
    h: &Histogram,
    pids: &[u32],
    cpu: f64,
    errors: u64,
) -> Res<()> {
    let gib = bytes as f64 / (1u64 << 30) as f64;
    let (_, peak) = usage(pids);
    let mut line = format!(
        "{{\"run\":\"{verb}\",\"mib_s\":{:.1},\"records_s\":{:.0},\"seconds\":{took:.2},\"errors\":{errors},{}",
        bytes as f64 / (1 << 20) as f64 / took,
        records as f64 / took,
        h.json()
    );
    if !pids.is_empty() && bytes > 0 {
        line += &format!(",\"server_cpu_s\":{cpu:.2},\"cpu_s_per_gib\":{:.3},\"peak_rss_mib\":{peak:.0}", cpu / gib);
    }
    say(&format!("{line}}}"));
    if errors > 0 || bytes == 0 { Err(format!("{errors} errors, {bytes} bytes").into()) } else { Ok(()) }
}
