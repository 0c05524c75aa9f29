//! Clients in great number, and clients that are slow, silent or greedy: a broker's memory stays within its budget, the limits of
//! connections are kept, and others are served.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use odradek_tests::client::{Connection, NewTopic};
use odradek_tests::cluster::Node;
use odradek_tests::wire::{Batch, Writer};
use odradek_tests::{Cluster, Spec, real, skip, wait_for};

use crate::values;

const LIMIT: Duration = Duration::from_secs(60);
/// `odradek.memory.request.bytes`, for the bodies of requests, and as much again for answers.
const BUDGET: u64 = 16 << 20;
/// What the allocator and the kernel's accounts of a busy broker add at most.
const SLACK: u64 = 48 << 20;

/// A connection from an address of the loopback network, with a receive buffer of this size, if any.
fn connect(broker: &Node, from: [u8; 4], receive_bytes: Option<u32>) -> anyhow::Result<TcpStream> {
    let to: SocketAddr = broker.address.parse()?;
    let stream = real::block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.bind(SocketAddr::from((from, 0)))?;
        socket.connect(to).await?.into_std()
    })?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

const LOCALHOST: [u8; 4] = [127, 0, 0, 1];

/// ApiVersions v0 on a socket: whether it was answered; `false` when the broker has closed.
fn is_served(stream: &mut TcpStream) -> bool {
    let mut length = [0; 4];
    let sent = stream.write_all(&Writer::request(18, 0, 1).frame());
    if sent.and_then(|()| stream.read_exact(&mut length)).is_err() {
        return false;
    }
    let mut body = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut body).is_ok()
}

/// Whoever behaves is served: records are taken and given, and questions answered.
fn others_are_served(cluster: &Cluster, topic: &str) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut client = cluster.client();
    client.limit = LIMIT;
    for round in 0..5 {
        let base = client.produce(topic, 0, &values(&format!("others-{round}"), 10, 1000))?;
        ensure!(client.read_all(topic, 0, base)?.len() >= 10, "they read what they wrote");
        client.metadata(Some(&[topic]))?;
    }
    Ok(began.elapsed())
}

fn stays_below(broker: &Node, what: &str, bound: u64) -> anyhow::Result<()> {
    let resident = broker.resident()?;
    eprintln!("{what}: {} MiB resident", resident >> 20);
    ensure!(resident < bound, "{what}: {resident} bytes are resident, {bound} are allowed");
    Ok(())
}

fn set(cluster: &Cluster, name: &str, value: &str) -> anyhow::Result<()> {
    let mut client = cluster.client();
    let address = cluster.broker(1).address.clone();
    let mut request = client.connection(&address)?.request(44, 0);
    // IncrementalAlterConfigs: resource type 4 is a broker, operation 0 is SET.
    request.i32(1).i8(4).string("1").i32(1).string(name).i8(0).string(value).i8(0);
    let body = client.connection(&address)?.call(request)?;
    ensure!(body.get(8..10) == Some(&[0, 0]), "{name}={value} is refused: {body:?}");
    let shown = |client: &mut odradek_tests::Client| {
        let mut request = client.connection(&address)?.request(32, 1);
        request.i32(1).i8(4).string("1").i32(1).string(name).i8(0);
        let body = client.connection(&address)?.call(request)?;
        anyhow::Ok(String::from_utf8_lossy(&body).contains(value))
    };
    wait_for(&format!("{name}={value} is in force"), LIMIT, || Ok(shown(&mut client)?.then_some(())))
}

#[test]
fn limits_of_connections_hold_and_change_while_the_broker_runs() {
    let spec = Spec::new(1, 1).set_broker(1, "max.connections.per.ip.overrides", "127.0.0.2:3");
    let spec = spec.set("listener.name.plaintext.max.connections", 200).set("socket.listen.backlog.size", 77);
    spec.set("offsets.topic.replication.factor", 1).run(|cluster| {
        let broker = cluster.broker(1);
        let backlogs = std::process::Command::new("ss").args(["-ltn"]).output();
        match backlogs.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()) {
            Ok(text) => {
                let port = broker.address.rsplit(':').next().context("a port")?;
                let line = text.lines().find(|line| line.contains(&format!(":{port} "))).context("it listens")?;
                ensure!(line.split_whitespace().nth(2) == Some("77"), "another backlog: {line}");
            }
            Err(_) => skip("ss is not installed: the backlog of listeners was not looked at"),
        }
        let open = |from| {
            let mut stream = connect(broker, from, None)?;
            anyhow::Ok(is_served(&mut stream).then_some(stream))
        };
        let other = [127, 0, 0, 2];
        let kept: Vec<_> = (0..3).map(|_| open(other)).collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(kept.iter().all(Option::is_some), "three are allowed to this address");
        ensure!(open(other)?.is_none(), "the fourth is closed");
        ensure!(open(LOCALHOST)?.is_some() && open([127, 0, 0, 3])?.is_some(), "other addresses have more");
        set(cluster, "max.connections.per.ip.overrides", "127.0.0.2:4,127.0.0.3:0")?;
        let fourth = wait_for("the fourth is allowed", LIMIT, || open(other))?;
        ensure!(open([127, 0, 0, 3])?.is_none(), "this address has none any more");
        drop((kept, fourth));

        // Ten seconds' worth may come at once; then five a second do.
        set(cluster, "max.connection.creation.rate", "5")?;
        let began = Instant::now();
        for _ in 0..75 {
            ensure!(open(LOCALHOST)?.is_some(), "it is served, later");
        }
        ensure!(began.elapsed() > Duration::from_secs(4), "75 connections came in {:?}", began.elapsed());
        set(cluster, "max.connection.creation.rate", "1000000")?;

        // The most silent one goes when the limit becomes lower. Whoever comes over it waits until another goes.
        let mut silent = open(LOCALHOST)?.context("served")?;
        let mut busy: Vec<_> = (0..20).map(|_| open(LOCALHOST)).collect::<anyhow::Result<Vec<_>>>()?;
        set(cluster, "max.connections", "21")?;
        ensure!(matches!(silent.read(&mut [0]), Ok(0) | Err(_)), "the most silent one is closed");
        let mut waits = connect(broker, LOCALHOST, None)?;
        waits.write_all(&Writer::request(18, 0, 1).frame())?;
        busy.clear();
        ensure!(waits.read(&mut [0]).is_ok_and(|count| count == 1), "there is room for it");
        Ok(())
    });
}

#[test]
fn half_open_and_silent_connections_end_and_large_frames_are_refused() {
    let spec = Spec::new(1, 1).set("connections.max.idle.ms", 3_000).set("socket.request.max.bytes", 100_000);
    spec.set("queued.max.request.bytes", 1 << 20).run(|cluster| {
        let broker = cluster.broker(1);
        cluster.client().create_topic(&NewTopic::new("others", 1, 1))?;
        // Nothing at all, the start of a length, the start of a request.
        let request = Writer::request(18, 0, 1).frame();
        let starts: [&[u8]; 4] = [&[], &[0, 0], &request[..9], &request[..request.len() - 1]];
        let mut silent = Vec::new();
        for start in starts.iter().cycle().take(200) {
            let mut stream = connect(broker, LOCALHOST, None)?;
            stream.write_all(start)?;
            silent.push(stream);
        }
        others_are_served(cluster, "others")?;
        for mut stream in silent {
            ensure!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)), "a silent connection is closed");
        }
        // Whoever asks now and then stays.
        let mut asks = connect(broker, LOCALHOST, None)?;
        for _ in 0..4 {
            ensure!(is_served(&mut asks), "it is not idle");
            std::thread::sleep(Duration::from_millis(1_000));
        }
        let mut large = connect(broker, LOCALHOST, None)?;
        large.write_all(&100_001u32.to_be_bytes())?;
        ensure!(matches!(large.read(&mut [0]), Ok(0) | Err(_)), "a frame over socket.request.max.bytes closes");
        Ok(())
    });
}

/// Connections that one process may have here, besides what it needs otherwise.
fn connections_max() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum;
    // The brokers that this process starts get the same.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard });
    let wanted = 10_000;
    let allowed = hard.map_or(wanted, |hard| (hard as usize).saturating_sub(1_000).min(wanted));
    if allowed < wanted {
        skip(&format!("10,000 connections: a process may have {allowed} here"));
    }
    allowed
}

#[test]
fn ten_thousand_connections_are_served_in_little_memory() {
    let count = connections_max();
    Spec::new(1, 1).run(|cluster| {
        let broker = cluster.broker(1);
        cluster.client().create_topic(&NewTopic::new("others", 1, 1))?;
        others_are_served(cluster, "others")?;
        let before = broker.resident()?;
        let mut open = Vec::with_capacity(count);
        for _ in 0..count {
            let mut stream = connect(broker, LOCALHOST, None)?;
            ensure!(is_served(&mut stream), "connection {} is served", open.len());
            open.push(stream);
        }
        let each = broker.resident()?.saturating_sub(before) / count as u64;
        eprintln!("{count} connections: {each} bytes each");
        ensure!(each < 8 << 10, "a connection takes {each} bytes");
        others_are_served(cluster, "others")?;
        // All ask at once, and each has its answer.
        let request = Writer::request(18, 0, 1).frame();
        open.iter_mut().try_for_each(|stream| stream.write_all(&request))?;
        others_are_served(cluster, "others")?;
        for stream in &mut open {
            stream.read_exact(&mut [0; 8])?;
        }
        drop(open);
        others_are_served(cluster, "others")?;
        stays_below(broker, "after them", before + SLACK)
    });
}

#[test]
fn floods_by_clients_that_do_not_read_hold_no_memory_and_nobody_up() {
    Spec::new(1, 1).run(|cluster| {
        let broker = cluster.broker(1);
        let mut client = cluster.client();
        client.limit = LIMIT;
        client.create_topic(&NewTopic::new("others", 1, 1))?;
        // Not by the client's own wait, which asks for each partition.
        let made = client.connection(&broker.address)?.create_topic(&NewTopic::new("many", 2_000, 1))?;
        ensure!(made.0 == 0, "the topic is made: {made:?}");
        wait_for("every partition is led", LIMIT, || {
            let metadata = client.metadata(Some(&["many"]))?;
            let led = metadata.topics["many"].partitions.values().filter(|one| one.leader == 1).count();
            Ok((led == 2_000).then_some(()))
        })?;
        for _ in 0..24 {
            client.produce("others", 0, &values("bulk", 8, 64 << 10))?;
        }
        others_are_served(cluster, "others")?;
        let before = broker.resident()?;

        // Each asks 30 times for all metadata (some 80 KiB), and reads nothing.
        let mut flood = Vec::new();
        for _ in 0..300 {
            let mut stream = connect(broker, LOCALHOST, Some(4 << 10))?;
            for correlation in 0..30 {
                let mut request = Writer::request(3, 7, correlation);
                request.i32(-1).i8(0);
                if stream.write_all(&request.frame()).is_err() {
                    // Given up already.
                    break;
                }
            }
            flood.push(stream);
        }
        let took = others_are_served(cluster, "others")?;
        eprintln!("beside a flood of metadata: {took:?}");
        stays_below(broker, "beside a flood of metadata", before + BUDGET + SLACK)?;
        ensure!(flood.len() == 300, "all of them came");
        drop(flood);

        // Each fetches all records ten times, and reads nothing: they leave from their file.
        let mut greedy = Vec::new();
        for _ in 0..300 {
            let mut stream = connect(broker, LOCALHOST, Some(4 << 10))?;
            for correlation in 0..10 {
                let mut request = Writer::request(1, 11, correlation);
                request.i32(-1).i32(500).i32(1).i32(50 << 20).i8(0).i32(0).i32(-1);
                request.i32(1).string("others").i32(1).i32(0).i32(-1).i64(0).i64(-1).i32(50 << 20);
                request.i32(0).string("");
                stream.write_all(&request.frame())?;
            }
            greedy.push(stream);
        }
        let took = others_are_served(cluster, "others")?;
        eprintln!("beside huge fetches: {took:?}");
        stays_below(broker, "beside huge fetches", before + BUDGET + SLACK)?;
        drop(greedy);
        others_are_served(cluster, "others")?;
        Ok(())
    });
}

#[test]
fn slow_writers_hold_only_their_budget_and_nobody_up_for_long() {
    Spec::new(1, 1).run(|cluster| {
        let broker = cluster.broker(1);
        cluster.client().create_topic(&NewTopic::new("others", 1, 1))?;
        others_are_served(cluster, "others")?;
        let before = broker.resident()?;
        // More than the budget is announced, and half of each is sent.
        let mut slow = Vec::new();
        let batch = Batch::of(&values("slow", 1, 1 << 20)).encode();
        for _ in 0..64 {
            let mut connection = Writer::request(0, 8, 1);
            connection.i16(-1).i16(-1).i32(5_000).i32(1).string("others").i32(1).i32(0).bytes(&batch);
            let frame = connection.frame();
            let stream = connect(broker, LOCALHOST, None)?;
            // Those without memory are not read: what they send stays in the kernel.
            stream.set_nonblocking(true)?;
            let _ = (&stream).write(&frame[..frame.len() / 2]);
            slow.push(stream);
        }
        let took = others_are_served(cluster, "others")?;
        eprintln!("beside slow writers: {took:?}");
        stays_below(broker, "beside slow writers", before + BUDGET + SLACK)?;
        let mut witness = Connection::open(&broker.address)?;
        ensure!(!witness.api_versions()?.is_empty(), "it answers");
        drop(slow);
        others_are_served(cluster, "others")?;
        Ok(())
    });
}
