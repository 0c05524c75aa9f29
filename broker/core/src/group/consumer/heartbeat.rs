//! ConsumerGroupHeartbeat: a member joins, lives, changes its subscription, and hears what it is to have.
//!
//! 1. The member is made or changed; what the assignment depends on raises the group's epoch.
//! 2. The target assignment follows the group's epoch, though not more often than `consumer.assignment.interval.ms`.
//! 3. The member is brought a step nearer to the target.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use odradek_common::{ErrorCode, Uuid};
use odradek_metadata::ConfigResource;
use odradek_wire::consumer_group_heartbeat_request::TopicPartitions;
use odradek_wire::consumer_group_heartbeat_response::{Assignment, TopicPartitions as AssignedPartitions};
use odradek_wire::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, Str};

use super::member::{AWAY_EPOCH, Assigned, ConsumerMember, LEFT_EPOCH, MemberInfo, MemberState, Partitions};
use super::reconcile::{Step, reconcile};
use super::records::{ConsumerRecord, GroupEpoch, ResolvedRegex, TargetEpoch};
use super::regex::compile;
use super::target::Change;
use super::{ConsumerConfig, ConsumerGroup, Refusal, millis};
use crate::coordinator::Ticket;
use crate::group::{
    Cause, ClassicGroup, GroupClient, GroupRecord, GroupResponse, GroupShard, GroupTimer, GroupTurn, State, Why,
};

/// The first version whose members choose their ids themselves (KIP-1082).
const OWN_MEMBER_ID: i16 = 1;

/// Regular expressions of a group are not resolved more often (Kafka's `REGEX_BATCH_REFRESH_MIN_INTERVAL_MS`).
const REGEX_INTERVAL_MS: i64 = 10_000;

/// What the request says of the regular expression.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct RegexNews {
    /// The member is subscribed to another one than before.
    is_changed: bool,
    /// And it is known what that stands for.
    is_resolved: bool,
    /// The expressions of the group are to be resolved.
    is_due: bool,
}

pub(in crate::group) fn failed(refusal: Refusal) -> ConsumerGroupHeartbeatResponse {
    ConsumerGroupHeartbeatResponse {
        error_code: refusal.code.code(),
        error_message: Some(refusal.message.into()),
        ..ConsumerGroupHeartbeatResponse::default()
    }
}

/// What no coordinator would take.
pub(in crate::group) fn check(
    client: &GroupClient,
    request: &ConsumerGroupHeartbeatRequest,
    config: &ConsumerConfig,
) -> Result<(), Refusal> {
    let invalid = |what: &str| Err(Refusal::new(ErrorCode::InvalidRequest, what));
    let is_blank = |text: &str| text.trim().is_empty();
    let names_member = client.api_version >= OWN_MEMBER_ID || request.member_epoch > 0;
    if (names_member || request.member_epoch == LEFT_EPOCH) && is_blank(&request.member_id) {
        return invalid("MemberId can't be empty.");
    }
    if is_blank(&request.group_id) {
        return invalid("GroupId can't be empty.");
    }
    if request.instance_id.as_deref().is_some_and(is_blank) {
        return invalid("InstanceId can't be empty.");
    }
    if request.rack_id.as_deref().is_some_and(is_blank) {
        return invalid("RackId can't be empty.");
    }
    match request.member_epoch {
        0 if request.rebalance_timeout_ms == -1 => {
            return invalid("RebalanceTimeoutMs must be provided in first request.");
        }
        0 if request.topic_partitions.as_ref().is_none_or(|topics| !topics.is_empty()) => {
            return invalid("TopicPartitions must be empty when (re-)joining.");
        }
        0 if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() => {
            return invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.");
        }
        AWAY_EPOCH if request.instance_id.is_none() => return invalid("InstanceId can't be null."),
        ..AWAY_EPOCH => return invalid("MemberEpoch is invalid."),
        _ => {}
    }
    let is_supported = |name: &str| config.assignors.iter().any(|assignor| assignor.name() == name);
    if let Some(assignor) = request.server_assignor.as_deref().filter(|name| !is_supported(name)) {
        let supported: Vec<&str> = config.assignors.iter().map(|assignor| assignor.name()).collect();
        let message =
            format!("ServerAssignor {assignor} is not supported. Supported assignors: {}.", supported.join(", "));
        return Err(Refusal::new(ErrorCode::UnsupportedAssignor, message));
    }
    Ok(())
}

/// What a member says that it has.
fn owned(topics: &[TopicPartitions]) -> Partitions {
    let mut owned = Partitions::new();
    for topic in topics.iter().filter(|topic| !topic.partitions.is_empty()) {
        owned.entry(topic.topic_id).or_default().extend(topic.partitions.iter().copied());
    }
    owned
}

/// What a member is told to have.
fn assignment(assigned: &Assigned) -> Assignment {
    let topics = assigned.iter().map(|(topic_id, partitions)| AssignedPartitions {
        topic_id: *topic_id,
        partitions: partitions.keys().copied().collect(),
        ..AssignedPartitions::default()
    });
    Assignment { topic_partitions: topics.collect(), ..Assignment::default() }
}

impl GroupShard {
    pub(in crate::group) fn consumer_heartbeat(
        &mut self,
        ticket: Ticket,
        client: &GroupClient,
        request: &ConsumerGroupHeartbeatRequest,
        turn: &mut GroupTurn<'_>,
    ) {
        let answer = match request.member_epoch {
            LEFT_EPOCH | AWAY_EPOCH => self.consumer_leave(request, turn),
            _ => self.consumer_beat(client, request, turn),
        };
        turn.reply(ticket, GroupResponse::ConsumerHeartbeat(answer.unwrap_or_else(failed)));
    }

    /// The group that a member joins: one that is not there, or has nobody in it, begins anew; one of the classic protocol
    /// changes to this one, if it may.
    fn join_consumer_group(&self, id: &str, records: &mut Vec<GroupRecord>) -> Result<ConsumerGroup, Refusal> {
        let id: Arc<str> = id.into();
        match self.groups.get(&id) {
            None => Ok(ConsumerGroup::new(id)),
            Some(classic) if classic.is(State::Empty) => {
                if !classic.is_simple() {
                    records.push(GroupRecord::Group(id.clone(), None));
                }
                Ok(ConsumerGroup::new(id))
            }
            Some(classic) => self.upgrade(classic, records),
        }
    }

    fn consumer_beat(
        &mut self,
        client: &GroupClient,
        request: &ConsumerGroupHeartbeatRequest,
        turn: &mut GroupTurn<'_>,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refusal> {
        let id = request.group_id.as_str();
        let joins = request.member_epoch == 0;
        let mut records: Vec<GroupRecord> = Vec::new();
        let made;
        let group = match self.consumers.get(id) {
            Some(group) => group,
            None if joins => {
                made = self.join_consumer_group(id, &mut records)?;
                &made
            }
            None if self.groups.contains_key(id) => return Err(not_a_consumer_group(id)),
            None => {
                let message = format!("Consumer group {id} not found.");
                return Err(Refusal::new(ErrorCode::GroupIdNotFound, message));
            }
        };
        group.check_room(&request.member_id, &self.config.consumer)?;
        let member_id: Arc<str> = match request.member_id.as_str() {
            "" => Uuid::from_random(turn.rng.bytes16()).to_string().into(),
            id => id.into(),
        };
        let owned = request.topic_partitions.as_deref().map(owned);
        let found = group.find_member(&member_id, request, owned.as_ref())?;
        let info = told(&found.member, client, request);
        let advance = Advance { group, found, info, owned, joins, may_retarget: true };
        let advanced = self.advance(&advance, turn, &mut records)?;

        let (before, member) = (&advance.found.member.current, &advanced.member);
        let is_full = request.rebalance_timeout_ms != -1
            && (request.subscribed_topic_names.is_some() || request.subscribed_topic_regex.is_some())
            && request.topic_partitions.is_some();
        let tells = joins || is_full || partitions(&before.assigned) != partitions(&member.current.assigned);
        let response = ConsumerGroupHeartbeatResponse {
            member_id: Some(Str::from(&*member.id)),
            member_epoch: member.current.epoch,
            heartbeat_interval_ms: self.heartbeat_interval_ms(id),
            assignment: tells.then(|| assignment(&member.current.assigned)),
            ..ConsumerGroupHeartbeatResponse::default()
        };
        let session = GroupTimer::Session { group: group.id.clone(), member: member.id.clone() };
        turn.schedule(session, millis(self.session_timeout_ms(id)));
        self.upgraded(id, turn);
        self.advanced(id, &advanced, records, turn);
        Ok(response)
    }

    /// Takes a member, and with it the group, a step further: records only, nothing is changed yet.
    pub(super) fn advance(
        &self,
        advance: &Advance<'_>,
        turn: &mut GroupTurn<'_>,
        records: &mut Vec<GroupRecord>,
    ) -> Result<Advanced, Refusal> {
        let Advance { group, found, info, owned, .. } = advance;
        let config = &self.config.consumer;
        let mut log = |record: ConsumerRecord| records.push(GroupRecord::Consumer(group.id.clone(), record));
        found.replacement.iter().for_each(|record| log(record.clone()));

        // 1. The member, and what the assignment depends on.
        let mut member = ConsumerMember { info: info.clone(), ..found.member.clone() };
        let is_renamed = member.info.topics != found.member.info.topics;
        if member.info != found.member.info {
            log(ConsumerRecord::Member(member.id.clone(), Some(member.info.clone())));
        }
        let gone: &[Arc<str>] = found.replaced.as_slice();
        let news = self.regex_news(group, &found.member, &member, gone, turn, &mut log)?;
        let has_new_subscription = is_renamed || news.is_changed;
        let mut epoch = group.epoch();
        let mut looked_at = None;
        let is_new = found.replacement.is_empty() && group.member(&member.id).is_none();
        let mut causes = Vec::new();
        if !found.replacement.is_empty() {
            let detail = found.replaced.as_ref().map(|old| format!("was {old}")).unwrap_or_default();
            causes.push(member.cause(Why::Replaced, &detail));
        } else if is_new {
            causes.push(member.cause(Why::Joined, ""));
        }
        let must_rise = is_renamed || (news.is_changed && news.is_resolved);
        if must_rise || group.needs_look() {
            let change = Change { updated: Some(&member), gone };
            let metadata_hash = group.hash_after(change, &self.topics);
            if must_rise || metadata_hash != group.epoch.metadata_hash {
                epoch += 1;
                let why = match () {
                    () if advance.joins => format!("{} joins", member.id),
                    () if must_rise => format!("{} has changed its subscription", member.id),
                    () => "topics have changed".to_owned(),
                };
                turn.note(format!("group {}: epoch {epoch}: {why}", group.id));
                if !must_rise {
                    causes.push(Cause::of_group(Why::Topics, "what it reads was made, changed or deleted"));
                } else if !is_new {
                    causes.push(member.cause(Why::Subscription, ""));
                }
                log(ConsumerRecord::Group(Some(GroupEpoch { epoch, metadata_hash })));
            }
            if group.has_partition_metadata {
                log(ConsumerRecord::PartitionMetadata { is_gone: true });
            }
            looked_at = Some(epoch);
        }

        // 2. The target.
        let now_ms = turn.wall().0;
        let interval_ms = self.assignment_interval_ms(&group.id);
        let may_retarget = advance.may_retarget && group.may_retarget(now_ms, interval_ms);
        let (target_epoch, target) = if may_retarget && epoch > group.target_epoch() {
            let change = Change { updated: Some(&member), gone };
            let target_epoch = TargetEpoch { epoch, timestamp: now_ms };
            let retargeted = group.retarget(target_epoch, change, &self.topics, config);
            turn.note(format!("group {}: epoch {epoch} is assigned by {}", group.id, retargeted.assignor));
            retargeted.records.iter().for_each(|record| log(record.clone()));
            (epoch, retargeted.of(&member.id))
        } else {
            (group.target_epoch(), group.target_of(&member))
        };

        // 3. The member's way there.
        let before = &found.member.current;
        if has_new_subscription || !before.is_reconciled_to(target_epoch) {
            let subscribed = group.subscribed(&member.info, &self.topics);
            let step = Step {
                epoch: target_epoch,
                target: &target,
                subscribed: &subscribed,
                has_new_subscription,
                owned: owned.as_ref(),
            };
            let is_own = |owner: &Arc<str>| *owner == member.id || gone.contains(owner);
            member.current =
                reconcile(before, &step, |topic, partition| group.owner(topic, partition).is_none_or(is_own))?;
        }
        if member.current != *before {
            log(ConsumerRecord::Current(member.id.clone(), Some(member.current.clone())));
            // Members that speak the classic protocol have their time to join and to ask instead.
            if !member.is_classic() {
                let timer = GroupTimer::Revocation { group: group.id.clone(), member: member.id.clone() };
                match member.current.state {
                    MemberState::Unrevoked => turn.schedule(timer, millis(member.info.rebalance_timeout_ms)),
                    _ => turn.cancel(timer),
                }
            }
        }
        if news.is_due {
            turn.schedule(GroupTimer::Regexes(group.id.clone()), Duration::ZERO);
        }
        Ok(Advanced { member, looked_at, is_raised: epoch > group.epoch(), causes, replaced: found.replaced.clone() })
    }

    /// What [`GroupShard::advance`] came to is to be written.
    pub(super) fn advanced(
        &mut self,
        id: &str,
        advanced: &Advanced,
        records: Vec<GroupRecord>,
        turn: &mut GroupTurn<'_>,
    ) {
        if let Some(epoch) = advanced.looked_at
            && let Some(group) = self.consumers.get_mut(id)
        {
            group.looked_at(epoch);
        }
        self.tell_why(advanced);
        records.into_iter().for_each(|record| turn.record(record));
    }

    /// Tells the journal what has brought a member further.
    pub(super) fn tell_why(&mut self, advanced: &Advanced) {
        for cause in &advanced.causes {
            self.journals.because(cause.clone());
        }
        if let Some(old) = &advanced.replaced {
            self.journals.rename(old, &advanced.member.id);
        }
    }

    /// What becomes of the group's regular expressions when a member says what it says. A new one is looked at, but resolved
    /// in a turn of its own: with all others of the group, so that they cause one rebalance together.
    fn regex_news(
        &self,
        group: &ConsumerGroup,
        before: &ConsumerMember,
        after: &ConsumerMember,
        gone: &[Arc<str>],
        turn: &GroupTurn<'_>,
        log: &mut impl FnMut(ConsumerRecord),
    ) -> Result<RegexNews, Refusal> {
        let change = Change { updated: Some(after), gone };
        let (old, new) = (&before.info.regex, &after.info.regex);
        let mut news = RegexNews { is_changed: old != new, ..RegexNews::default() };
        if news.is_changed {
            if before.has_regex() && group.by_regex.get(old) == Some(&1) {
                log(ConsumerRecord::Regex(old.clone(), None));
            }
            if !after.has_regex() {
                news.is_resolved = true;
            } else if group.by_regex.contains_key(new) {
                news.is_resolved = group.resolved.contains_key(new);
            } else {
                compile(new)?;
                news.is_due = true;
            }
        }
        let regexes = group.regexes_after(change);
        let now_ms = turn.wall().0;
        let since = group.resolved_at();
        if regexes.is_empty() || since.is_some_and(|since| now_ms <= since.saturating_add(REGEX_INTERVAL_MS)) {
            return Ok(RegexNews { is_due: false, ..news });
        }
        news.is_due = news.is_due
            || regexes.len() != group.resolved.len()
            || group.resolved_version() < self.topics.created_at()
            || since.is_none_or(|since| now_ms > since + self.config.consumer.regex_refresh_interval_ms);
        Ok(news)
    }

    /// Finds the topics of all regular expressions of a group.
    pub(in crate::group) fn resolve_regexes(&mut self, id: &str, turn: &mut GroupTurn<'_>) {
        let Some(group) = self.consumers.get_mut(id) else { return };
        let (version, timestamp) = (self.topics.version(), turn.wall().0);
        let mut is_new = false;
        let mut after = group.resolved.clone();
        for regex in group.by_regex.keys() {
            // It was compiled when it came; what no version of this program compiles any more stands for nothing.
            let names = compile(regex).map_or_else(
                |_| BTreeSet::new(),
                |compiled| {
                    let names = self.topics.image().topics_by_name().map(|topic| &topic.name);
                    names.filter(|name| compiled.is_match(name)).cloned().collect()
                },
            );
            let resolved = ResolvedRegex { topics: names, version, timestamp };
            let known = group.resolved.get(regex).map(|known| &known.topics);
            is_new |= *known.unwrap_or(&BTreeSet::new()) != resolved.topics;
            after.insert(regex.clone(), resolved.clone());
            turn.record(GroupRecord::Consumer(group.id.clone(), ConsumerRecord::Regex(regex.clone(), Some(resolved))));
        }
        // The hash is that of the topics as they will be resolved.
        let known = std::mem::replace(&mut group.resolved, after);
        let metadata_hash = group.hash_after(Change::default(), &self.topics);
        group.resolved = known;
        if is_new || metadata_hash != group.epoch.metadata_hash {
            let epoch = group.epoch() + 1;
            turn.note(format!("group {id}: epoch {epoch}: regular expressions were resolved"));
            self.journals.because(Cause::of_group(Why::Topics, "regular expressions were resolved"));
            turn.record(GroupRecord::Consumer(
                group.id.clone(),
                ConsumerRecord::Group(Some(GroupEpoch { epoch, metadata_hash })),
            ));
            group.looked_at(epoch);
        }
    }

    // ---- configs ----

    fn group_config(&self, id: &str, name: &str) -> Option<String> {
        self.topics.image().config(&ConfigResource::group(id), name).map(str::to_owned)
    }

    pub(super) fn session_timeout_ms(&self, id: &str) -> i32 {
        self.config.consumer.session_timeout.of(self.group_config(id, "consumer.session.timeout.ms").as_deref())
    }

    fn heartbeat_interval_ms(&self, id: &str) -> i32 {
        self.config.consumer.heartbeat_interval.of(self.group_config(id, "consumer.heartbeat.interval.ms").as_deref())
    }

    fn assignment_interval_ms(&self, id: &str) -> i32 {
        let image = self.topics.image();
        let cluster = image.config(&ConfigResource::cluster(), "group.consumer.assignment.interval.ms");
        let bounds = self.config.consumer.assignment_interval;
        let own = self.group_config(id, "consumer.assignment.interval.ms");
        bounds.of(own.as_deref().or(cluster))
    }
}

/// Partitions without their epochs.
fn partitions(assigned: &Assigned) -> impl PartialEq {
    assigned
        .iter()
        .map(|(topic, partitions)| (*topic, partitions.keys().copied().collect()))
        .collect::<Vec<(_, Vec<i32>)>>()
}

pub(super) fn not_a_consumer_group(id: &str) -> Refusal {
    Refusal::new(ErrorCode::GroupIdNotFound, format!("Group {id} is not a consumer group."))
}

/// What is known of a member with what its request says.
fn told(member: &ConsumerMember, client: &GroupClient, request: &ConsumerGroupHeartbeatRequest) -> MemberInfo {
    let mut info = member.info.clone();
    let some = |text: &Option<Str>| text.as_deref().map(Arc::from);
    info.instance_id = some(&request.instance_id).or(info.instance_id);
    info.rack_id = some(&request.rack_id).or(info.rack_id);
    if request.rebalance_timeout_ms != -1 {
        info.rebalance_timeout_ms = request.rebalance_timeout_ms;
    }
    info.assignor = some(&request.server_assignor).or(info.assignor);
    if let Some(names) = &request.subscribed_topic_names {
        info.topics = names.iter().map(|name| Arc::from(name.as_str())).collect();
    }
    if let Some(regex) = &request.subscribed_topic_regex {
        info.regex = regex.as_str().into();
    }
    info.client_id.clone_from(&client.client_id);
    info.client_host.clone_from(&client.host);
    info.classic = None;
    info
}

/// The member that a request is from.
pub(super) struct Found {
    pub member: ConsumerMember,
    /// The member in whose place it comes.
    pub replaced: Option<Arc<str>>,
    /// What puts it there.
    pub replacement: Vec<ConsumerRecord>,
}

impl Found {
    pub fn known(member: ConsumerMember) -> Self {
        Self { member, replaced: None, replacement: Vec::new() }
    }
}

/// A member of which something new is known.
pub(super) struct Advance<'a> {
    pub group: &'a ConsumerGroup,
    pub found: Found,
    pub info: MemberInfo,
    /// What it says that it has.
    pub owned: Option<Partitions>,
    pub joins: bool,
    pub may_retarget: bool,
}

/// What came of it.
pub(super) struct Advanced {
    pub member: ConsumerMember,
    looked_at: Option<i32>,
    /// The group is in a new epoch.
    pub is_raised: bool,
    /// What the journal is told if it comes to records.
    pub causes: Vec<Cause>,
    /// The static member's id until now.
    pub replaced: Option<Arc<str>>,
}

impl ConsumerGroup {
    pub(super) fn check_room(&self, member_id: &str, config: &ConsumerConfig) -> Result<(), Refusal> {
        if self.members.len() < config.size_max || self.members.contains_key(member_id) {
            return Ok(());
        }
        let message = format!("The consumer group has reached its maximum capacity of {} members.", config.size_max);
        Err(Refusal::new(ErrorCode::GroupMaxSizeReached, message))
    }

    /// The interval between two assignments has passed.
    fn may_retarget(&self, now_ms: i64, interval_ms: i32) -> bool {
        let since = self.target_epoch.timestamp;
        since == 0 || interval_ms == 0 || !(since..since + i64::from(interval_ms)).contains(&now_ms)
    }

    fn find_member(
        &self,
        id: &Arc<str>,
        request: &ConsumerGroupHeartbeatRequest,
        owned: Option<&Partitions>,
    ) -> Result<Found, Refusal> {
        let joins = request.member_epoch == 0;
        let Some(instance_id) = request.instance_id.as_deref() else {
            let member = match self.members.get(id) {
                Some(member) => member.clone(),
                None if joins => ConsumerMember::new(id.clone()),
                None => self.expect_member(id)?.clone(),
            };
            member.check_epoch(request.member_epoch, owned)?;
            return Ok(Found::known(member));
        };
        match self.static_member(instance_id) {
            None if joins => {
                let member = self.members.get(id).cloned().unwrap_or_else(|| ConsumerMember::new(id.clone()));
                Ok(Found::known(member))
            }
            Some(existing) if joins => {
                if !existing.is_classic() && existing.current.epoch != AWAY_EPOCH {
                    let message = format!(
                        "Static member {id} with instance id {instance_id} cannot join the group because the \
                         instance id is owned by {} member.",
                        existing.id
                    );
                    return Err(Refusal::new(ErrorCode::UnreleasedInstanceId, message));
                }
                Ok(self.replace(existing, id.clone()))
            }
            _ => {
                let member = self.expect_static(instance_id, id)?;
                member.check_epoch(request.member_epoch, owned)?;
                Ok(Found::known(member.clone()))
            }
        }
    }

    /// The static member with this instance id, if that has this member id.
    pub(super) fn expect_static(&self, instance_id: &str, id: &str) -> Result<&ConsumerMember, Refusal> {
        let Some(member) = self.static_member(instance_id) else {
            return Err(Refusal::new(ErrorCode::UnknownMemberId, format!("Instance id {instance_id} is unknown.")));
        };
        if *member.id != *id {
            let message =
                format!("Static member {id} with instance id {instance_id} was fenced by member {}.", member.id);
            return Err(Refusal::new(ErrorCode::FencedInstanceId, message));
        }
        Ok(member)
    }

    /// A static member comes back, under a new id: with all that it had.
    pub(super) fn replace(&self, existing: &ConsumerMember, id: Arc<str>) -> Found {
        let mut member = ConsumerMember { id: id.clone(), ..existing.clone() };
        member.current.epoch = 0;
        member.current.previous_epoch = 0;
        let target = self.target.get(&existing.id).cloned().unwrap_or_default();
        let old = &existing.id;
        let replacement = vec![
            ConsumerRecord::Current(old.clone(), None),
            ConsumerRecord::TargetMember(old.clone(), None),
            ConsumerRecord::Member(old.clone(), None),
            ConsumerRecord::Member(id.clone(), Some(member.info.clone())),
            ConsumerRecord::TargetMember(id.clone(), Some(target)),
            ConsumerRecord::Current(id.clone(), Some(member.current.clone())),
        ];
        let replaced = (*old != id).then(|| old.clone());
        Found { member, replaced, replacement }
    }
}

impl ConsumerMember {
    /// A member whose epoch is not the one that is known is to drop all that it has, and to join again. Unless it missed
    /// the last answer only: then it has nothing that it may not have. Whoever joins again has dropped all.
    fn check_epoch(&self, told: i32, owned: Option<&Partitions>) -> Result<(), Refusal> {
        let own = self.current.epoch;
        if told == own || told == 0 {
            return Ok(());
        }
        let is_subset = |owned: &Partitions| {
            owned.iter().all(|(topic, partitions)| {
                let assigned = self.current.assigned.get(topic);
                partitions.iter().all(|partition| assigned.is_some_and(|has| has.contains_key(partition)))
            })
        };
        if told < own && told == self.current.previous_epoch && owned.is_some_and(is_subset) {
            return Ok(());
        }
        let side = if told > own { "greater" } else { "smaller" };
        let message = format!(
            "The consumer group member has a {side} member epoch ({told}) than the one known by the group coordinator \
             ({own}). The member must abandon all its partitions and rejoin."
        );
        Err(Refusal::new(ErrorCode::FencedMemberEpoch, message))
    }
}

impl ClassicGroup {
    /// It only keeps offsets: there is no record of it.
    pub(in crate::group) fn is_simple(&self) -> bool {
        self.is(State::Empty) && self.protocol_type.is_none() && self.generation == 0
    }
}
