"""What an application of kafka-python does with a cluster.

serve BOOTSTRAP    every codec, positions, admin requests, groups of every assignor, commits; prints OK
survive BOOTSTRAP  two producers with acks=all, one of them idempotent, and a group; when they are under way it prints
                   STARTED and waits until a broker is killed; then compares what was acknowledged, stored and read;
                   prints OK
"""

import logging
import sys
import threading
import time

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka import errors
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, OffsetSpec
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

import promises
from promises import COUNT, START, Ledger, check, deadline

PARTITIONS = 4
EACH = 25


def raises(error, what, call):
    try:
        call()
    except error:
        return
    check(False, f"{what}: no {error.__name__}")


def consumer(bootstrap, **more):
    settings = dict(
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        heartbeat_interval_ms=200,
        session_timeout_ms=20_000,
        # Who seeks has to wait for the fetch that is under way.
        fetch_max_wait_ms=50,
    )
    return KafkaConsumer(**{**settings, **more})


def read(reader, count):
    """Reads on from the consumer's positions until there are `count` records."""
    out = []
    tick = deadline(lambda: f"{len(out)} of {count} records came")
    while len(out) < count:
        tick()
        for records in reader.poll(100).values():
            out.extend(records)
    return out


# ---------------------------------------------------------------- one member


def one_codec(admin, bootstrap, codec):
    topic = f"kafka-python-{codec}"
    partition = TopicPartition(topic, 0)
    admin.create_topics({topic: {"num_partitions": 1, "replication_factor": 3}}, wait_for_metadata=True)
    producer = KafkaProducer(bootstrap_servers=bootstrap, compression_type=codec, linger_ms=5)
    for i in range(COUNT):
        producer.send(
            topic,
            partition=0,
            key=f"key-{i}".encode(),
            value=promises.value(i),
            headers=promises.headers(codec, i),
            timestamp_ms=START + i * 10,
        )
    producer.flush(promises.LIMIT)
    last = producer.send(
        topic,
        partition=0,
        key=f"key-{COUNT}".encode(),
        value=None,
        headers=promises.headers(codec, COUNT),
        timestamp_ms=START + COUNT * 10,
    ).get(promises.LIMIT)
    check(last.offset == COUNT, f"{codec}: the last offset is {last.offset}")
    producer.close()

    reader = consumer(bootstrap)
    reader.assign([partition])
    check(reader.beginning_offsets([partition]) == {partition: 0}, f"{codec}: beginning")
    check(reader.end_offsets([partition]) == {partition: COUNT + 1}, f"{codec}: end")
    reader.seek_to_beginning(partition)
    promises.check_round_trip(codec, read(reader, COUNT + 1))
    for timestamp, offset in promises.TIMES:
        found = reader.offsets_for_times({partition: timestamp})[partition]
        check((found and found.offset) == offset, f"{codec}: time {timestamp} is at {found}")
        if found is not None:
            check(found.timestamp == START + offset * 10, f"{codec}: time {timestamp} is at {found}")
            reader.seek(partition, offset)
            check(read(reader, 1)[0].offset == offset, f"{codec}: reading on from {offset}")
    reader.seek_to_end(partition)
    check(reader.position(partition) == COUNT + 1, f"{codec}: the position at the end")
    check(not reader.poll(100), f"{codec}: something after the end")
    reader.close()


def topics(admin):
    topic = "kafka-python-topics"
    about = {"num_partitions": 2, "replication_factor": 3, "configs": {"retention.ms": "3600000"}}
    admin.create_topics({topic: about}, validate_only=True)
    check(topic not in admin.list_topics(), "validate_only creates nothing")
    admin.create_topics({topic: about}, wait_for_metadata=True)
    raises(errors.TopicAlreadyExistsError, "created twice", lambda: admin.create_topics({topic: about}))
    raises(errors.InvalidReplicationFactorError, "nine replicas",
           lambda: admin.create_topics({"kafka-python-nine": {"num_partitions": 1, "replication_factor": 9}}))
    raises(errors.InvalidTopicError, "a name with a slash", lambda: admin.create_topics({"a/b": about}))
    check(topic in admin.list_topics(), "the topic is listed")
    described = admin.describe_topics([topic])[0]
    check(len(described["partitions"]) == 2, f"partitions: {described}")
    for partition in described["partitions"]:
        check(sorted(partition["replica_nodes"]) == [1, 2, 3], f"replicas: {partition}")
        check(partition["leader_id"] == partition["replica_nodes"][0], f"leader: {partition}")
    cluster = admin.describe_cluster()
    check(sorted(broker["broker_id"] for broker in cluster["brokers"]) == [1, 2, 3], f"brokers: {cluster}")

    admin.create_partitions({topic: 4})
    raises(errors.InvalidPartitionsError, "fewer partitions", lambda: admin.create_partitions({topic: 3}))
    raises(errors.UnknownTopicOrPartitionError, "more partitions of nothing",
           lambda: admin.create_partitions({"never-there": 3}))
    admin.wait_for_topics([topic])
    tick = deadline("four partitions")
    while len(admin.describe_topics([topic])[0]["partitions"]) != 4:
        tick()

    def config(name, **more):
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, [name])
        found = admin.describe_configs([resource], config_filter="all", **more)["topic"][topic]
        check(list(found) == [name], f"only {name} was asked for: {found}")
        return found[name]

    def wait_config(name, value, source):
        tick = deadline(lambda: f"{name} is {config(name)}")
        while (config(name)["value"], config(name)["config_source"]) != (value, source):
            tick()

    wait_config("retention.ms", "3600000", "DYNAMIC_TOPIC_CONFIG")
    admin.alter_configs([ConfigResource("TOPIC", topic, {"retention.ms": "7200000", "max.message.bytes": "2000000"})])
    wait_config("retention.ms", "7200000", "DYNAMIC_TOPIC_CONFIG")
    synonyms = [synonym["source"] for synonym in config("max.message.bytes", include_synonyms=True)["synonyms"]]
    check(len(synonyms) == 2, f"synonyms: {synonyms}")
    admin.reset_configs([ConfigResource("TOPIC", topic, ["retention.ms"])])
    wait_config("retention.ms", "604800000", "DEFAULT_CONFIG")
    wait_config("max.message.bytes", "2000000", "DYNAMIC_TOPIC_CONFIG")
    refused = admin.alter_configs([ConfigResource("TOPIC", topic, {"retention.ms": "long"})])["topic"][topic]
    check("InvalidConfigurationError" in refused, f"a bad value: {refused}")
    admin.alter_configs([ConfigResource("TOPIC", topic, {"cleanup.policy": ("APPEND", "compact")})])
    wait_config("cleanup.policy", "delete,compact", "DYNAMIC_TOPIC_CONFIG")

    admin.delete_topics([topic])
    raises(errors.UnknownTopicOrPartitionError, "deleted twice", lambda: admin.delete_topics(["never-there"]))
    tick = deadline("the deleted topic is still listed")
    while topic in admin.list_topics():
        tick()

    records = TopicPartition("kafka-python-zstd", 0)
    low = admin.delete_records({records: 100})[records]["low_watermark"]
    check(low == 100, f"delete_records: {low}")
    beginning = admin.list_partition_offsets({records: OffsetSpec.EARLIEST})[records].offset
    check(beginning == 100, f"the beginning after delete_records is {beginning}")
    highest = admin.list_partition_offsets({records: OffsetSpec.MAX_TIMESTAMP})[records]
    check((highest.offset, highest.timestamp) == (COUNT, START + COUNT * 10), f"the newest record: {highest}")


# ---------------------------------------------------------------- groups


class Member(ConsumerRebalanceListener):
    """A consumer with what its rebalance listener has been told, in a thread of its own until it is left."""

    def __init__(self, bootstrap, group, subscribed, **more):
        self.consumer = consumer(bootstrap, group_id=group, **more)
        self.held, self.taken, self.read = set(), 0, set()
        self.error = None
        self.done = threading.Event()
        for topic in subscribed:
            # Else it may join before it knows the topic's partitions, and once more when it knows them.
            self.consumer.partitions_for_topic(topic)
        self.consumer.subscribe(subscribed, listener=self)
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def on_partitions_assigned(self, assigned):
        self.held |= set(assigned)

    def on_partitions_revoked(self, revoked):
        self.taken += len(revoked)
        self.held -= set(revoked)

    def run(self):
        try:
            while not self.done.is_set():
                # Longer than it takes to join: a poll that ends meanwhile can leave this client without its partitions
                # (3.0.12, with Apache Kafka 4.3.1 as well).
                for partition, records in self.consumer.poll(1000).items():
                    self.read |= {(partition.topic, record.value) for record in records}
                self.after_poll()
        except BaseException as error:
            self.error = error

    def after_poll(self):
        pass

    def check(self):
        if self.error is not None:
            raise self.error

    def stop(self):
        """Leaves the loop; the consumer is the caller's from now on."""
        self.done.set()
        self.thread.join(promises.LIMIT)
        check(not self.thread.is_alive(), "a poll does not return")
        self.check()
        return self.consumer


def until(what, members, holds):
    tick = deadline(lambda: f"{what}: {[member.held for member in members]}")
    while not holds():
        tick()
        for member in members:
            member.check()
        time.sleep(0.01)


def join_and_leave(admin, bootstrap, topic, assignor):
    group = f"kafka-python-{assignor.name}"
    more = dict(partition_assignment_strategy=[assignor])
    partitions = {TopicPartition(topic, i) for i in range(PARTITIONS)}
    first = Member(bootstrap, group, [topic], **more)
    until(f"{group}: one has all", [first], lambda: first.held == partitions)
    second = Member(bootstrap, group, [topic], **more)
    both = [first, second]
    until(f"{group}: each has half", both, lambda: len(first.held) == 2 and len(second.held) == 2)
    check(first.held | second.held == partitions, f"{group}: {first.held} and {second.held}")
    if assignor is CooperativeStickyAssignor:
        check(first.taken == 2, f"{group}: only what moves is taken, not {first.taken}")
    until(f"{group}: all is read", both, lambda: len(first.read | second.read) == PARTITIONS * EACH)

    description = admin.describe_groups([group])[group]
    check(description["group_state"] == "Stable", f"{group}: {description}")
    check(description["protocol_data"] == assignor.name, f"{group}: {description}")
    check(len(description["members"]) == 2, f"{group}: {description}")
    listed = [(one["protocol_type"], one["group_state"]) for one in admin.list_groups() if one["group_id"] == group]
    check(listed == [("consumer", "Stable")], f"{group} is listed as {listed}")
    refused = admin.delete_groups([group])[group]
    check(refused == "NonEmptyGroupError", f"{group}: deleted while it has members: {refused}")

    second.stop().close()
    until(f"{group}: one has all again", [first], lambda: first.held == partitions)
    left = first.stop()
    for partition in partitions:
        left.commit({partition: OffsetAndMetadata(EACH - 1, "all but one", -1)})
    left.close()

    # Whoever comes next goes on at what was committed.
    third = Member(bootstrap, group, [topic], **more)
    until(f"{group}: what is left is read", [third], lambda: len(third.read) >= PARTITIONS)
    third.stop().close()
    check(len(third.read) == PARTITIONS, f"{group}: after all but one were committed, {len(third.read)} came")
    tick = deadline(lambda: f"{group} is not empty")
    while admin.describe_groups([group])[group]["group_state"] != "Empty":
        tick()
    deleted = admin.delete_groups([group, "never-there"])
    check(deleted == {group: "OK", "never-there": "GroupIdNotFoundError"}, f"deleted: {deleted}")
    check(group not in [one["group_id"] for one in admin.list_groups()], f"{group} is still listed")


def commits(admin, bootstrap, topic):
    group = "kafka-python-commits"
    zero, one = TopicPartition(topic, 0), TopicPartition(topic, 1)
    with_group = consumer(bootstrap, group_id=group)
    with_group.assign([zero, one])
    check(with_group.committed(zero) is None, "nothing is committed yet")
    with_group.seek(zero, 7)
    read(with_group, 1)
    with_group.seek(zero, 7)
    with_group.commit({zero: OffsetAndMetadata(7, "halfway", -1)})
    found = with_group.committed(zero, metadata=True)
    check((found.offset, found.metadata) == (7, "halfway"), f"committed: {found}")
    answers = []
    with_group.commit_async({one: OffsetAndMetadata(9, "", -1)}, callback=lambda _, answer: answers.append(answer))
    tick = deadline("the callback of commit_async")
    while not answers:
        tick()
        with_group.poll(10)
    check(not isinstance(answers[0], Exception), f"commit_async: {answers}")
    check(with_group.committed(one) == 9, "the asynchronous commit counts")
    with_group.close()

    again = consumer(bootstrap, group_id=group)
    again.assign([zero, one])
    check((again.position(zero), again.position(one)) == (7, 9), "a restarted consumer goes on where it had committed")
    first = {record.partition: record.offset for record in reversed(read(again, 2 * EACH - 16))}
    check(first == {0: 7, 1: 9}, f"it begins at {first}")
    again.close()

    reported = admin.list_group_offsets([group])[group]
    check({partition.partition: found.offset for partition, found in reported.items()} == {0: 7, 1: 9}, f"{reported}")
    altered = admin.alter_group_offsets(group, {zero: OffsetAndMetadata(3, "", -1)})
    check(altered == {zero: errors.NoError}, f"altered: {altered}")
    admin.reset_group_offsets(group, {one: OffsetSpec.LATEST})
    reported = admin.list_group_offsets([group])[group]
    check({partition.partition: found.offset for partition, found in reported.items()} == {0: 3, 1: EACH}, f"{reported}")
    deleted = admin.delete_group_offsets(group, [one])
    check(deleted == {one: errors.NoError}, f"deleted offsets: {deleted}")
    check(list(admin.list_group_offsets([group])[group]) == [zero], "the offset is still there")
    check(admin.delete_groups([group]) == {group: "OK"}, "the group is deleted")

    # Committed on close, without a word.
    automatic = consumer(bootstrap, group_id="kafka-python-automatic", enable_auto_commit=True)
    automatic.subscribe([topic])
    read(automatic, PARTITIONS * EACH)
    automatic.close()
    reported = admin.list_group_offsets(["kafka-python-automatic"])["kafka-python-automatic"]
    check([found.offset for found in reported.values()] == [EACH] * PARTITIONS, f"committed on close: {reported}")

    # Static members: one that comes back under its name gets what it had without a rebalance.
    named = dict(group_instance_id="the-one", session_timeout_ms=20_000)
    before = Member(bootstrap, "kafka-python-static", [topic], **named)
    until("the static member has all", [before], lambda: len(before.held) == PARTITIONS)
    description = admin.describe_groups(["kafka-python-static"])["kafka-python-static"]
    names = [member["group_instance_id"] for member in description["members"]]
    check(names == ["the-one"], f"static members: {description}")
    before.stop().close()

    for reset, wanted in {"earliest": 0, "latest": EACH}.items():
        reader = consumer(bootstrap, group_id="kafka-python-reset", auto_offset_reset=reset)
        reader.assign([zero])
        check(reader.position(zero) == wanted, f"{reset} is at {reader.position(zero)}")
        reader.close()
    reader = consumer(bootstrap, group_id="kafka-python-reset", auto_offset_reset="none")
    reader.assign([zero])
    raises(errors.NoOffsetForPartitionError, "no commit and no reset", lambda: reader.position(zero))
    reader.close()


def serve(bootstrap):
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    for codec in promises.CODECS:
        one_codec(admin, bootstrap, codec)
    topics(admin)
    topic = "kafka-python-groups"
    admin.create_topics({topic: {"num_partitions": PARTITIONS, "replication_factor": 3}}, wait_for_metadata=True)
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    sent = [producer.send(topic, str(i).encode(), partition=i % PARTITIONS) for i in range(PARTITIONS * EACH)]
    for one in sent:
        one.get(promises.LIMIT)
    producer.close()
    for assignor in [
        RangePartitionAssignor, RoundRobinPartitionAssignor, StickyPartitionAssignor, CooperativeStickyAssignor
    ]:
        join_and_leave(admin, bootstrap, topic, assignor)
    commits(admin, bootstrap, topic)
    admin.close()
    print("OK", flush=True)


# ---------------------------------------------------------------- while a broker is killed


class Committing(Member):
    """Commits after each poll what it has read."""

    def after_poll(self):
        try:
            self.consumer.commit()
        except (errors.CommitFailedError, errors.RebalanceInProgressError, errors.IllegalGenerationError,
                errors.UnknownMemberIdError):
            # The group is being shared anew: whoever has the partitions next reads these again.
            pass


class Sending:
    """A producer that keeps a window of records under way until it is told to stop."""

    def __init__(self, bootstrap, ledger):
        self.ledger = ledger
        self.producer = KafkaProducer(
            bootstrap_servers=bootstrap, acks="all", enable_idempotence=ledger.exactly_once, linger_ms=2,
            reconnect_backoff_max_ms=1000,
        )
        self.room, self.done = threading.Semaphore(200), threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.done.is_set():
            if not self.room.acquire(timeout=0.1):
                continue
            number = self.ledger.next()
            sent = self.producer.send(
                self.ledger.topic, str(number).encode(), partition=self.ledger.partition(number))
            sent.add_callback(self.acknowledged, number)
            sent.add_errback(self.failed)

    def acknowledged(self, number, metadata):
        self.ledger.acknowledged[number] = metadata.offset
        self.room.release()

    def failed(self, error):
        self.ledger.failed.append(error)
        self.room.release()

    def stop(self):
        self.done.set()
        self.thread.join(promises.LIMIT)
        check(not self.thread.is_alive(), "the producer hangs")
        self.producer.flush(2 * promises.LIMIT)
        self.producer.close()


def leaders(admin, topics):
    return {partition["leader_id"] for topic in admin.describe_topics(topics) for partition in topic["partitions"]}


def survive(bootstrap):
    admin = KafkaAdminClient(bootstrap_servers=bootstrap, reconnect_backoff_max_ms=1000)
    partitions, group = 4, "kafka-python-survive"
    ledgers = [Ledger("kafka-python-once", partitions, True), Ledger("kafka-python-least", partitions, False)]
    names = [ledger.topic for ledger in ledgers]
    about = {"num_partitions": partitions, "replication_factor": 3, "configs": {"min.insync.replicas": "2"}}
    admin.create_topics({name: about for name in names}, wait_for_metadata=True)
    members = [Committing(bootstrap, group, names, reconnect_backoff_max_ms=1000) for _ in range(2)]
    until("the members share", members, lambda: [len(member.held) for member in members] == [partitions] * 2)
    senders = [Sending(bootstrap, ledger) for ledger in ledgers]

    def more(count):
        """Waits until `count` more records of each producer are acknowledged."""
        wanted = [len(ledger.acknowledged) + count for ledger in ledgers]
        until(f"{count} more acknowledgements", members,
              lambda: all(len(ledger.acknowledged) >= least for ledger, least in zip(ledgers, wanted)))

    more(500)
    before = leaders(admin, names)
    print("STARTED", flush=True)
    tick = deadline("every broker still leads something: none was killed")
    while True:
        tick()
        try:
            now = leaders(admin, names)
        except errors.KafkaError:
            # It had asked the one that was killed; it asks another next time.
            continue
        if -1 not in now and before - now:
            break
        time.sleep(0.02)
    more(1000)
    for sender in senders:
        sender.stop()

    wanted = {(ledger.topic, str(number).encode()) for ledger in ledgers for number in ledger.acknowledged}
    until("the group reads all that was acknowledged", members, lambda: wanted <= members[0].read | members[1].read)
    for member in members:
        member.stop().close()
    ends = {}
    reader = consumer(bootstrap)
    for ledger in ledgers:
        parts = [TopicPartition(ledger.topic, i) for i in range(partitions)]
        ends.update(reader.end_offsets(parts))
        reader.assign(parts)
        reader.seek_to_beginning(*parts)
        stored = {i: [] for i in range(partitions)}
        for record in read(reader, sum(ends[part] for part in parts)):
            check(record.offset == len(stored[record.partition]), f"a gap before {record}")
            stored[record.partition].append(record.value)
        ledger.check_stored(stored)
        print(ledger.says(stored))
    reader.close()
    committed = admin.list_group_offsets([group])[group]
    committed = {partition: found.offset for partition, found in committed.items()}
    check(committed == ends, f"the group has committed {committed} of {ends}")
    admin.close()
    print("OK", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    {"serve": serve, "survive": survive}[sys.argv[1]](sys.argv[2].split(","))
