"""What both programs here check, and what they remember of what a cluster promised them."""

import time

LIMIT = 60
"""Seconds after which something that is waited for has failed."""

START = 1_700_000_000_000
"""The timestamp of the first record of a round trip; each further one is 10 ms later."""
COUNT = 500
"""Records of a round trip, before the tombstone that closes it."""

CODECS = [None, "gzip", "snappy", "lz4", "zstd"]


def check(holds, what):
    if not holds:
        raise AssertionError(what)


def deadline(what):
    """Call the result in a loop; it fails with `what` (or what `what()` gives) when it takes too long."""
    end = time.monotonic() + LIMIT

    def tick():
        check(time.monotonic() < end, what() if callable(what) else what)

    return tick


def headers(codec, i):
    """A header that occurs twice, in order, and one with a value of no bytes."""
    return [("codec", str(codec).encode()), ("n", str(i).encode()), ("n", b"again"), ("empty", b"")]


def value(i):
    return f"value-{i}".encode() * 20


def check_round_trip(codec, records):
    """`records`: all of the partition, in order."""
    check(len(records) == COUNT + 1, f"{codec}: {len(records)} records came")
    for i, record in enumerate(records):
        check(record.offset == i, f"{codec}: offset {record.offset} at place {i}")
        check(record.timestamp == START + i * 10, f"{codec}: timestamp {record.timestamp} of {i}")
        check(record.timestamp_type == 0, f"{codec}: timestamp type {record.timestamp_type} of {i}")
        check(record.key == f"key-{i}".encode(), f"{codec}: key {record.key} of {i}")
        wanted = None if i == COUNT else value(i)
        check(record.value == wanted, f"{codec}: value of {i}: {record.value}")
        check(list(record.headers) == headers(codec, i), f"{codec}: headers of {i}: {record.headers}")


# From a timestamp to the offset of the first record that is not older, None where there is none.
TIMES = [(START + 2_500, 250), (START + 2_501, 251), (0, 0), (START + COUNT * 10, COUNT), (START * 2, None)]


class Ledger:
    """What one producer sent to one topic and what was acknowledged, by number. A record's value is its number."""

    def __init__(self, topic, partitions, exactly_once):
        self.topic, self.partitions, self.exactly_once = topic, partitions, exactly_once
        self.sent = 0
        self.acknowledged = {}  # number: offset
        self.failed = []

    def partition(self, number):
        return number % self.partitions

    def next(self):
        number, self.sent = self.sent, self.sent + 1
        return number

    def check_stored(self, stored):
        """`stored`: by partition, the values in the order of offsets, which begin at 0 and have no gap."""
        check(not self.failed, f"{self.topic}: {len(self.failed)} records failed, the first with {self.failed[:1]}")
        check(len(self.acknowledged) == self.sent, f"{self.topic}: {len(self.acknowledged)} of {self.sent} acknowledged")
        for number, offset in self.acknowledged.items():
            partition = stored[self.partition(number)]
            # -1: the client does not know the offset of a batch that was answered as a duplicate.
            if offset == -1:
                check(str(number).encode() in partition, f"{self.topic}: {number} was acknowledged and is not there")
            else:
                found = partition[offset] if offset < len(partition) else None
                check(found == str(number).encode(), f"{self.topic}: {number} was acknowledged at {offset}, where {found} is")
        for partition, values in stored.items():
            wanted = [str(number).encode() for number in range(self.sent) if self.partition(number) == partition]
            if self.exactly_once:
                check(values == wanted, f"{self.topic}-{partition}: {len(values)} records where {len(wanted)} were sent, or out of order")
            else:
                check(set(values) == set(wanted), f"{self.topic}-{partition}: others are stored than were sent")

    def says(self, stored):
        total = sum(len(values) for values in stored.values())
        return f"{self.topic}: {self.sent} sent and acknowledged, {total} stored"
