"""What an application of aiokafka does with a cluster: the commands and what they print are those of with_kafka_python.py."""

import asyncio
import logging
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

import promises
from promises import COUNT, START, Ledger, check, deadline

PARTITIONS = 4
EACH = 25


async def raises(error, what, call):
    try:
        await call
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
    return AIOKafkaConsumer(**{**settings, **more})


async def read(reader, count):
    """Reads on from the consumer's positions until there are `count` records."""
    out = []
    tick = deadline(lambda: f"{len(out)} of {count} records came")
    while len(out) < count:
        tick()
        for records in (await reader.getmany(timeout_ms=100)).values():
            out.extend(records)
    return out


async def until(what, members, holds):
    tick = deadline(lambda: f"{what}: {[sorted(member.held) for member in members]}")
    while not holds():
        tick()
        for member in members:
            if member.task.done():
                member.task.result()
        await asyncio.sleep(0.01)


async def created(admin, topic, partitions, configs=None):
    """Creates a topic with three replicas, and waits until each partition is known to have a leader."""
    answer = await admin.create_topics([NewTopic(topic, partitions, 3, topic_configs=configs)])
    check([error for _, error, *_ in answer.topic_errors] == [0], f"create {topic}: {answer}")
    tick = deadline(f"{topic} has no leaders")
    while True:
        tick()
        described = (await admin.describe_topics([topic]))[0]
        found = described["partitions"]
        if described["error_code"] == 0 and len(found) == partitions and all(one["leader"] > 0 for one in found):
            return
        await asyncio.sleep(0.02)


# ---------------------------------------------------------------- one member


async def one_codec(admin, bootstrap, codec):
    topic = f"aiokafka-{codec}"
    partition = TopicPartition(topic, 0)
    await created(admin, topic, 1)
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", compression_type=codec, linger_ms=5
    ) as producer:
        for i in range(COUNT + 1):
            sent = await producer.send(
                topic,
                partition=0,
                key=f"key-{i}".encode(),
                value=None if i == COUNT else promises.value(i),
                headers=promises.headers(codec, i),
                timestamp_ms=START + i * 10,
            )
        last = await sent
        check(last.offset == COUNT, f"{codec}: the last offset is {last.offset}")

    reader = consumer(bootstrap)
    reader.assign([partition])
    await reader.start()
    check(await reader.beginning_offsets([partition]) == {partition: 0}, f"{codec}: beginning")
    check(await reader.end_offsets([partition]) == {partition: COUNT + 1}, f"{codec}: end")
    await reader.seek_to_beginning(partition)
    promises.check_round_trip(codec, await read(reader, COUNT + 1))
    for timestamp, offset in promises.TIMES:
        found = (await reader.offsets_for_times({partition: timestamp}))[partition]
        check((found and found.offset) == offset, f"{codec}: time {timestamp} is at {found}")
        if found is not None:
            check(found.timestamp == START + offset * 10, f"{codec}: time {timestamp} is at {found}")
            reader.seek(partition, offset)
            check((await read(reader, 1))[0].offset == offset, f"{codec}: reading on from {offset}")
    await reader.seek_to_end(partition)
    check(await reader.position(partition) == COUNT + 1, f"{codec}: the position at the end")
    check(not await reader.getmany(timeout_ms=100), f"{codec}: something after the end")
    await reader.stop()


async def topics(admin):
    topic = "aiokafka-topics"
    new = NewTopic(topic, 2, 3, topic_configs={"retention.ms": "3600000"})
    await admin.create_topics([new], validate_only=True)
    check(topic not in await admin.list_topics(), "validate_only creates nothing")
    await created(admin, topic, 2, {"retention.ms": "3600000"})

    async def refused(what, error, one):
        answer = await admin.create_topics([one])
        check([code for _, code, *_ in answer.topic_errors] == [error.errno], f"{what}: {answer}")

    await refused("created twice", errors.TopicAlreadyExistsError, new)
    await refused("nine replicas", errors.InvalidReplicationFactorError, NewTopic("aiokafka-nine", 1, 9))
    await refused("a name with a slash", errors.InvalidTopicError, NewTopic("a/b", 1, 3))
    check(topic in await admin.list_topics(), "the topic is listed")
    cluster = await admin.describe_cluster()
    check(sorted(broker["node_id"] for broker in cluster["brokers"]) == [1, 2, 3], f"brokers: {cluster}")

    await admin.create_partitions({topic: NewPartitions(4)})
    fewer = admin.create_partitions({topic: NewPartitions(3)})
    await raises(errors.InvalidPartitionsError, "fewer partitions", fewer)
    tick = deadline("four partitions")
    while len((await admin.describe_topics([topic]))[0]["partitions"]) != 4:
        tick()

    async def configs():
        answer = (await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)]))[0].resources[0]
        check(answer[0] == 0, f"describe_configs: {answer}")
        return {name: value for name, value, *_ in answer[4]}

    async def wait_config(name, value):
        tick = deadline(f"{name} is not {value}")
        while (await configs())[name] != value:
            tick()

    await wait_config("retention.ms", "3600000")
    # The older request: it sets what it names and resets all else.
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": "2000000"})])
    await wait_config("max.message.bytes", "2000000")
    await wait_config("retention.ms", "604800000")

    answer = await admin.delete_topics([topic, "never-there"])
    codes = dict(one[:2] for one in answer.topic_error_codes)
    check(codes == {topic: 0, "never-there": errors.UnknownTopicOrPartitionError.errno}, f"delete: {answer}")
    tick = deadline("the deleted topic is still listed")
    while topic in await admin.list_topics():
        tick()

    records = TopicPartition("aiokafka-zstd", 0)
    low = await admin.delete_records({records: RecordsToDelete(100)})
    check(low == {records: 100}, f"delete_records: {low}")


# ---------------------------------------------------------------- groups


class Member(ConsumerRebalanceListener):
    """A consumer with what its rebalance listener has been told, read from by a task of its own until it is left."""

    def __init__(self):
        self.held, self.read = set(), set()
        self.done = asyncio.Event()

    @classmethod
    async def join(cls, bootstrap, group, subscribed, **more):
        member = cls()
        member.consumer = consumer(bootstrap, group_id=group, **more)
        member.consumer.subscribe(subscribed, listener=member)
        await member.consumer.start()
        member.task = asyncio.create_task(member.run())
        return member

    def on_partitions_assigned(self, assigned):
        self.held = set(assigned)

    def on_partitions_revoked(self, revoked):
        self.held = set()

    async def run(self):
        while not self.done.is_set():
            for partition, records in (await self.consumer.getmany(timeout_ms=50)).items():
                self.read |= {(partition.topic, record.value) for record in records}
            await self.after_poll()

    async def after_poll(self):
        pass

    async def rest(self):
        """Leaves the loop; the consumer is still a member."""
        self.done.set()
        await asyncio.wait_for(self.task, promises.LIMIT)
        return self.consumer

    async def leave(self):
        await (await self.rest()).stop()


async def join_and_leave(admin, bootstrap, topic, assignor):
    group = f"aiokafka-{assignor.name}"
    more = dict(partition_assignment_strategy=[assignor])
    partitions = {TopicPartition(topic, i) for i in range(PARTITIONS)}
    first = await Member.join(bootstrap, group, [topic], **more)
    await until(f"{group}: one has all", [first], lambda: first.held == partitions)
    second = await Member.join(bootstrap, group, [topic], **more)
    both = [first, second]
    await until(f"{group}: each has half", both, lambda: len(first.held) == 2 and len(second.held) == 2)
    check(first.held | second.held == partitions, f"{group}: {first.held} and {second.held}")
    await until(f"{group}: all is read", both, lambda: len(first.read | second.read) == PARTITIONS * EACH)

    described = (await admin.describe_consumer_groups([group]))[0].groups
    check(len(described) == 1, f"{group}: {described}")
    error, _, state, kind, protocol, members = described[0][:6]
    check((error, state, kind, protocol, len(members)) == (0, "Stable", "consumer", assignor.name, 2), f"{described}")
    listed = [one for one in await admin.list_consumer_groups() if one[0] == group]
    check([one[1] for one in listed] == ["consumer"], f"{group} is listed as {listed}")

    await second.leave()
    await until(f"{group}: one has all again", [first], lambda: first.held == partitions)
    staying = await first.rest()
    await staying.commit({partition: (EACH - 1, "all but one") for partition in partitions})
    await staying.stop()

    # Whoever comes next goes on at what was committed.
    third = await Member.join(bootstrap, group, [topic], **more)
    await until(f"{group}: what is left is read", [third], lambda: len(third.read) >= PARTITIONS)
    await third.leave()
    check(len(third.read) == PARTITIONS, f"{group}: after all but one were committed, {len(third.read)} came")
    tick = deadline(f"{group} is not empty")
    while (await admin.describe_consumer_groups([group]))[0].groups[0][2] != "Empty":
        tick()


async def commits(admin, bootstrap, topic):
    group = "aiokafka-commits"
    zero, one = TopicPartition(topic, 0), TopicPartition(topic, 1)
    with_group = consumer(bootstrap, group_id=group)
    with_group.assign([zero, one])
    await with_group.start()
    check(await with_group.committed(zero) is None, "nothing is committed yet")
    with_group.seek(zero, 7)
    await with_group.commit({zero: (7, "halfway")})
    check(await with_group.committed(zero) == 7, "the commit counts")
    # As an application commits without waiting.
    await asyncio.create_task(with_group.commit({one: 9}))
    check(await with_group.committed(one) == 9, "the other commit counts")
    await with_group.stop()
    offsets = await admin.list_consumer_group_offsets(group)
    wanted = {zero: (7, "halfway"), one: (9, "")}
    check({partition: tuple(found[:2]) for partition, found in offsets.items()} == wanted, f"committed: {offsets}")

    again = consumer(bootstrap, group_id=group)
    again.assign([zero, one])
    await again.start()
    here = (await again.position(zero), await again.position(one))
    check(here == (7, 9), f"a restarted consumer goes on where it had committed, not at {here}")
    first = {record.partition: record.offset for record in reversed(await read(again, 2 * EACH - 16))}
    check(first == {0: 7, 1: 9}, f"it begins at {first}")
    await again.seek_to_committed()
    check(await again.position(zero) == 7, "seek_to_committed")
    await again.stop()

    # Committed on stop, without a word.
    automatic = consumer(bootstrap, group_id="aiokafka-automatic", enable_auto_commit=True)
    automatic.subscribe([topic])
    await automatic.start()
    await read(automatic, PARTITIONS * EACH)
    await automatic.stop()
    offsets = await admin.list_consumer_group_offsets("aiokafka-automatic")
    check([found.offset for found in offsets.values()] == [EACH] * PARTITIONS, f"committed on stop: {offsets}")

    # A static member that comes back under its name.
    for _ in range(2):
        named = await Member.join(bootstrap, "aiokafka-static", [topic], group_instance_id="the-one")
        await until("the static member has all", [named], lambda: len(named.held) == PARTITIONS)
        await named.leave()

    for reset, wanted in {"earliest": 0, "latest": EACH}.items():
        reader = consumer(bootstrap, group_id="aiokafka-reset", auto_offset_reset=reset)
        reader.assign([zero])
        await reader.start()
        here = await reader.position(zero)
        check(here == wanted, f"{reset} is at {here}")
        await reader.stop()
    reader = consumer(bootstrap, group_id="aiokafka-reset", auto_offset_reset="none")
    reader.assign([zero])
    await reader.start()
    await raises(errors.NoOffsetForPartitionError, "no commit and no reset", reader.getone())
    await reader.stop()


async def serve(bootstrap):
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    for codec in promises.CODECS:
        await one_codec(admin, bootstrap, codec)
    await topics(admin)
    topic = "aiokafka-groups"
    await created(admin, topic, PARTITIONS)
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True) as producer:
        sent = [await producer.send(topic, str(i).encode(), partition=i % PARTITIONS) for i in range(PARTITIONS * EACH)]
        await asyncio.gather(*sent)
    for assignor in [RangePartitionAssignor, RoundRobinPartitionAssignor, StickyPartitionAssignor]:
        await join_and_leave(admin, bootstrap, topic, assignor)
    await commits(admin, bootstrap, topic)
    await admin.close()
    print("OK", flush=True)


# ---------------------------------------------------------------- while a broker is killed


class Committing(Member):
    """Commits after each poll what it has read."""

    async def after_poll(self):
        try:
            await self.consumer.commit()
        except (errors.CommitFailedError, errors.IllegalStateError, errors.RebalanceInProgressError):
            # The group is being shared anew: whoever has the partitions next reads these again.
            pass


class Sending:
    """A producer that keeps a window of records under way until it is told to stop."""

    @classmethod
    async def start(cls, bootstrap, ledger):
        sending = cls()
        sending.ledger, sending.done, sending.room = ledger, asyncio.Event(), asyncio.Semaphore(200)
        sending.producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap, acks="all", enable_idempotence=ledger.exactly_once, linger_ms=2,
        )
        await sending.producer.start()
        sending.task = asyncio.create_task(sending.run())
        return sending

    async def run(self):
        while not self.done.is_set():
            await self.room.acquire()
            number = self.ledger.next()
            sent = await self.producer.send(
                self.ledger.topic, str(number).encode(), partition=self.ledger.partition(number))
            sent.add_done_callback(lambda sent, number=number: self.answered(number, sent))

    def answered(self, number, sent):
        if sent.exception() is None:
            self.ledger.acknowledged[number] = sent.result().offset
        else:
            self.ledger.failed.append(sent.exception())
        self.room.release()

    async def stop(self):
        self.done.set()
        await asyncio.wait_for(self.task, promises.LIMIT)
        await asyncio.wait_for(self.producer.flush(), 2 * promises.LIMIT)
        await self.producer.stop()


async def leaders(admin, names):
    return {part["leader"] for topic in await admin.describe_topics(names) for part in topic["partitions"]}


async def survive(bootstrap):
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    partitions, group = 4, "aiokafka-survive"
    ledgers = [Ledger("aiokafka-once", partitions, True), Ledger("aiokafka-least", partitions, False)]
    names = [ledger.topic for ledger in ledgers]
    for name in names:
        await created(admin, name, partitions, {"min.insync.replicas": "2"})
    members = [await Committing.join(bootstrap, group, names) for _ in range(2)]
    await until("the members share", members, lambda: [len(member.held) for member in members] == [partitions] * 2)
    senders = [await Sending.start(bootstrap, ledger) for ledger in ledgers]

    async def more(count):
        """Waits until `count` more records of each producer are acknowledged."""
        wanted = [len(ledger.acknowledged) + count for ledger in ledgers]
        await until(f"{count} more acknowledgements", members,
                    lambda: all(len(ledger.acknowledged) >= least for ledger, least in zip(ledgers, wanted)))

    await more(500)
    before = await leaders(admin, names)
    print("STARTED", flush=True)
    tick = deadline("every broker still leads something: none was killed")
    while True:
        tick()
        try:
            now = await leaders(admin, names)
        except errors.KafkaError:
            # It had asked the one that was killed; it asks another next time.
            continue
        if -1 not in now and before - now:
            break
        await asyncio.sleep(0.02)
    await more(1000)
    for sender in senders:
        await sender.stop()

    wanted = {(ledger.topic, str(number).encode()) for ledger in ledgers for number in ledger.acknowledged}
    await until("the group reads all that was acknowledged", members,
                lambda: wanted <= members[0].read | members[1].read)
    for member in members:
        await member.leave()
    await admin.close()

    reader = consumer(bootstrap, group_id=group)
    ends = {}
    reader.assign([TopicPartition(ledger.topic, i) for ledger in ledgers for i in range(partitions)])
    await reader.start()
    for ledger in ledgers:
        parts = [TopicPartition(ledger.topic, i) for i in range(partitions)]
        ends.update(await reader.end_offsets(parts))
        await reader.seek_to_beginning(*parts)
    stored = {part: [] for part in ends}
    for record in await read(reader, sum(ends.values())):
        values = stored[TopicPartition(record.topic, record.partition)]
        check(record.offset == len(values), f"a gap before {record}")
        values.append(record.value)
    for ledger in ledgers:
        of_it = {part.partition: values for part, values in stored.items() if part.topic == ledger.topic}
        ledger.check_stored(of_it)
        print(ledger.says(of_it))
    committed = {part: await reader.committed(part) for part in ends}
    check(committed == ends, f"the group has committed {committed} of {ends}")
    await reader.stop()
    print("OK", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)
    asyncio.run({"serve": serve, "survive": survive}[sys.argv[1]](sys.argv[2].split(",")))
