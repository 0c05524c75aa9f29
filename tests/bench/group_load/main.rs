//! What many groups ask of their coordinators, for `spine`.
//!
//!   group-load offsets BOOTSTRAP [--groups 1000] [--offsets 100] [--seconds 8]
//!       commits OFFSETS offsets in each of GROUPS groups and prints `LEADER ID HOST:PORT` of the coordinator of the
//!       first, then STARTED. From then on one group after the other commits and reads back all its offsets; a line of
//!       JSON tells the longest time without one that did both, and whether each group's offsets are there in the end.
//!   group-load members BOOTSTRAP [--groups 100] [--members 1000]
//!       MEMBERS members in GROUPS classic groups of one topic heartbeat as the Java client does by default. Prints
//!       STARTED when all groups are stable; when standard input ends, all have been heard once more, and a line of JSON
//!       tells how many lost their membership, how many had to join again, and the longest that one was not heard.
//!   group-load consumers BOOTSTRAP [--groups 100] [--members 10000] [--partitions 100]
//!       MEMBERS members in GROUPS groups of the newer protocol, of one topic. Prints STARTED when all groups are stable;
//!       when standard input ends, a line of JSON tells how many heartbeats there were and whether all is as it was.
//!   group-load converge BOOTSTRAP [--members 1000] [--partitions 1000]
//!       when all but one of MEMBERS in one group of the newer protocol are stable, the last one joins and then one more: a
//!       line of JSON for each tells how long it took until all were in one epoch with one owner for each partition, and how
//!       many partitions moved.

mod consumers;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use odradek_common::ErrorCode;
use odradek_node::{Connection, World};
use odradek_tests::client::{Client, NewTopic};
use odradek_wire::join_group_request::JoinGroupRequestProtocol;
use odradek_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use odradek_wire::offset_fetch_request::OffsetFetchRequestTopic;
use odradek_wire::sync_group_request::SyncGroupRequestAssignment;
use odradek_wire::{
    FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest, OffsetCommitRequest, OffsetFetchRequest, Request,
    SyncGroupRequest,
};

const TOPIC: &str = "group-load";
const FIND_COORDINATOR: i16 = 3;
const JOIN_GROUP: i16 = 7;
const SYNC_GROUP: i16 = 4;
const HEARTBEAT: i16 = 4;
const OFFSET_COMMIT: i16 = 8;
const OFFSET_FETCH: i16 = 7;
/// Between two attempts, as `retry.backoff.ms` of the Java client.
const BACKOFF: Duration = Duration::from_millis(100);
/// Much shorter, where it is not this pause that is to be measured.
const PROBE_BACKOFF: Duration = Duration::from_millis(5);
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// `request.timeout.ms` of the Java client.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// `heartbeat.interval.ms` and `session.timeout.ms` of the Java client.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);
const SESSION_TIMEOUT_MS: i32 = 45_000;
const REBALANCE_TIMEOUT_MS: i32 = 60_000;

/// One group's way to its coordinator, wherever that is.
struct Coordinator {
    world: World,
    bootstrap: Rc<Vec<String>>,
    group: String,
    open: Option<Connection>,
    next: usize,
}

impl Coordinator {
    fn new(bootstrap: &Rc<Vec<String>>, group: String) -> Self {
        Self { world: World::real(), bootstrap: bootstrap.clone(), group, open: None, next: 0 }
    }

    async fn connect(&self, address: &str) -> anyhow::Result<Connection> {
        let (host, port) = address.rsplit_once(':').context("HOST:PORT")?;
        Ok(Connection::open(&self.world, host, port.parse()?, "group-load", CONNECT_LIMIT).await?)
    }

    /// Asks the brokers in turn, a different one first each time.
    async fn find(&mut self) -> anyhow::Result<(i32, String)> {
        let address = self.bootstrap[self.next % self.bootstrap.len()].clone();
        self.next += 1;
        let mut connection = self.connect(&address).await?;
        let request = FindCoordinatorRequest { key: self.group.as_str().into(), ..Default::default() };
        let found = self.world.timeout(CALL_LIMIT, connection.call(FIND_COORDINATOR, &request)).await??;
        ensure!(found.error_code == 0, "FindCoordinator: error {}", found.error_code);
        Ok((found.node_id, format!("{}:{}", found.host.as_str(), found.port)))
    }

    /// One attempt at the coordinator; after an error the next attempt looks for it anew.
    async fn call<R: Request>(&mut self, version: i16, request: &R) -> anyhow::Result<R::Response> {
        if self.open.is_none() {
            let (_, address) = self.find().await?;
            self.open = Some(self.connect(&address).await?);
        }
        let connection = self.open.as_mut().context("just opened")?;
        let answer = self.world.timeout(CALL_LIMIT, connection.call(version, request)).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.open = None;
                Err(error.into())
            }
            Err(_) => {
                self.open = None;
                bail!("no answer within {CALL_LIMIT:?}")
            }
        }
    }

    /// Whether a group's error says that its coordinator is elsewhere or not ready yet.
    fn moved(&mut self, error: i16) -> bool {
        let moved =
            [ErrorCode::NotCoordinator, ErrorCode::CoordinatorNotAvailable, ErrorCode::CoordinatorLoadInProgress];
        let moved = moved.iter().any(|code| *code as i16 == error);
        if moved {
            self.open = None;
        }
        moved
    }
}

// ---------------------------------------------------------------- offsets

fn commit(group: &str, partitions: i32, offset: i64) -> OffsetCommitRequest {
    let each = |partition_index| OffsetCommitRequestPartition {
        partition_index,
        committed_offset: offset,
        committed_metadata: Some("".into()),
        ..Default::default()
    };
    let partitions = (0..partitions).map(each).collect();
    let topic = OffsetCommitRequestTopic { name: TOPIC.into(), partitions, ..Default::default() };
    OffsetCommitRequest { group_id: group.into(), topics: vec![topic], ..Default::default() }
}

/// All offsets of a group; `None` when its coordinator is elsewhere or still loads.
async fn fetch(at: &mut Coordinator, partitions: i32) -> anyhow::Result<Option<Vec<i64>>> {
    let topic = OffsetFetchRequestTopic {
        name: TOPIC.into(),
        partition_indexes: (0..partitions).collect(),
        ..Default::default()
    };
    let request =
        OffsetFetchRequest { group_id: at.group.as_str().into(), topics: Some(vec![topic]), ..Default::default() };
    let answer = at.call(OFFSET_FETCH, &request).await?;
    if at.moved(answer.error_code) {
        return Ok(None);
    }
    ensure!(answer.error_code == 0, "OffsetFetch: error {}", answer.error_code);
    Ok(Some(answer.topics.iter().flat_map(|topic| &topic.partitions).map(|each| each.committed_offset).collect()))
}

/// Whether the commit is done; not when its coordinator is elsewhere.
async fn committed(at: &mut Coordinator, partitions: i32, offset: i64) -> anyhow::Result<bool> {
    let request = commit(&at.group, partitions, offset);
    let answer = at.call(OFFSET_COMMIT, &request).await?;
    let errors: Vec<i16> =
        answer.topics.iter().flat_map(|topic| &topic.partitions).map(|each| each.error_code).collect();
    Ok(!errors.iter().any(|error| at.moved(*error)) && errors.iter().all(|error| *error == 0))
}

async fn offsets(bootstrap: Rc<Vec<String>>, groups: usize, count: i32, seconds: u64) -> anyhow::Result<()> {
    // The last offset that was acknowledged in all partitions of a group, and whether a later commit is in doubt.
    let mut state: HashMap<usize, (i64, Option<i64>)> = HashMap::new();
    let mut at: Vec<_> = (0..groups).map(|n| Coordinator::new(&bootstrap, format!("offsets-{n}"))).collect();
    for (n, group) in at.iter_mut().enumerate() {
        let deadline = Instant::now() + CALL_LIMIT;
        while !committed(group, count, 1).await.unwrap_or(false) {
            ensure!(Instant::now() < deadline, "no commit in {}", group.group);
            tokio::time::sleep(BACKOFF).await;
        }
        state.insert(n, (1, None));
    }
    let (id, address) = at[0].find().await?;
    say(&format!("LEADER {id} {address}"))?;
    say("STARTED")?;

    let (started, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
    let (mut rounds, mut wrong) = (0u64, Vec::new());
    for n in (0..groups).cycle() {
        if started.elapsed() > Duration::from_secs(seconds) {
            break;
        }
        let (group, known) = (&mut at[n], state.get_mut(&n).context("committed before")?);
        let offset = known.0 + 1;
        loop {
            known.1 = Some(offset);
            if committed(group, count, offset).await.unwrap_or(false) {
                *known = (offset, None);
                if let Ok(Some(found)) = fetch(group, count).await {
                    if found != vec![offset; count as usize] {
                        wrong.push(group.group.clone());
                    }
                    break;
                }
            }
            tokio::time::sleep(PROBE_BACKOFF).await;
        }
        longest = longest.max(last.elapsed());
        (last, rounds) = (Instant::now(), rounds + 1);
    }
    for (n, group) in at.iter_mut().enumerate() {
        let ((acknowledged, doubtful), begun) = (state[&n], Instant::now());
        let found = loop {
            match fetch(group, count).await {
                Ok(Some(found)) => break found,
                _ => tokio::time::sleep(PROBE_BACKOFF).await,
            }
            ensure!(begun.elapsed() < CALL_LIMIT, "{} is not served", group.group);
        };
        let fits = |offset: &i64| *offset == acknowledged || Some(*offset) == doubtful;
        if found.len() != count as usize || !found.iter().all(fits) {
            wrong.push(group.group.clone());
        }
    }
    say(&format!(
        "{{\"run\":\"offsets\",\"groups\":{groups},\"offsets\":{},\"rounds\":{rounds},\"longest_ms\":{},\"wrong\":{}}}",
        groups * count as usize,
        longest.as_millis(),
        wrong.len()
    ))
}

// ---------------------------------------------------------------- members

#[derive(Default)]
struct Tally {
    stable: usize,
    lost: usize,
    joins: usize,
    heartbeats: u64,
    longest: Duration,
    errors: HashMap<String, usize>,
}

struct Member {
    at: Coordinator,
    id: String,
    generation: i32,
    tally: Rc<RefCell<Tally>>,
}

impl Member {
    fn count(&self, what: impl std::fmt::Display) {
        *self.tally.borrow_mut().errors.entry(what.to_string()).or_default() += 1;
    }

    /// Joins and syncs until it is a member of a stable generation.
    async fn join(&mut self) {
        self.tally.borrow_mut().joins += 1;
        while let Err(error) = self.try_join().await {
            self.count(error);
            tokio::time::sleep(BACKOFF).await;
        }
    }

    async fn try_join(&mut self) -> anyhow::Result<()> {
        let protocol = JoinGroupRequestProtocol { name: "range".into(), metadata: Bytes::new(), ..Default::default() };
        let request = JoinGroupRequest {
            group_id: self.at.group.as_str().into(),
            session_timeout_ms: SESSION_TIMEOUT_MS,
            rebalance_timeout_ms: REBALANCE_TIMEOUT_MS,
            member_id: self.id.as_str().into(),
            protocol_type: "consumer".into(),
            protocols: vec![protocol],
            ..Default::default()
        };
        let joined = self.at.call(JOIN_GROUP, &request).await?;
        self.at.moved(joined.error_code);
        if joined.error_code == ErrorCode::MemberIdRequired as i16 {
            self.id = joined.member_id.as_str().to_owned();
            bail!("MEMBER_ID_REQUIRED");
        }
        self.check("JoinGroup", joined.error_code)?;
        self.id = joined.member_id.as_str().to_owned();
        self.generation = joined.generation_id;
        let leads = joined.leader == joined.member_id;
        let each = |member: &odradek_wire::join_group_response::JoinGroupResponseMember| SyncGroupRequestAssignment {
            member_id: member.member_id.clone(),
            assignment: Bytes::from_static(b"a"),
            ..Default::default()
        };
        let request = SyncGroupRequest {
            group_id: self.at.group.as_str().into(),
            generation_id: self.generation,
            member_id: self.id.as_str().into(),
            assignments: if leads { joined.members.iter().map(each).collect() } else { Vec::new() },
            ..Default::default()
        };
        let synced = self.at.call(SYNC_GROUP, &request).await?;
        self.at.moved(synced.error_code);
        self.check("SyncGroup", synced.error_code)
    }

    /// An error, and what it means for the membership.
    fn check(&mut self, api: &str, error: i16) -> anyhow::Result<()> {
        if error == 0 {
            return Ok(());
        }
        let code = ErrorCode::from_code(error);
        if code == ErrorCode::UnknownMemberId || code == ErrorCode::FencedInstanceId {
            self.tally.borrow_mut().lost += 1;
            self.id.clear();
        }
        bail!("{api}: {code:?}")
    }

    async fn live(mut self) {
        self.join().await;
        self.tally.borrow_mut().stable += 1;
        let mut heard = Instant::now();
        loop {
            tokio::time::sleep(HEARTBEAT_INTERVAL).await;
            let request = HeartbeatRequest {
                group_id: self.at.group.as_str().into(),
                generation_id: self.generation,
                member_id: self.id.as_str().into(),
                ..Default::default()
            };
            loop {
                match self.at.call(HEARTBEAT, &request).await {
                    Ok(answer) if self.at.moved(answer.error_code) => self.count("Heartbeat: coordinator moved"),
                    Ok(answer) => {
                        if let Err(error) = self.check("Heartbeat", answer.error_code) {
                            self.count(error);
                            self.join().await;
                        }
                        break;
                    }
                    Err(error) => self.count(error),
                }
                tokio::time::sleep(BACKOFF).await;
            }
            let mut tally = self.tally.borrow_mut();
            tally.heartbeats += 1;
            tally.longest = tally.longest.max(heard.elapsed());
            heard = Instant::now();
        }
    }
}

async fn members(bootstrap: Rc<Vec<String>>, groups: usize, count: usize) -> anyhow::Result<()> {
    let tally = Rc::new(RefCell::new(Tally::default()));
    for n in 0..count {
        let at = Coordinator::new(&bootstrap, format!("members-{}", n % groups));
        let member = Member { at, id: String::new(), generation: -1, tally: tally.clone() };
        tokio::task::spawn_local(member.live());
    }
    let begun = Instant::now();
    let joins = loop {
        if tally.borrow().stable == count {
            // Who joined while others still came had to join again; let that end.
            let before = tally.borrow().joins;
            tokio::time::sleep(HEARTBEAT_INTERVAL * 3).await;
            if tally.borrow().joins == before {
                break before;
            }
        }
        ensure!(begun.elapsed() < Duration::from_secs(180), "only {} of {count} joined", tally.borrow().stable);
        tokio::time::sleep(BACKOFF).await;
    };
    {
        let mut tally = tally.borrow_mut();
        (tally.lost, tally.heartbeats, tally.longest) = (0, 0, Duration::ZERO);
        tally.errors.clear();
    }
    say("STARTED")?;
    let ended = std::thread::spawn(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    while !ended.is_finished() {
        tokio::time::sleep(BACKOFF).await;
    }
    tokio::time::sleep(HEARTBEAT_INTERVAL * 2).await;
    let tally = tally.borrow();
    eprintln!("{:?}", tally.errors);
    say(&format!(
        "{{\"run\":\"members\",\"groups\":{groups},\"members\":{count},\"lost\":{},\"joined_again\":{},\"heartbeats\":{},\
         \"longest_ms\":{}}}",
        tally.lost,
        tally.joins - joins,
        tally.heartbeats,
        tally.longest.as_millis()
    ))
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [verb, bootstrap, options @ ..] = arguments.as_slice() else {
        bail!("group-load offsets|members|consumers|converge BOOTSTRAP [--NAME VALUE]...");
    };
    let option = |name: &str, default: usize| match options.iter().position(|word| word == name) {
        Some(at) => options.get(at + 1).and_then(|text| text.parse().ok()).with_context(|| format!("{name} N")),
        None => Ok(default),
    };
    let count = match verb.as_str() {
        "consumers" => option("--partitions", 100)?,
        "converge" => option("--partitions", 1_000)?,
        _ => option("--offsets", 100)?,
    };
    let mut client = Client::new(bootstrap);
    let replicas = client.metadata(None)?.brokers.len().min(3) as i16;
    client.create_topic(&NewTopic::new(TOPIC, count as i32, replicas))?;
    let addresses = Rc::new(bootstrap.split(',').map(str::to_owned).collect::<Vec<_>>());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        match verb.as_str() {
            "offsets" => {
                offsets(addresses, option("--groups", 1_000)?, count as i32, option("--seconds", 8)? as u64).await
            }
            "members" => members(addresses, option("--groups", 100)?, option("--members", 1_000)?).await,
            "consumers" => {
                consumers::consumers(addresses, option("--groups", 100)?, option("--members", 10_000)?, count).await
            }
            "converge" => consumers::converge(addresses, option("--members", 1_000)?, count).await,
            verb => bail!("{verb}: offsets, members, consumers or converge"),
        }
    })
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
