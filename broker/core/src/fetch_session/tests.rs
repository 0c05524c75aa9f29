use odradek_common::rng::SplitMix64;
use odradek_common::{PartitionIndex, TopicIdPartition};

use super::*;

fn at(seconds: u64) -> Instant {
    Instant(0) + Duration::from_secs(seconds)
}

fn key(partition: i32) -> PartitionKey {
    PartitionKey { topic: TopicKey::Id(Uuid([7; 16])), partition }
}

fn wanted(partition: i32, offset: i64) -> RequestedPartition {
    RequestedPartition {
        key: key(partition),
        fetch_offset: Offset(offset),
        log_start: Offset::NONE,
        current_leader_epoch: LeaderEpoch(1),
        last_fetched_epoch: LeaderEpoch::NONE,
        bytes_max: 1000,
    }
}

fn request(session_id: i32, session_epoch: i32, partitions: Vec<RequestedPartition>) -> SessionRequest {
    SessionRequest {
        session_id,
        session_epoch,
        uses_topic_ids: true,
        is_follower: false,
        partitions,
        forgotten: Vec::new(),
    }
}

fn facts(high_watermark: i64) -> AnswerFacts {
    AnswerFacts {
        error: ErrorCode::None,
        has_records: false,
        high_watermark: Offset(high_watermark),
        log_start: Offset(0),
        has_diverging_epoch: false,
        has_preferred_replica: false,
    }
}

fn records(high_watermark: i64) -> AnswerFacts {
    AnswerFacts { has_records: true, ..facts(high_watermark) }
}

struct Server {
    cache: FetchSessionCache<()>,
    rng: SplitMix64,
    now: Instant,
}

impl Server {
    fn new(sessions_max: usize) -> Self {
        Self { cache: FetchSessionCache::new(sessions_max), rng: SplitMix64::new(1), now: at(1) }
    }

    /// `facts` of the slots from 0 on.
    fn answer(&mut self, context: &FetchContext<()>, facts: &[AnswerFacts]) -> SessionAnswer {
        let facts: Vec<_> = (0..).map(Slot).zip(facts.iter().copied()).collect();
        self.cache.answer(context, &facts, &mut self.rng, self.now)
    }

    /// Opens a session over partitions 0..count and gives its id; 0 when there was no room.
    fn open(&mut self, is_follower: bool, count: i32) -> i32 {
        let partitions = (0..count).map(|partition| wanted(partition, 0)).collect();
        let context = self.cache.resolve(SessionRequest { is_follower, ..request(0, 0, partitions) }, self.now);
        let facts = vec![facts(0); count as usize];
        self.answer(&context.expect("a full request is not refused"), &facts).session_id
    }

    fn step(&mut self, request: SessionRequest, facts: &[AnswerFacts]) -> Result<SessionAnswer, ErrorCode> {
        let context = self.cache.resolve(request, self.now)?;
        Ok(self.answer(&context, facts))
    }
}

fn included(answer: &SessionAnswer) -> Vec<i32> {
    answer.include.iter().map(|(_, key)| key.partition).collect()
}

fn to_read(context: &FetchContext<()>) -> Vec<(i32, i64)> {
    context.partitions.iter().map(|(_, p)| (p.key.partition, p.fetch_offset.0)).collect()
}

#[test]
fn an_incremental_answer_holds_only_what_changed() {
    let mut server = Server::new(10);
    let id = server.open(false, 3);
    assert!(id > 0);
    let answer = server.step(request(id, 1, vec![]), &[facts(0), facts(5), facts(0)]).expect("in turn");
    assert_eq!(included(&answer), [1]);
    // Told once, it is not told again; an error is told and then the recovery from it.
    let error = AnswerFacts { error: ErrorCode::NotLeaderOrFollower, ..facts(-1) };
    let answer = server.step(request(id, 2, vec![]), &[error, facts(5), facts(0)]).expect("in turn");
    assert_eq!(included(&answer), [0]);
    let answer = server.step(request(id, 3, vec![]), &[facts(0), facts(5), facts(0)]).expect("in turn");
    assert_eq!(included(&answer), [0]);
    let diverging = AnswerFacts { has_diverging_epoch: true, ..facts(0) };
    let answer = server.step(request(id, 4, vec![]), &[facts(0), facts(5), diverging]).expect("in turn");
    assert_eq!(included(&answer), [2]);
}

#[test]
fn a_request_looks_at_what_it_names_and_at_what_failed() {
    let mut server = Server::new(10);
    let id = server.open(false, 4);
    // Nobody watches them yet.
    let context = server.cache.resolve(request(id, 1, vec![wanted(2, 5)]), at(2)).expect("in turn");
    assert_eq!(to_read(&context), [(2, 5), (0, 0), (1, 0), (3, 0)]);
    server.answer(&context, &[facts(0); 4]);
    let context = server.cache.resolve(request(id, 2, vec![wanted(1, 7), wanted(1, 8)]), at(2)).expect("in turn");
    assert_eq!(to_read(&context), [(1, 8)]);
    let error = AnswerFacts { error: ErrorCode::NotLeaderOrFollower, ..facts(-1) };
    server.answer(&context, &[facts(0), error]);
    let context = server.cache.resolve(request(id, 3, vec![wanted(0, 3)]), at(2)).expect("in turn");
    assert_eq!(to_read(&context), [(0, 3), (1, 8)], "what failed is looked up anew");
    server.answer(&context, &[facts(0), facts(0)]);
    let context = server.cache.resolve(request(id, 4, vec![]), at(2)).expect("in turn");
    assert_eq!(to_read(&context), []);
    // That one is never answered: its news may be lost.
    let context = server.cache.resolve(request(id, 5, vec![]), at(2)).expect("in turn");
    assert_eq!(to_read(&context).len(), 4);
}

#[test]
fn partitions_are_added_updated_and_forgotten() {
    let mut server = Server::new(10);
    let id = server.open(false, 2);
    let mut change = request(id, 1, vec![wanted(1, 9), wanted(5, 3)]);
    change.forgotten = vec![key(0), key(77)];
    let context = server.cache.resolve(change, at(2)).expect("in turn");
    assert_eq!(to_read(&context), [(1, 9), (5, 3)]);
    assert_eq!(context.forgotten, [Slot(0)]);
    // A partition that is new to the session is told even though nothing is in it.
    assert_eq!(included(&server.answer(&context, &[facts(0), facts(0), facts(0)])), [5]);
    assert_eq!(server.cache.partition_count(), 2);
    // The last one forgotten closes the session.
    let mut change = request(id, 2, vec![]);
    change.forgotten = vec![key(1), key(5)];
    let context = server.cache.resolve(change, at(3)).expect("in turn");
    assert!(context.partitions.is_empty() && context.watch.is_none());
    assert_eq!(server.answer(&context, &[]).session_id, SESSION_NONE);
    assert!(server.cache.is_empty());
    assert_eq!(server.cache.partition_count(), 0);
}

#[test]
fn epochs_are_strict() {
    let mut server = Server::new(10);
    let id = server.open(false, 1);
    let check = |server: &mut Server, id, epoch, expected| {
        let got = server.step(request(id, epoch, vec![]), &[facts(0)]).map(|answer| answer.error);
        assert_eq!(got, expected, "session {id} epoch {epoch}");
    };
    check(&mut server, id + 1, 1, Err(ErrorCode::FetchSessionIdNotFound));
    check(&mut server, id, 2, Err(ErrorCode::InvalidFetchSessionEpoch));
    check(&mut server, id, 1, Ok(ErrorCode::None));
    check(&mut server, id, 1, Err(ErrorCode::InvalidFetchSessionEpoch));
    let old = SessionRequest { uses_topic_ids: false, ..request(id, 2, vec![]) };
    assert_eq!(server.step(old, &[facts(0)]).map(|answer| answer.error), Err(ErrorCode::FetchSessionTopicIdError));
    // An answer that is made after the session went on is refused.
    let context = server.cache.resolve(request(id, 2, vec![]), at(2)).expect("in turn");
    server.cache.resolve(request(id, 3, vec![]), at(2)).expect("in turn");
    assert_eq!(server.answer(&context, &[facts(0)]).error, ErrorCode::InvalidFetchSessionEpoch);
    // The final epoch closes it.
    assert_eq!(server.step(request(id, EPOCH_FINAL, vec![wanted(0, 0)]), &[facts(0)]).map(|a| a.session_id), Ok(0));
    check(&mut server, id, 4, Err(ErrorCode::FetchSessionIdNotFound));
    assert_eq!([next_epoch(0), next_epoch(i32::MAX), next_epoch(-1)], [1, 1, -1]);
}

#[test]
fn eviction_is_kafkas() {
    // Full of young client sessions: another client gets none, a follower evicts the smallest.
    let mut server = Server::new(2);
    let small = server.open(false, 1);
    let large = server.open(false, 5);
    assert_eq!(server.open(false, 9), SESSION_NONE);
    let follower = server.open(true, 1);
    assert_ne!(follower, SESSION_NONE);
    let gone = server.cache.resolve(request(small, 1, vec![]), server.now).map(|_| ());
    assert_eq!(gone, Err(ErrorCode::FetchSessionIdNotFound));
    // A young follower's session is safe from clients and from other followers.
    let second = server.open(true, 1);
    assert_ne!(second, SESSION_NONE, "the large client's session went");
    assert!(server.cache.resolve(request(large, 1, vec![]), server.now).is_err());
    assert_eq!(server.open(true, 9), SESSION_NONE);
    // Sessions that nobody has used for two minutes go first.
    server.now = at(200);
    assert_ne!(server.open(false, 1), SESSION_NONE);
    assert_eq!(server.cache.len(), 2);
    assert_eq!(server.cache.evictions(), 3);
}

#[test]
fn client_and_server_agree() {
    let mut server = Server::new(10);
    let mut client = FetchSessionClient::new();
    let tp = |partition| TopicIdPartition { topic_id: Uuid([7; 16]), partition: PartitionIndex(partition) };
    let partition = |offset| ClientPartition {
        fetch_offset: Offset(offset),
        log_start: Offset(0),
        current_leader_epoch: LeaderEpoch(1),
        last_fetched_epoch: LeaderEpoch::NONE,
        bytes_max: 1000,
    };
    let mut exchange = |client: &mut FetchSessionClient, answers: &[AnswerFacts]| {
        let sent = client.request();
        let message = SessionRequest {
            partitions: sent.partitions.iter().map(|(k, p)| wanted(k.partition.0, p.fetch_offset.0)).collect(),
            forgotten: sent.forgotten.iter().map(|k| key(k.partition.0)).collect(),
            ..request(sent.session_id, sent.session_epoch, vec![])
        };
        match server.step(message, answers) {
            Ok(answer) => client.on_answer(answer.error, answer.session_id),
            Err(error) => client.on_answer(error, 0),
        }
        (sent, server.cache.partition_count(), server.cache.len())
    };
    assert!(client.wants_nothing());
    client.set(tp(0), partition(0));
    client.set(tp(1), partition(0));
    let (sent, _, _) = exchange(&mut client, &[records(3), facts(0)]);
    assert!(sent.is_full());
    // Only what changed goes out.
    client.set(tp(0), partition(3));
    client.set(tp(1), partition(0));
    client.set(tp(2), partition(0));
    let (sent, count, _) = exchange(&mut client, &[facts(0); 3]);
    assert_eq!(sent.partitions.iter().map(|(k, _)| k.partition.0).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(count, 3);
    client.remove(tp(0));
    let (sent, count, _) = exchange(&mut client, &[facts(0); 2]);
    assert_eq!((sent.partitions.len(), sent.forgotten, count), (0, vec![tp(0)], 2));
    // After a lost connection everything is told again, and the old session does not stay behind.
    client.on_disconnect();
    let (sent, count, sessions) = exchange(&mut client, &[facts(0); 2]);
    assert!(sent.is_full());
    assert_eq!((sent.partitions.len(), count, sessions), (2, 2, 1));
    // Given up and wanted again at the same place between two requests: what the leader told may not have been taken.
    client.remove(tp(1));
    client.set(tp(1), partition(0));
    let (sent, count, sessions) = exchange(&mut client, &[facts(0); 2]);
    assert!(sent.is_full());
    assert_eq!((sent.partitions.len(), count, sessions), (2, 2, 1));
    client.remove(tp(1));
    client.remove(tp(2));
    assert!(client.wants_nothing());
}
