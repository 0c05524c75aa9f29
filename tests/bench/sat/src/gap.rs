//! `sat gap`: for how long nothing is acknowledged while a broker dies.

use std::time::{Duration, Instant};

use crate::{Args, Conn, Res, create, filler, leaders, produce_answer, produce_frame, record_batch, say};

/// Any broker that answers tells where partition 0 is led.
fn find_leader(bootstrap: &str, topic: &str) -> Option<String> {
    bootstrap.split(',').find_map(|b| leaders(b, topic).ok()?.first()?.clone())
}

pub fn gap(a: &Args) -> Res<()> {
    let (topic, bootstrap) = (a.str("topic", "sat-gap"), a.str("bootstrap", "127.0.0.1:9092"));
    let mut one = Args(a.0.clone());
    one.0.insert("partitions".into(), "1".into());
    one.0.entry("rf".into()).or_insert("3".into());
    one.0.entry("min-isr".into()).or_insert("2".into());
    say(&format!("LEADER {}", create(&one, &topic)?[0]));
    let frame = produce_frame(&topic, 0, &record_batch(1, |_| filler(100, 1)), -1, 1);
    let until = Instant::now() + Duration::from_secs(a.num("seconds", 20) as u64);
    let (mut acked, mut errors, mut longest, mut last) = (0u64, 0u64, Duration::ZERO, Instant::now());
    let mut conn: Option<Conn> = None;
    while Instant::now() < until {
        if conn.is_none() {
            conn = find_leader(&bootstrap, &topic).and_then(|l| Conn::open(&l).ok());
            if let Some(c) = &conn {
                c.stream.set_read_timeout(Some(Duration::from_millis(1000)))?;
            }
        }
        let answer = conn.as_mut().map(|c| c.send(&frame).and_then(|()| Ok(produce_answer(c.recv()?).0)));
        if let Some(Ok(0)) = answer {
            acked += 1;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        } else {
            errors += 1;
            conn = None;
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    longest = longest.max(last.elapsed());
    say(&format!("{{\"run\":\"gap\",\"acked\":{acked},\"errors\":{errors},\"longest_ms\":{}}}", longest.as_millis()));
    Ok(())
}
