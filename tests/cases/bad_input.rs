//! Bytes that no client of good will sends: Kafka's answer or a closed connection; never a panic, growth, or harm to
//! others.

use std::time::Duration;

use anyhow::{Context, ensure};
use odradek_tests::client::{Connection, NewTopic};
use odradek_tests::wire::{Batch, Reader, Writer, error};
use odradek_tests::{Cluster, Spec};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::values;

/// A broken connection is closed within this.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// What all the hostile frames together may add to a broker's memory.
const GROWTH_MAX: u64 = 64 << 20;

#[test]
fn a_broker_withstands_bad_bytes() {
    Spec::new(1, 1).run(|cluster| {
        let address = cluster.broker(1).address.clone();
        let mut client = cluster.client();
        client.create_topic(&NewTopic::new("good", 1, 1))?;
        client.produce("good", 0, &values("good", 10, 100))?;
        let mut witness = Connection::open(&address)?;
        let before = cluster.broker(1).resident()?;
        hostile_frames_close_only_their_connection(&address, &mut witness)?;
        random_bytes_do_no_harm(&address, &mut witness)?;
        mutated_requests_do_no_harm(&address, &mut witness)?;
        unknown_versions_are_answered_as_kafka_does(&address)?;
        corrupt_batches_are_refused_whole(cluster)?;
        many_idle_connections_do_no_harm(&address, &mut witness)?;
        let after = cluster.broker(1).resident()?;
        ensure!(cluster.is_attached() || after < before + GROWTH_MAX, "memory grew from {before} to {after} bytes");
        ensure!(cluster.broker(1).is_running(), "the broker lives");
        ensure!(client.read_all("good", 0, 0)?.len() == 10, "the records are there");
        Ok(())
    });
}

fn alive(witness: &mut Connection, after: &str) -> anyhow::Result<()> {
    let answer = witness.metadata(Some(&["good"]), false).with_context(|| format!("after {after}"))?;
    ensure!(answer.partition("good", 0).is_some_and(|p| p.leader == 1), "after {after}: {answer:?}");
    Ok(())
}

/// (name, bytes, whether the broker must close the connection).
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let request = |key, version, body: &dyn for<'a> Fn(&'a mut Writer) -> &'a mut Writer| {
        let mut writer = Writer::request(key, version, 1);
        body(&mut writer);
        writer.frame()
    };
    vec![
        ("a frame of 2 GiB", vec![0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 3]),
        ("a frame of negative length", vec![0xff, 0xff, 0xff, 0xff, 0, 0]),
        ("a frame over the limit", [&(105_000_000i32.to_be_bytes())[..], &[0; 64]].concat()),
        ("an empty frame", vec![0, 0, 0, 0]),
        ("a frame shorter than a header", vec![0, 0, 0, 3, 0, 3, 0]),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n".to_vec()),
        ("TLS", [&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03][..], &[7; 600]].concat()),
        ("an unknown API key", request(999, 0, &|w| w)),
        ("a negative API key", request(-7, 0, &|w| w)),
        ("an unknown version of Metadata", request(3, 99, &|w| w.i32(-1))),
        ("an unknown version of Produce", request(0, 99, &|w| w.i64(0))),
        ("2^31-1 topics", request(3, 1, &|w| w.i32(i32::MAX))),
        ("a string longer than the frame", request(3, 1, &|w| w.i32(1).i16(32_000).raw(b"x"))),
        (
            "2^31-1 partitions to produce",
            request(0, 8, &|w| w.i16(-1).i16(-1).i32(1_000).i32(1).string("good").i32(i32::MAX)),
        ),
        (
            "records of 2^31-1 bytes",
            request(0, 8, &|w| w.i16(-1).i16(-1).i32(1_000).i32(1).string("good").i32(1).i32(0).i32(i32::MAX)),
        ),
        (
            "2^31-1 topics to fetch",
            request(1, 11, &|w| w.i32(-1).i32(0).i32(1).i32(1).i8(0).i32(0).i32(-1).i32(i32::MAX)),
        ),
        // Flexible: an array whose compact count is 2^32-2, a tagged field of 2^32-1 bytes.
        ("a compact array without end", request(3, 12, &|w| w.raw(&[0, 0xff, 0xff, 0xff, 0xff, 0x0f]))),
        ("a header tag without end", request(3, 12, &|w| w.raw(&[1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]))),
        ("a varint of eleven bytes", request(3, 12, &|w| w.raw(&[0xff; 11]))),
    ]
}

fn hostile_frames_close_only_their_connection(address: &str, witness: &mut Connection) -> anyhow::Result<()> {
    for (name, bytes) in hostile() {
        let mut connection = Connection::open(address)?;
        connection.send_raw(&bytes)?;
        // Some answers are allowed (an error in Kafka's words); staying open and silent on a frame that is complete is
        // not. The first three are never complete: only their length can have been seen.
        connection.read_to_close(CLOSE_LIMIT).with_context(|| name.to_owned())?;
        alive(witness, name)?;
    }
    // A frame that is cut by the end of the connection.
    let mut whole = Writer::request(3, 1, 1);
    whole.i32(0);
    let whole = whole.frame();
    for cut in 0..whole.len() {
        Connection::open(address)?.send_raw(&whole[..cut])?;
    }
    alive(witness, "cut frames")
}

fn random_bytes_do_no_harm(address: &str, witness: &mut Connection) -> anyhow::Result<()> {
    let mut random = SmallRng::seed_from_u64(3);
    for round in 0..200 {
        let mut connection = Connection::open(address)?;
        let mut body = vec![0; random.random_range(1..2_000)];
        random.fill(&mut body[..]);
        let mut frame = (body.len() as i32).to_be_bytes().to_vec();
        if round % 2 == 0 && body.len() > 4 {
            // A header that leads into a decoder.
            body[..2].copy_from_slice(&random.random_range(0i16..80).to_be_bytes());
            body[2..4].copy_from_slice(&random.random_range(0i16..18).to_be_bytes());
        }
        frame.extend_from_slice(&body);
        let _ = connection.send_raw(&frame); // it may be closed already
    }
    alive(witness, "random bytes")
}

/// Good requests with a few bytes changed, several on one connection.
fn mutated_requests_do_no_harm(address: &str, witness: &mut Connection) -> anyhow::Result<()> {
    let mut random = SmallRng::seed_from_u64(4);
    let batch = Batch::of(&values("mutated", 3, 60)).encode();
    let mut produce = Writer::request(0, 8, 1);
    produce.i16(-1).i16(1).i32(100).i32(1).string("mutable").i32(1).i32(0).bytes(&batch);
    let mut fetch = Writer::request(1, 11, 1);
    fetch.i32(-1).i32(1).i32(1).i32(1 << 20).i8(0).i32(0).i32(-1).i32(1).string("good").i32(1);
    fetch.i32(0).i32(-1).i64(0).i64(-1).i32(1 << 20).i32(0).string("");
    let mut offsets = Writer::request(2, 5, 1);
    offsets.i32(-1).i8(0).i32(1).string("good").i32(1).i32(0).i32(-1).i64(-1);
    let mut metadata = Writer::request(3, 7, 1);
    metadata.i32(1).string("good").i8(0);
    let seeds = [produce.frame(), fetch.frame(), offsets.frame(), metadata.frame()];
    for round in 0..400 {
        let mut frame = seeds[round % seeds.len()].clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(8..frame.len());
            frame[at] = random.random();
        }
        let mut connection = Connection::open(address)?;
        let _ = connection.send_raw(&frame);
        if round % 50 == 49 {
            alive(witness, "mutated requests")?;
        }
    }
    Ok(())
}

fn unknown_versions_are_answered_as_kafka_does(address: &str) -> anyhow::Result<()> {
    let mut connection = Connection::open(address)?;
    // ApiVersions of a version from the future: answered in version 0, so that the client can step down (KIP-511).
    let mut request = connection.request(18, 77);
    request.raw(&[0, 2, b'x', 2, b'y', 0]);
    let body = connection.call(request)?;
    let mut answer = Reader(&body);
    let code = answer.i16()?;
    ensure!(code == error::UNSUPPORTED_VERSION, "error {code}");
    let offered = answer.list(|one| Ok((one.i16()?, one.i16()?, one.i16()?)))?;
    ensure!(
        offered.iter().any(|(key, _, most)| *key == 18 && *most >= 3),
        "ApiVersions itself is offered: {offered:?}"
    );
    // The connection goes on; and what is advertised is sane.
    let versions = connection.api_versions()?;
    ensure!(versions.iter().all(|(_, least, most)| *least <= *most), "ranges: {versions:?}");
    let produce = versions.iter().find(|(key, ..)| *key == 0).context("Produce is advertised")?;
    ensure!(produce.1 == 0, "Produce is advertised from v0 (KAFKA-18659): {produce:?}");
    for needed in [1, 2, 3, 19, 20, 22, 23] {
        ensure!(versions.iter().any(|(key, ..)| *key == needed), "API {needed} is advertised");
    }
    Ok(())
}

fn corrupt_batches_are_refused_whole(cluster: &Cluster) -> anyhow::Result<()> {
    let mut client = cluster.client();
    client.create_topic(&NewTopic::new("corrupt", 1, 1).config("max.message.bytes", 10_000))?;
    let (_, address) = client.leader("corrupt", 0)?;
    let good = Batch::of(&values("good", 5, 100)).encode();
    let changed = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        bytes
    };
    // The CRC made right again after the change.
    let resealed = |at: usize, to: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to);
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    };
    let corrupt = [error::CORRUPT_MESSAGE].as_slice();
    // What does not even hold together may be told by either word; Kafka's own choice varies with where it notices.
    let invalid = [error::CORRUPT_MESSAGE, error::INVALID_RECORD].as_slice();
    let huge = Batch::of(&values("huge", 1, 20_000)).encode();
    let table = [
        ("a flipped byte of a record", changed(good.len() - 3, 0xee), corrupt),
        ("a wrong CRC", changed(18, good[18] ^ 1), corrupt),
        ("a count that is too great", resealed(57, &1_000_000i32.to_be_bytes()), invalid),
        ("a negative count", resealed(57, &(-5i32).to_be_bytes()), invalid),
        ("a last offset delta that does not fit", resealed(23, &77i32.to_be_bytes()), invalid),
        ("a batch cut short", good[..good.len() - 10].to_vec(), invalid),
        ("a header alone", good[..61].to_vec(), invalid),
        ("half a header", good[..30].to_vec(), invalid),
        ("a batch that claims 2 GiB", changed(8, 0x7f), invalid),
        ("a batch larger than the topic allows", huge, [error::MESSAGE_TOO_LARGE].as_slice()),
    ];
    for (name, bytes, expected) in table {
        let mut connection = Connection::open(&address)?;
        let answer = connection.produce("corrupt", 0, &bytes, -1).with_context(|| name.to_owned())?;
        ensure!(expected.contains(&answer.error), "{name}: {answer:?}, not one of {expected:?}");
    }
    // An undefined codec, a control batch from a client, an unknown magic.
    for (name, bytes) in [
        ("codec 7", resealed(21, &7i16.to_be_bytes())),
        ("a control batch", resealed(21, &0x20i16.to_be_bytes())),
        ("a gzip batch that is none", resealed(21, &1i16.to_be_bytes())),
        ("magic 9", changed(16, 9)),
    ] {
        let answer = Connection::open(&address)?.produce("corrupt", 0, &bytes, -1);
        let refused = answer.as_ref().is_ok_and(|answer| answer.error != error::NONE);
        ensure!(refused, "{name}: {answer:?}");
    }
    ensure!(client.end_offset("corrupt", 0)? == 0, "nothing of it is stored");
    ensure!(client.produce("corrupt", 0, &values("good", 1, 10))? == 0, "a good batch still is");
    Ok(())
}

fn many_idle_connections_do_no_harm(address: &str, witness: &mut Connection) -> anyhow::Result<()> {
    let mut open = Vec::new();
    for _ in 0..300 {
        let mut connection = Connection::open(address)?;
        // Announces a frame and never sends it.
        connection.send_raw(&1_000_000i32.to_be_bytes())?;
        open.push(connection);
    }
    alive(witness, "300 connections that announce a megabyte each")
}

#[test]
fn controllers_withstand_bad_bytes() {
    Spec::new(1, 1).run(|cluster| {
        let address = cluster.node("controller-1").address.clone();
        let mut random = SmallRng::seed_from_u64(5);
        for (_, bytes) in hostile() {
            Connection::open(&address)?.send_raw(&bytes)?;
        }
        for _ in 0..100 {
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            let mut rest = vec![0; random.random_range(1..500)];
            random.fill(&mut rest[..]);
            bytes.extend_from_slice(&rest);
            let _ = Connection::open(&address)?.send_raw(&bytes);
        }
        ensure!(cluster.node("controller-1").is_running(), "the controller lives");
        cluster.client().create_topic(&NewTopic::new("still-decides", 1, 1))
    });
}
