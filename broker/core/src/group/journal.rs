//! The journal of rebalances: for each group, what made it rebalance, how long that took, and which partitions moved.
//!
//! Decisions say why ([`Cause`]); what came of it is read from the changes themselves: for consumer groups from the records
//! as they are replayed, for classic groups from the assignments before and after ([`Event`]). An entry reaches from the
//! first cause to the moment when the group is stable or empty again, over as many epochs as that takes.
//!
//! It lives in the coordinator's memory only. `__consumer_offsets` keeps Kafka's format, in which there is no place for it;
//! so it begins anew with each load, and says so. A group in which nothing has happened since has no journal at all.
//!
//! **Invariant:** it is bounded: entries and bytes of a group by configs, causes and moves of an entry, the length of each
//! text, and the bytes of a shard by constants. What was left out is counted. Nothing is decided by it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use odradek_common::TopicId;
use odradek_common::time::Now;
use odradek_wire::{ConsumerProtocolAssignment, decode_versioned_up_to};

use super::consumer::{ConsumerGroup, ConsumerRecord, ConsumerState, Topics};

/// Causes that an entry names; of more the number is kept.
const CAUSES_MAX: usize = 16;
/// Moves that an entry lists, each of one topic from one member to another.
const MOVES_MAX: usize = 32;
/// Partitions that the moves of an entry list.
const PARTITIONS_MAX: usize = 256;
/// Characters of a name or reason: clients choose them, and may send kilobytes.
const TEXT_MAX: usize = 128;
/// Of all journals of a partition of `__consumer_offsets`. Over it those are forgotten that nothing was added to for longest.
const SHARD_BYTES_MAX: usize = 1 << 20;
/// What causes a rebalance after so long belongs to another one, though the group was not stable in between.
const ENTRY_MS_MAX: i64 = 5 * 60 * 1_000;
/// What an entry, a cause or a move takes beside its texts, those of the allocator included.
const OVERHEAD_BYTES: usize = 128;

/// Why a group rebalances.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    Joined,
    /// A member has said that it goes.
    Left,
    /// An operator took a static member out, by its instance id.
    Removed,
    /// A static member has left and is expected back.
    Away,
    SessionTimeout,
    /// It did not join, ask for its assignment, or give its partitions up in time.
    RebalanceTimeout,
    /// A member reads other topics or offers other protocols.
    Subscription,
    /// The classic leader asks for a new assignment.
    LeaderRejoined,
    /// Topics that the group reads were made, changed or deleted.
    Topics,
    /// A static member has come back under a new id.
    Replaced,
    /// There are more members than may be.
    TooLarge,
    /// An assignment or a change of protocol could not be written.
    NotStored,
    ToConsumer,
    ToClassic,
    /// A new coordinator has taken the group from the log.
    Loaded,
}

impl Why {
    pub fn name(self) -> &'static str {
        match self {
            Self::Joined => "join",
            Self::Left => "leave",
            Self::Removed => "removal",
            Self::Away => "away",
            Self::SessionTimeout => "session-timeout",
            Self::RebalanceTimeout => "rebalance-timeout",
            Self::Subscription => "subscription",
            Self::LeaderRejoined => "leader-rejoin",
            Self::Topics => "topics",
            Self::Replaced => "static-replacement",
            Self::TooLarge => "group-max-size",
            Self::NotStored => "not-stored",
            Self::ToConsumer => "to-consumer-protocol",
            Self::ToClassic => "to-classic-protocol",
            Self::Loaded => "coordinator-load",
        }
    }
}

/// One reason of a rebalance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cause {
    pub why: Why,
    /// Absent: it concerns the whole group.
    pub member: Option<Arc<str>>,
    pub instance_id: Option<Arc<str>>,
    pub client_id: Arc<str>,
    /// What the client or the coordinator says beside; may be empty.
    pub detail: Arc<str>,
}

impl Cause {
    pub fn of_group(why: Why, detail: &str) -> Self {
        Self { why, member: None, instance_id: None, client_id: "".into(), detail: short(detail) }
    }

    pub fn of_member(why: Why, member: &Arc<str>, detail: &str) -> Self {
        Self { member: Some(short_of(member)), ..Self::of_group(why, detail) }
    }

    pub fn with(self, instance_id: Option<&Arc<str>>, client_id: &str) -> Self {
        Self { instance_id: instance_id.map(short_of), client_id: short(client_id), ..self }
    }
}

/// Partitions of a topic that went from one member to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Move {
    pub topic: Arc<str>,
    /// Absent: nobody had them.
    pub from: Option<Arc<str>>,
    /// Absent: nobody has them.
    pub to: Option<Arc<str>>,
    pub partitions: Vec<i32>,
}

/// How a rebalance ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It has not.
    Open,
    Stable,
    /// Without members.
    Empty,
    /// The next one began before.
    Overtaken,
    /// It is none: a coordinator has loaded the group.
    Loaded,
}

impl Outcome {
    pub fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Stable => "stable",
            Self::Empty => "empty",
            Self::Overtaken => "overtaken",
            Self::Loaded => "loaded",
        }
    }
}

/// One rebalance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// When its first cause was, milliseconds since 1970 UTC.
    pub at_ms: i64,
    /// Generations of a classic group, epochs of a consumer group.
    pub from_epoch: i32,
    pub to_epoch: i32,
    pub outcome: Outcome,
    /// Until the outcome, or until now.
    pub took_ms: i64,
    pub causes: Vec<Cause>,
    /// More causes than are listed.
    pub causes_left_out: usize,
    pub moves: Vec<Move>,
    /// All partitions that moved, those of no listed move included.
    pub moved: usize,
}

impl Entry {
    fn bytes(&self) -> usize {
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        let causes = self.causes.iter().map(|cause| {
            let texts = text(&cause.member) + text(&cause.instance_id);
            OVERHEAD_BYTES + texts + cause.client_id.len() + cause.detail.len()
        });
        let moves = self
            .moves
            .iter()
            .map(|one| OVERHEAD_BYTES + one.topic.len() + text(&one.from) + text(&one.to) + 4 * one.partitions.len());
        OVERHEAD_BYTES + causes.sum::<usize>() + moves.sum::<usize>()
    }
}

/// What is known of a group's rebalances.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct History {
    /// No rebalance since then is missing but those that are counted in `dropped`, milliseconds since 1970 UTC.
    pub since_ms: i64,
    /// Older entries that had to go.
    pub dropped: u64,
    /// The oldest first.
    pub entries: Vec<Entry>,
}

/// What happens to a classic group.
#[derive(Clone, Debug)]
pub enum Event {
    /// In a generation.
    Cause(i32, Cause),
    /// It is stable or empty in a generation. The members' assignments before the first cause and now: what consumers have.
    Settled { generation: i32, is_empty: bool, before: Assignments, after: Assignments },
}

/// What members of a classic group were given.
pub type Assignments = Vec<(Arc<str>, Bytes)>;

type Owners = BTreeMap<(Arc<str>, i32), Arc<str>>;

/// A topic, and from whom to whom some of it went.
type Way = (Arc<str>, Option<Arc<str>>, Option<Arc<str>>);

/// Who had a partition, and who has it.
type Moved = ((Arc<str>, i32), Option<Arc<str>>, Option<Arc<str>>);

/// A rebalance that is under way.
#[derive(Clone, Debug)]
struct Open {
    entry: Entry,
    since: Now,
    /// Of consumer groups: who had what has changed hands since.
    original: BTreeMap<(TopicId, i32), Option<Arc<str>>>,
    /// Static members: the new id by the old one.
    renamed: BTreeMap<Arc<str>, Arc<str>>,
}

#[derive(Clone, Debug)]
struct Journal {
    /// Since the group was made: nothing was before.
    is_whole: bool,
    entries: VecDeque<Entry>,
    bytes: usize,
    dropped: u64,
    open: Option<Box<Open>>,
    touched_ms: i64,
}

/// The journals of a shard's groups.
#[derive(Clone, Debug)]
pub(super) struct Journals {
    entries_max: usize,
    bytes_max: usize,
    by_group: BTreeMap<Arc<str>, Journal>,
    bytes: usize,
    /// When the shard was loaded; until then nothing is written down.
    loaded_ms: Option<i64>,
    /// The newest journal that was forgotten for want of room was of then.
    forgotten_ms: Option<i64>,
    // ---- of the turn at hand ----
    now: Now,
    /// Why consumer groups change in it. Without records these are no causes.
    why: Vec<Cause>,
    /// Of a static member in it: the old id and the new one.
    renamed: Option<(Arc<str>, Arc<str>)>,
    /// Consumer groups whose records were replayed in the last turn.
    touched: BTreeSet<Arc<str>>,
    /// Groups of which all records were taken back.
    gone: BTreeSet<Arc<str>>,
    /// A classic group that becomes a consumer group: members whose assignments are only written anew.
    carried: BTreeSet<Arc<str>>,
}

/// What a group is, to its journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Standing {
    pub epoch: i32,
    /// `None`: under way.
    pub outcome: Option<Outcome>,
}

impl Journals {
    pub fn new(entries_max: usize, bytes_max: usize) -> Self {
        Self {
            entries_max,
            bytes_max,
            by_group: BTreeMap::new(),
            bytes: 0,
            loaded_ms: None,
            forgotten_ms: None,
            now: Now::default(),
            why: Vec::new(),
            renamed: None,
            touched: BTreeSet::new(),
            gone: BTreeSet::new(),
            carried: BTreeSet::new(),
        }
    }

    /// The log is loaded: from here on changes are news.
    pub fn on_loaded(&mut self, now: Now) {
        self.now = now;
        self.loaded_ms = Some(now.wall.0);
    }

    fn is_on(&self) -> bool {
        self.entries_max > 0 && self.loaded_ms.is_some()
    }

    /// A turn begins. `standing` tells what a group is after the turn before, if it is still there.
    pub fn begin(&mut self, now: Now, standing: impl Fn(&str) -> Option<Standing>) {
        self.why.clear();
        self.renamed = None;
        self.carried.clear();
        for id in std::mem::take(&mut self.gone) {
            if standing(&id).is_none()
                && let Some(journal) = self.by_group.remove(&id)
            {
                self.bytes -= journal.bytes;
            }
        }
        self.now = now;
    }

    /// Consumer groups whose records were replayed since this was asked last: they may be stable now.
    pub fn take_touched(&mut self) -> BTreeSet<Arc<str>> {
        std::mem::take(&mut self.touched)
    }

    /// A consumer group is about to change, if the records of this turn can be written.
    pub fn because(&mut self, cause: Cause) {
        if self.is_on() {
            self.why.push(cause);
        }
    }

    /// It is a static member's coming back under another id: that alone moves nothing.
    pub fn rename(&mut self, old: &Arc<str>, new: &Arc<str>) {
        self.renamed = Some((old.clone(), new.clone()));
    }

    /// All records of a group were taken back; another kind of group may come in its place.
    pub fn on_gone(&mut self, id: &Arc<str>) {
        if self.by_group.contains_key(id) {
            self.gone.insert(id.clone());
        }
    }

    /// A classic group is about to become a consumer group, with these members.
    pub fn carry<'a>(&mut self, members: impl Iterator<Item = &'a Arc<str>>) {
        if !self.why.is_empty() {
            self.carried = members.cloned().collect();
        }
    }

    fn journal(&mut self, id: &Arc<str>, is_whole: bool) -> &mut Journal {
        let touched_ms = self.now.wall.0;
        let make = || Journal { is_whole, entries: VecDeque::new(), bytes: 0, dropped: 0, open: None, touched_ms };
        let journal = self.by_group.entry(id.clone()).or_insert_with(make);
        journal.touched_ms = touched_ms;
        journal
    }

    // ---- consumer groups ----

    /// Whether a record of this group has to come by [`Journals::replay`].
    pub fn watches(&self, id: &str) -> bool {
        self.is_on() && (!self.why.is_empty() || self.by_group.get(id).is_some_and(|journal| journal.open.is_some()))
    }

    /// Replays a record of a consumer group, and writes down what changes. `is_new`: there was no such group.
    pub fn replay(&mut self, group: &mut ConsumerGroup, record: ConsumerRecord, is_new: bool) {
        let (id, epoch) = (group.id.clone(), group.epoch());
        self.touched.insert(id.clone());
        let causes = std::mem::take(&mut self.why);
        let is_carried = match &record {
            ConsumerRecord::Current(member, Some(_)) => self.carried.remove(member),
            _ => false,
        };
        for cause in causes {
            self.cause(&id, is_new, epoch, cause);
        }
        let renamed = self.renamed.take();
        let Some(journal) = self.by_group.get_mut(&id) else { return group.replay(record) };
        if let (Some(open), Some((old, new))) = (&mut journal.open, renamed) {
            open.rename(&old, &new);
        }
        let (member, raised) = match &record {
            ConsumerRecord::Current(member, _) | ConsumerRecord::Member(member, None) if !is_carried => {
                (Some(member.clone()), None)
            }
            ConsumerRecord::Group(Some(epoch)) => (None, Some(epoch.epoch)),
            _ => (None, None),
        };
        let held = |group: &ConsumerGroup| match member.as_deref().and_then(|member| group.member(member)) {
            Some(member) => member.current.held().collect::<BTreeSet<_>>(),
            None => BTreeSet::new(),
        };
        let mut partitions = held(group);
        if let ConsumerRecord::Current(_, Some(current)) = &record
            && !is_carried
        {
            partitions.extend(current.held());
        }
        let owner = |group: &ConsumerGroup, at: (TopicId, i32)| group.owner(at.0, at.1).cloned();
        let before: Vec<_> = partitions.into_iter().map(|at| (at, owner(group, at))).collect();
        group.replay(record);
        let Some(open) = &mut journal.open else { return };
        if let Some(epoch) = raised {
            open.entry.to_epoch = epoch;
        }
        for (at, had) in before {
            if owner(group, at) != had {
                open.original.entry(at).or_insert(had);
            }
        }
    }

    /// A group of which records were replayed stands so now. `group` is a consumer group's.
    pub fn settle(&mut self, id: &Arc<str>, standing: Standing, group: Option<&ConsumerGroup>, topics: &Topics) {
        let Some(outcome) = standing.outcome else { return };
        let Some(journal) = self.by_group.get_mut(id) else { return };
        let Some(open) = journal.open.take() else { return };
        let Open { mut entry, since, original, renamed } = *open;
        entry.to_epoch = standing.epoch;
        if let Some(group) = group {
            let named = |topic: TopicId| match topics.topic(topic) {
                Some(topic) => topic.name.clone(),
                None => topic.to_string().into(),
            };
            let moved = original.into_iter().map(|((topic, partition), had)| {
                let had = had.map(|had| renamed.get(&had).cloned().unwrap_or(had));
                ((named(topic), partition), had, group.owner(topic, partition).cloned())
            });
            entry.set_moves(moved.filter(|(_, had, has)| had != has).collect());
        }
        self.close(id, entry, outcome, since);
    }

    // ---- classic groups ----

    /// What has happened to a classic group. `is_new`: it was made in this turn.
    pub fn on_events(&mut self, id: &Arc<str>, events: Vec<Event>, is_new: bool) {
        if !self.is_on() {
            return;
        }
        for event in events {
            match event {
                Event::Cause(generation, cause) => self.cause(id, is_new, generation, cause),
                Event::Settled { generation, is_empty, before, after } => {
                    let open = self.by_group.get_mut(id).and_then(|journal| journal.open.take());
                    let Some(open) = open else { continue };
                    let Open { mut entry, since, .. } = *open;
                    entry.to_epoch = generation;
                    entry.set_moves(difference(&before, &after));
                    let outcome = if is_empty { Outcome::Empty } else { Outcome::Stable };
                    self.close(id, entry, outcome, since);
                }
            }
        }
    }

    // ---- bounds ----

    /// One reason more for a group to rebalance; or the first.
    fn cause(&mut self, id: &Arc<str>, is_new: bool, epoch: i32, cause: Cause) {
        let now = self.now;
        let journal = self.journal(id, is_new);
        let is_another = |open: &mut Box<Open>| took_ms(open.since, now) > ENTRY_MS_MAX;
        let overtaken = journal.open.take_if(is_another);
        let open = journal.open.get_or_insert_with(|| Box::new(Open::new(now, epoch)));
        let entry = &mut open.entry;
        entry.to_epoch = entry.to_epoch.max(epoch);
        match entry.causes.len() < CAUSES_MAX {
            true => entry.causes.push(cause),
            false => entry.causes_left_out += 1,
        }
        if let Some(before) = overtaken {
            let Open { mut entry, since, original, renamed } = *before;
            // What has moved since is told by the one that comes to an end.
            open.original = original;
            open.renamed = renamed;
            entry.to_epoch = epoch;
            self.close(id, entry, Outcome::Overtaken, since);
        }
    }

    fn close(&mut self, id: &Arc<str>, mut entry: Entry, outcome: Outcome, since: Now) {
        entry.outcome = outcome;
        entry.took_ms = took_ms(since, self.now);
        let (entries_max, bytes_max) = (self.entries_max, self.bytes_max);
        let Some(journal) = self.by_group.get_mut(id) else { return };
        let before = journal.bytes;
        journal.push(entry, entries_max, bytes_max);
        self.bytes = self.bytes - before + journal.bytes;
        while self.bytes > SHARD_BYTES_MAX && self.by_group.len() > 1 {
            self.forget_oldest(id);
        }
    }

    /// Forgets an eighth of all journals, those that nothing was added to for longest.
    fn forget_oldest(&mut self, but: &Arc<str>) {
        let others = self.by_group.iter().filter(|(id, _)| *id != but);
        let mut by_age: Vec<(i64, Arc<str>)> = others.map(|(id, journal)| (journal.touched_ms, id.clone())).collect();
        by_age.sort();
        let count = by_age.len().div_ceil(8);
        for (touched_ms, id) in by_age.into_iter().take(count) {
            if let Some(journal) = self.by_group.remove(&id) {
                self.bytes -= journal.bytes;
                self.forgotten_ms = self.forgotten_ms.max(Some(touched_ms));
            }
        }
    }

    // ---- the answer ----

    /// What is known of a group that is there, and stands so.
    pub fn history(&self, id: &str, standing: Standing) -> History {
        let loaded_ms = self.loaded_ms.unwrap_or_default();
        let journal = self.by_group.get(id);
        let since_ms = match (journal, self.forgotten_ms) {
            (None, Some(forgotten_ms)) => loaded_ms.max(forgotten_ms),
            (Some(journal), Some(forgotten_ms)) if !journal.is_whole => loaded_ms.max(forgotten_ms),
            _ => loaded_ms,
        };
        let mut history = History { since_ms, dropped: 0, entries: Vec::new() };
        if !self.is_on() {
            return history;
        }
        if let Some(journal) = journal {
            history.dropped = journal.dropped;
            history.entries.extend(journal.entries.iter().cloned());
            history.entries.extend(journal.open.as_ref().map(|open| open.so_far(standing, self.now)));
        }
        let is_whole = journal.is_some_and(|journal| journal.is_whole || journal.dropped > 0);
        let first = history.entries.first().map_or(standing.epoch, |entry| entry.from_epoch);
        if !is_whole && since_ms == loaded_ms && first > 0 {
            history.entries.insert(
                0,
                Entry {
                    outcome: Outcome::Loaded,
                    causes: vec![Cause::of_group(Why::Loaded, "")],
                    ..Entry::new(loaded_ms, first)
                },
            );
        }
        history
    }

    pub fn len(&self) -> usize {
        self.by_group.len()
    }
}

impl Journal {
    fn push(&mut self, mut entry: Entry, entries_max: usize, bytes_max: usize) {
        entry.causes.shrink_to_fit();
        if entry.bytes() > bytes_max {
            entry.moves = Vec::new();
        }
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        while self.entries.len() > 1 && (self.entries.len() > entries_max || self.bytes > bytes_max) {
            if let Some(oldest) = self.entries.pop_front() {
                self.bytes -= oldest.bytes();
                self.dropped += 1;
            }
        }
    }
}

impl Open {
    fn new(now: Now, epoch: i32) -> Self {
        let entry = Entry::new(now.wall.0, epoch);
        Self { entry, since: now, original: BTreeMap::new(), renamed: BTreeMap::new() }
    }

    fn rename(&mut self, old: &Arc<str>, new: &Arc<str>) {
        for name in self.renamed.values_mut().filter(|name| *name == old) {
            *name = new.clone();
        }
        self.renamed.insert(old.clone(), new.clone());
    }

    fn so_far(&self, standing: Standing, now: Now) -> Entry {
        Entry { to_epoch: standing.epoch, took_ms: took_ms(self.since, now), ..self.entry.clone() }
    }
}

impl Entry {
    fn new(at_ms: i64, epoch: i32) -> Self {
        Self {
            at_ms,
            from_epoch: epoch,
            to_epoch: epoch,
            outcome: Outcome::Open,
            took_ms: 0,
            causes: Vec::new(),
            causes_left_out: 0,
            moves: Vec::new(),
            moved: 0,
        }
    }

    fn set_moves(&mut self, moved: Vec<Moved>) {
        self.moved = moved.len();
        let mut by_way: BTreeMap<Way, Vec<i32>> = BTreeMap::new();
        for ((topic, partition), from, to) in moved {
            by_way.entry((topic, from, to)).or_default().push(partition);
        }
        let mut left = PARTITIONS_MAX;
        for ((topic, from, to), mut partitions) in by_way.into_iter().take(MOVES_MAX) {
            partitions.truncate(left);
            left -= partitions.len();
            if !partitions.is_empty() {
                let (from, to) = (from.as_ref().map(short_of), to.as_ref().map(short_of));
                self.moves.push(Move { topic, from, to, partitions });
            }
        }
    }
}

fn took_ms(since: Now, now: Now) -> i64 {
    i64::try_from(now.instant.saturating_since(since.instant).as_millis()).unwrap_or(i64::MAX)
}

/// What members of a classic group have by their assignments. Those of other kinds of groups say nothing here.
fn owners(assignments: &Assignments) -> Owners {
    let mut owners = Owners::new();
    for (member, assignment) in assignments.iter().filter(|(_, assignment)| !assignment.is_empty()) {
        let Ok((_, read)) = decode_versioned_up_to::<ConsumerProtocolAssignment>(assignment.clone()) else { continue };
        for topic in read.assigned_partitions {
            let name: Arc<str> = topic.topic.as_str().into();
            owners.extend(topic.partitions.into_iter().map(|index| ((name.clone(), index), member.clone())));
        }
    }
    owners
}

fn difference(before: &Assignments, after: &Assignments) -> Vec<Moved> {
    let (before, mut after) = (owners(before), owners(after));
    let mut moved: Vec<Moved> = Vec::new();
    for (partition, had) in before {
        let has = after.remove(&partition);
        if has.as_ref() != Some(&had) {
            moved.push((partition, Some(had), has));
        }
    }
    moved.extend(after.into_iter().map(|(partition, has)| (partition, None, Some(has))));
    moved
}

/// As much of a text as is kept.
fn short(text: &str) -> Arc<str> {
    match text.char_indices().nth(TEXT_MAX) {
        None => text.into(),
        Some((end, _)) => text.get(..end).unwrap_or_default().into(),
    }
}

fn short_of(text: &Arc<str>) -> Arc<str> {
    if text.len() <= TEXT_MAX { text.clone() } else { short(text) }
}

/// Of a consumer group.
pub(super) fn standing(group: &ConsumerGroup) -> Standing {
    let outcome = match group.state() {
        ConsumerState::Empty => Some(Outcome::Empty),
        ConsumerState::Stable => Some(Outcome::Stable),
        ConsumerState::Assigning | ConsumerState::Reconciling => None,
    };
    Standing { epoch: group.epoch(), outcome }
}
