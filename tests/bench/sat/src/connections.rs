//! `sat idle`: connections that are open and say nothing, as most of a large cluster's are; and `sat delete`.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::{Args, Buf, Conn, Cur, Res, UNKNOWN_TOPIC_OR_PARTITION, say};

/// A broker that does not answer one connection within it is late with all of them.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What a client asks first, ApiVersions v0. Its answer opens with an error code.
fn greet(conn: &mut Conn) -> Res<()> {
    let error = Cur(conn.call(Buf::request(18, 0, 0).frame())?).i16();
    if error == 0 { Ok(()) } else { Err(format!("ApiVersions: error {error}").into()) }
}

/// Opens the connections, prints READY, and holds them until standard input ends; then each must answer still.
pub fn idle(a: &Args) -> Res<()> {
    let bootstrap = a.str("bootstrap", "127.0.0.1:9092");
    let brokers: Vec<&str> = bootstrap.split(',').collect();
    let count = usize::try_from(a.num("connections", 1_000))?;
    let begun = Instant::now();
    let mut open = Vec::with_capacity(count);
    for broker in brokers.iter().cycle().take(count) {
        let mut conn = Conn::open(broker)?;
        conn.stream.set_read_timeout(Some(TIMEOUT))?;
        greet(&mut conn)?;
        open.push(conn);
    }
    let opened = begun.elapsed().as_secs_f64();
    say("READY");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    let errors = open.iter_mut().map(greet).filter(Result::is_err).count();
    say(&format!("{{\"run\":\"idle\",\"connections\":{count},\"opened_s\":{opened:.3},\"errors\":{errors}}}"));
    if errors > 0 { Err(format!("{errors} of {count} connections were lost").into()) } else { Ok(()) }
}

/// The names of all topics. Asked by name, a broker may make the topic that it does not find.
fn topics(conn: &mut Conn) -> Res<Vec<String>> {
    let mut b = Buf::request(3, 1, 0);
    b.i32(-1);
    let mut c = Cur(conn.call(b.frame())?);
    for _ in 0..c.i32() {
        c.i32();
        c.string();
        c.i32();
        c.string();
    }
    c.i32();
    let mut names = Vec::new();
    for _ in 0..c.i32() {
        c.i16();
        names.push(c.string());
        c.i8();
        for _ in 0..c.i32() {
            c.i16();
            c.i32();
            c.i32();
            for _ in 0..2 {
                for _ in 0..c.i32() {
                    c.i32();
                }
            }
        }
    }
    Ok(names)
}

/// Deletes topics by DeleteTopics v1, and returns when the first broker of `--bootstrap` names them no more.
pub fn delete(a: &Args) -> Res<()> {
    let (topics, bootstrap) = (a.str("topic", "sat"), a.str("bootstrap", "127.0.0.1:9092"));
    let wanted: Vec<&str> = topics.split(',').collect();
    let mut conn = Conn::open(bootstrap.split(',').next().unwrap_or_default())?;
    let mut b = Buf::request(20, 1, 0);
    b.i32(i32::try_from(wanted.len())?);
    for topic in &wanted {
        b.string(topic);
    }
    b.i32(60_000);
    let mut c = Cur(conn.call(b.frame())?);
    c.i32();
    for _ in 0..c.i32() {
        let (topic, error) = (c.string(), c.i16());
        if error != 0 && error != UNKNOWN_TOPIC_OR_PARTITION {
            return Err(format!("delete topic {topic}: error {error}").into());
        }
    }
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let there = self::topics(&mut conn)?;
        let Some(left) = there.iter().find(|name| wanted.contains(&name.as_str())) else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(format!("{left} is there still").into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
