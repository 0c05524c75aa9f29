package interop;

import static interop.Main.check;
import static interop.Main.refused;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.CloseOptions;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerInterceptor;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.clients.consumer.RoundRobinAssignor;
import org.apache.kafka.clients.consumer.StickyAssignor;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.FencedInstanceIdException;
import org.apache.kafka.common.errors.InvalidGroupIdException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.UnsupportedVersionException;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Every method of a consumer, its listener's calls in their order, and what it is told when it does what it may not. The
 * classic protocol: it is the client's default.
 */
final class Consumers {
    private static final long LIMIT_MS = 60_000;
    private static final String TOPIC = "consumers";
    private static final String OTHER = "consumers-other";
    private static final int PARTITIONS = 4;
    private static final int EACH = 25;
    /** Of the first record of each partition; each next one is a second later. */
    private static final long START = 1_700_000_000_000L;

    static void run(String bootstrap) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            short replicas = (short) Math.min(3, admin.describeCluster().nodes().get().size());
            admin.createTopics(List.of(new NewTopic(TOPIC, PARTITIONS, replicas), new NewTopic(OTHER, 1, replicas))).all().get();
            try (var producer = Main.producer(bootstrap, Map.of("batch.size", 200, "linger.ms", 0))) {
                for (int i = 0; i < PARTITIONS * EACH; i++) {
                    long time = START + i / PARTITIONS * 1_000L;
                    producer.send(new ProducerRecord<>(TOPIC, i % PARTITIONS, time, null, Integer.toString(i)));
                }
            }
            for (Class<?> assignor : List.of(
                    RangeAssignor.class, RoundRobinAssignor.class, StickyAssignor.class, CooperativeStickyAssignor.class)) {
                listenerIsCalledInOrder(bootstrap, assignor);
            }
            whatIsCommittedOnRevocationIsReadOnce(bootstrap);
            whoIsThrownOutHasLost(bootstrap, admin);
            whoDoesNotPollLeaves(bootstrap, admin);
            staticMembers(bootstrap, admin);
            enforcedRebalance(bootstrap);
        }
        subscriptions(bootstrap);
        seeks(bootstrap);
        pauses(bootstrap);
        times(bootstrap);
        commits(bootstrap);
        automaticCommits(bootstrap);
        interceptors(bootstrap);
        wakeups(bootstrap);
        refusals(bootstrap);
        System.out.println("OK");
    }

    // ---------------------------------------------------------------- members

    /** A consumer that writes down each call of its listener. */
    private static class Member implements ConsumerRebalanceListener, AutoCloseable {
        final KafkaConsumer<String, String> consumer;
        final List<String> calls = new ArrayList<>();
        final List<String> read = new ArrayList<>();
        final Set<Integer> held = new TreeSet<>();

        Member(String bootstrap, String group, Map<String, Object> more) {
            Map<String, Object> settings = new HashMap<>(Map.of(
                "bootstrap.servers", bootstrap,
                "group.id", group,
                "enable.auto.commit", false,
                "auto.offset.reset", "earliest",
                "heartbeat.interval.ms", 100,
                "session.timeout.ms", 30_000));
            settings.putAll(more);
            consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
        }

        Member subscribed() {
            consumer.subscribe(List.of(TOPIC), this);
            return this;
        }

        private void called(String what, Collection<TopicPartition> partitions) {
            calls.add(what + " " + numbers(partitions));
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            called("assigned", partitions);
            held.addAll(numbers(partitions));
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            called("revoked", partitions);
            held.removeAll(numbers(partitions));
        }

        @Override
        public void onPartitionsLost(Collection<TopicPartition> partitions) {
            called("lost", partitions);
            held.removeAll(numbers(partitions));
        }

        void poll() {
            consumer.poll(Duration.ofMillis(50)).forEach(record -> read.add(record.value()));
            check(held.equals(numbers(consumer.assignment())), "the listener knows " + held + ", not " + consumer.assignment());
        }

        @Override
        public void close() {
            consumer.close();
        }
    }

    private static Set<Integer> numbers(Collection<TopicPartition> partitions) {
        return partitions.stream().map(TopicPartition::partition).collect(Collectors.toCollection(TreeSet::new));
    }

    private static Set<Integer> without(Set<Integer> all, Set<Integer> some) {
        Set<Integer> rest = new TreeSet<>(all);
        rest.removeAll(some);
        return rest;
    }

    private interface Condition {
        boolean holds() throws Exception;
    }

    private static void until(String what, List<? extends Member> members, Condition condition) throws Exception {
        long deadline = System.currentTimeMillis() + LIMIT_MS;
        while (!condition.holds()) {
            check(System.currentTimeMillis() < deadline, what + ": " + members.stream().map(m -> m.calls).toList());
            members.forEach(Member::poll);
        }
    }

    private static TopicPartition at(int partition) {
        return new TopicPartition(TOPIC, partition);
    }

    private static final Set<Integer> ALL = new TreeSet<>(Set.of(0, 1, 2, 3));

    private static void is(String what, Object found, Object expected) {
        check(expected.equals(found), what + ": " + found + ", not " + expected);
    }

    // ---------------------------------------------------------------- rebalances

    /** Eager assignors give everything up at each rebalance; the cooperative one only what moves. */
    private static void listenerIsCalledInOrder(String bootstrap, Class<?> assignor) throws Exception {
        String group = "order-" + assignor.getSimpleName();
        boolean cooperative = assignor == CooperativeStickyAssignor.class;
        Map<String, Object> settings = Map.of("partition.assignment.strategy", assignor.getName());
        Member first = new Member(bootstrap, group, settings).subscribed();
        until(group + ": one has all", List.of(first), () -> first.held.equals(ALL));
        is(group, first.calls, List.of("assigned " + ALL));
        Member second = new Member(bootstrap, group, settings).subscribed();
        until(group + ": each has half", List.of(first, second), () -> first.held.size() == 2 && second.held.size() == 2);
        Set<Integer> kept = new TreeSet<>(first.held);
        Set<Integer> moved = new TreeSet<>(second.held);
        is(group + ": nothing is in two hands", without(ALL, kept), moved);
        List<String> firsts = first.calls.stream().filter(call -> !call.equals("assigned []")).toList();
        List<String> seconds = second.calls.stream().filter(call -> !call.equals("assigned []")).toList();
        is(group + ": of who joined", seconds, List.of("assigned " + moved));
        is(group + ": of who was there", firsts, cooperative
            ? List.of("assigned " + ALL, "revoked " + moved)
            : List.of("assigned " + ALL, "revoked " + ALL, "assigned " + kept));
        if (!cooperative) {
            is(group + ": an eager member is called once a generation", first.calls, firsts);
        }
        second.close();
        is(group + ": at the close", second.calls.get(second.calls.size() - 1), "revoked " + moved);
        until(group + ": one has all again", List.of(first), () -> first.held.equals(ALL));
        List<String> end = first.calls.subList(first.calls.size() - (cooperative ? 1 : 2), first.calls.size());
        is(group + ": at the end", end, cooperative ? List.of("assigned " + moved) : List.of("revoked " + kept, "assigned " + ALL));
        first.close();
        is(group + ": at the close", first.calls.get(first.calls.size() - 1), "revoked " + ALL);
    }

    /** What applications do in {@code onPartitionsRevoked}. */
    private static void whatIsCommittedOnRevocationIsReadOnce(String bootstrap) throws Exception {
        String group = "committed-on-revocation";
        class Committing extends Member {
            Committing() {
                super(bootstrap, group, Map.of("max.poll.records", 7));
            }

            @Override
            public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
                consumer.commitSync();
                super.onPartitionsRevoked(partitions);
            }
        }
        List<String> read = new ArrayList<>();
        try (Member first = new Committing().subscribed()) {
            until("some is read", List.of(first), () -> !first.read.isEmpty());
            check(first.read.size() < PARTITIONS * EACH, "not all is read at once");
            try (Member second = new Committing().subscribed()) {
                until("all is read", List.of(first, second), () -> first.read.size() + second.read.size() >= PARTITIONS * EACH);
                read.addAll(second.read);
            }
            until("one has all again", List.of(first), () -> first.held.equals(ALL));
            read.addAll(first.read);
        }
        is("each record is read once", read.size(), PARTITIONS * EACH);
        is("all are read", new HashSet<>(read).size(), PARTITIONS * EACH);
    }

    private static void whoIsThrownOutHasLost(String bootstrap, Admin admin) throws Exception {
        String group = "thrown-out";
        try (Member member = new Member(bootstrap, group, Map.of()).subscribed()) {
            until("it has all", List.of(member), () -> member.held.equals(ALL));
            String before = member.consumer.groupMetadata().memberId();
            is("its generation", member.consumer.groupMetadata().generationId(), 1);
            Admins.removeAll(admin, group);
            until("it notices and joins again", List.of(member), () -> member.calls.size() == 3);
            is("calls", member.calls, List.of("assigned " + ALL, "lost " + ALL, "assigned " + ALL));
            check(!member.consumer.groupMetadata().memberId().equals(before), "it is another member now");
        }
    }

    private static void whoDoesNotPollLeaves(String bootstrap, Admin admin) throws Exception {
        String group = "does-not-poll";
        Map<String, Object> settings = Map.of("max.poll.interval.ms", 1_000, "session.timeout.ms", 6_000);
        try (Member member = new Member(bootstrap, group, settings).subscribed()) {
            until("it has all", List.of(member), () -> member.held.equals(ALL));
            // Its heartbeats' thread sees to it.
            until("it left by itself", List.of(), () ->
                admin.describeConsumerGroups(List.of(group)).all().get().get(group).groupState() == GroupState.EMPTY);
            refused(CommitFailedException.class, "a commit of who has left", () -> member.consumer.commitSync(Map.of(at(0), new OffsetAndMetadata(1))));
            until("it joins again", List.of(member), () -> member.calls.size() == 3);
            is("calls", member.calls, List.of("assigned " + ALL, "lost " + ALL, "assigned " + ALL));
            // The group is empty otherwise, and who leaves does so in order.
        }
    }

    private static void staticMembers(String bootstrap, Admin admin) throws Exception {
        String group = "static";
        Map<String, Object> named = Map.of("group.instance.id", "one");
        Member one = new Member(bootstrap, group, named).subscribed();
        try (Member two = new Member(bootstrap, group, Map.of("group.instance.id", "two")).subscribed()) {
            until("each has half", List.of(one, two), () -> one.held.size() == 2 && two.held.size() == 2);
            Set<Integer> share = new TreeSet<>(one.held);
            int calls = two.calls.size();
            is("its name", one.consumer.groupMetadata().groupInstanceId(), Optional.of("one"));
            one.close();
            Member again = new Member(bootstrap, group, named).subscribed();
            until("it has its share again", List.of(again, two), () -> again.held.equals(share));
            is("the other was not disturbed", two.calls.size(), calls);
            // Another of the same name takes over, and the former is fenced.
            Member twin = new Member(bootstrap, group, named).subscribed();
            until("the twin has the share", List.of(twin, two), () -> twin.held.equals(share));
            refused(FencedInstanceIdException.class, "a twin that was replaced", () -> {
                long deadline = System.currentTimeMillis() + LIMIT_MS;
                while (System.currentTimeMillis() < deadline) {
                    again.consumer.poll(Duration.ofMillis(50));
                }
            });
            again.consumer.close();
            is("the other was not disturbed", two.calls.size(), calls);
            // Asked to leave for good, it does, though it has a name.
            twin.consumer.close(CloseOptions.groupMembershipOperation(CloseOptions.GroupMembershipOperation.LEAVE_GROUP));
            until("the rest has all", List.of(two), () -> two.held.equals(ALL));
        }
        is("who stays static stays a member", Admins.members(admin, group), 1);
        Admins.remove(admin, group, "two");
        is("until it is removed by its name", Admins.members(admin, group), 0);
    }

    private static void enforcedRebalance(String bootstrap) throws Exception {
        try (Member member = new Member(bootstrap, "enforced", Map.of()).subscribed()) {
            until("it has all", List.of(member), () -> member.held.equals(ALL));
            member.consumer.enforceRebalance("because it is asked to");
            until("another generation", List.of(member), () -> member.calls.size() == 3);
            is("calls", member.calls, List.of("assigned " + ALL, "revoked " + ALL, "assigned " + ALL));
            is("its generation", member.consumer.groupMetadata().generationId(), 2);
            member.consumer.unsubscribe();
            is("calls", member.calls.get(3), "revoked " + ALL);
            is("nothing is subscribed to", member.consumer.subscription(), Set.of());
        }
    }

    /** By pattern, to what is made later, and after a change. */
    private static void subscriptions(String bootstrap) throws Exception {
        Map<String, Object> fresh = Map.of("metadata.max.age.ms", 300);
        try (Member member = new Member(bootstrap, "by-pattern", fresh)) {
            member.consumer.subscribe(Pattern.compile("consumers.*"), member);
            until("both topics", List.of(member), () -> member.consumer.assignment().size() == PARTITIONS + 1);
            try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
                admin.createTopics(List.of(new NewTopic("consumers-later", 1, (short) 1))).all().get();
                until("the third", List.of(member), () -> member.consumer.assignment().size() == PARTITIONS + 2);
                admin.deleteTopics(List.of("consumers-later")).all().get();
                until("it is gone", List.of(member), () -> member.consumer.assignment().size() == PARTITIONS + 1);
            }
            member.consumer.unsubscribe();
            member.consumer.subscribe(List.of(OTHER), member);
            until("only one", List.of(member), () -> member.consumer.assignment().equals(Set.of(new TopicPartition(OTHER, 0))));
        }
        // Patterns that the broker resolves are of the consumer protocol.
        try (Member member = new Member(bootstrap, "by-pattern", Map.of())) {
            refused(UnsupportedOperationException.class, "a pattern for the broker", () ->
                member.consumer.subscribe(new SubscriptionPattern("consumers.*")));
        }
    }

    // ---------------------------------------------------------------- positions

    private static Member assigned(String bootstrap, String group, Map<String, Object> more, int... partitions) {
        Member member = new Member(bootstrap, group, more);
        member.consumer.assign(Arrays.stream(partitions).mapToObj(Consumers::at).toList());
        return member;
    }

    private static List<ConsumerRecord<String, String>> next(Member member, int count) {
        List<ConsumerRecord<String, String>> out = new ArrayList<>();
        long deadline = System.currentTimeMillis() + LIMIT_MS;
        while (out.size() < count) {
            check(System.currentTimeMillis() < deadline, out.size() + " of " + count + " records came");
            member.consumer.poll(Duration.ofMillis(50)).forEach(out::add);
        }
        return out;
    }

    private static void seeks(String bootstrap) {
        try (Member member = assigned(bootstrap, "seeks", Map.of("max.poll.records", 1), 0, 1)) {
            KafkaConsumer<String, String> consumer = member.consumer;
            consumer.seek(at(0), 20);
            consumer.seekToEnd(List.of(at(1)));
            check(consumer.currentLag(at(0)).isEmpty(), "no lag is known before a fetch");
            ConsumerRecord<String, String> record = next(member, 1).get(0);
            is("from the offset on", record.offset(), 20L);
            check(record.leaderEpoch().isPresent(), "a record tells the epoch of its leader");
            is("position", consumer.position(at(0)), 21L);
            is("lag", consumer.currentLag(at(0)).getAsLong(), (long) EACH - 21);
            is("position at the end", consumer.position(at(1)), (long) EACH);
            consumer.seekToBeginning(List.of(at(0)));
            is("from the beginning on", next(member, 1).get(0).offset(), 0L);
            // With the epoch of a leader, as a stored commit has it.
            consumer.seek(at(0), new OffsetAndMetadata(12, record.leaderEpoch(), ""));
            is("from the commit on", next(member, 1).get(0).offset(), 12L);
            consumer.seekToEnd(List.of());
            is("all to the end", consumer.position(at(0)) + consumer.position(at(1)), 2L * EACH);
            is("the beginnings", consumer.beginningOffsets(List.of(at(0), at(1))), Map.of(at(0), 0L, at(1), 0L));
            is("the ends", consumer.endOffsets(List.of(at(0), at(1))), Map.of(at(0), (long) EACH, at(1), (long) EACH));
            refused(IllegalStateException.class, "a seek where nothing is assigned", () -> consumer.seek(at(2), 0));
            is("partitions", consumer.partitionsFor(TOPIC).size(), PARTITIONS);
            check(consumer.partitionsFor(TOPIC).stream().allMatch(p -> p.leader() != null && p.inSyncReplicas().length > 0), "with leaders");
            check(consumer.listTopics().keySet().containsAll(Set.of(TOPIC, OTHER)), "topics are listed");
            check(consumer.metrics().keySet().stream().anyMatch(name -> name.name().equals("records-lag-max")), "there are metrics");
        }
        try (Member member = assigned(bootstrap, "seeks", Map.of("auto.offset.reset", "none"), 0)) {
            member.consumer.seek(at(0), 1_000);
            refused(OffsetOutOfRangeException.class, "beyond the end", () -> next(member, 1));
        }
        // KIP-1106: as far back as the duration says, by the broker's own search for the time.
        try (Member member = assigned(bootstrap, "seeks-by-duration", Map.of("auto.offset.reset", "by_duration:P3650D"), 0)) {
            is("all is younger than ten years", member.consumer.position(at(0)), 0L);
        }
    }

    private static void pauses(String bootstrap) {
        try (Member member = assigned(bootstrap, "pauses", Map.of(), 0, 1)) {
            KafkaConsumer<String, String> consumer = member.consumer;
            consumer.pause(List.of(at(0)));
            is("paused", consumer.paused(), Set.of(at(0)));
            check(next(member, EACH).stream().allMatch(record -> record.partition() == 1), "only of the other partition");
            is("the paused one stays where it is", consumer.position(at(0)), 0L);
            consumer.resume(List.of(at(0)));
            is("paused", consumer.paused(), Set.of());
            check(next(member, EACH).stream().allMatch(record -> record.partition() == 0), "then of this one");
        }
    }

    private static void times(String bootstrap) {
        try (Member member = assigned(bootstrap, "times", Map.of(), 0)) {
            KafkaConsumer<String, String> consumer = member.consumer;
            var found = consumer.offsetsForTimes(Map.of(at(0), START + 3_500, at(1), START, at(2), START + EACH * 1_000L));
            is("between two records it is the next", found.get(at(0)).offset(), 4L);
            is("and its own time is told", found.get(at(0)).timestamp(), START + 4_000);
            check(found.get(at(0)).leaderEpoch().isPresent(), "and the leader's epoch");
            is("exactly", found.get(at(1)).offset(), 0L);
            check(found.containsKey(at(2)) && found.get(at(2)) == null, "after all there is none");
            consumer.seek(at(0), found.get(at(0)).offset());
            is("read on", next(member, 1).get(0).timestamp(), START + 4_000);
        }
    }

    private static void commits(String bootstrap) throws Exception {
        String group = "commits";
        try (Member member = new Member(bootstrap, group, Map.of("max.poll.records", 10)).subscribed()) {
            KafkaConsumer<String, String> consumer = member.consumer;
            until("it has all", List.of(member), () -> member.held.equals(ALL));
            check(consumer.committed(Set.of(at(0))).get(at(0)) == null, "nothing is committed");
            consumer.commitSync(Map.of(at(0), new OffsetAndMetadata(3, Optional.of(0), "three"), at(1), new OffsetAndMetadata(4)));
            Map<TopicPartition, OffsetAndMetadata> committed = consumer.committed(Set.of(at(0), at(1), at(2)));
            is("with its epoch and words", committed.get(at(0)), new OffsetAndMetadata(3, Optional.of(0), "three"));
            is("without", committed.get(at(1)), new OffsetAndMetadata(4));
            check(committed.get(at(2)) == null, "not committed");
            // Callbacks come in the order of the commits.
            List<String> order = new ArrayList<>();
            AtomicReference<Exception> failed = new AtomicReference<>();
            for (long offset = 5; offset < 10; offset++) {
                long each = offset;
                consumer.commitAsync(Map.of(at(0), new OffsetAndMetadata(offset)), (offsets, error) -> {
                    failed.compareAndSet(null, error);
                    order.add(Long.toString(each));
                });
            }
            until("all callbacks", List.of(member), () -> order.size() == 5);
            check(failed.get() == null, "commitAsync: " + failed.get());
            is("callbacks", order, List.of("5", "6", "7", "8", "9"));
            is("the last counts", consumer.committed(Set.of(at(0))).get(at(0)).offset(), 9L);
            // All that was polled.
            consumer.seekToEnd(List.of());
            ALL.forEach(partition -> consumer.position(at(partition)));
            consumer.commitSync();
            is("the positions", consumer.committed(Set.of(at(3))).get(at(3)).offset(), (long) EACH);
            String tooMuch = "x".repeat(5_000);
            refused(org.apache.kafka.common.errors.OffsetMetadataTooLarge.class, "words beyond offset.metadata.max.bytes", () ->
                consumer.commitSync(Map.of(at(0), new OffsetAndMetadata(1, tooMuch))));
        }
        // Of a consumer that chose its partitions itself: no member, and no generation.
        try (Member member = assigned(bootstrap, group, Map.of(), 0)) {
            is("it begins at the commit", member.consumer.position(at(0)), (long) EACH);
            member.consumer.commitSync(Map.of(at(0), new OffsetAndMetadata(2)));
            is("its own commit", member.consumer.committed(Set.of(at(0))).get(at(0)).offset(), 2L);
        }
    }

    private static void automaticCommits(String bootstrap) throws Exception {
        Map<String, Object> settings = Map.of("enable.auto.commit", true, "auto.commit.interval.ms", 100);
        try (Member member = new Member(bootstrap, "automatic", settings).subscribed()) {
            until("all is read", List.of(member), () -> member.read.size() == PARTITIONS * EACH);
            until("it is committed while it runs", List.of(member), () -> {
                OffsetAndMetadata committed = member.consumer.committed(Set.of(at(0))).get(at(0));
                return committed != null && committed.offset() == EACH;
            });
        }
        Map<String, Object> atTheEnd = Map.of("enable.auto.commit", true, "auto.commit.interval.ms", 3_600_000);
        try (Member member = new Member(bootstrap, "automatic-at-close", atTheEnd).subscribed()) {
            until("all is read", List.of(member), () -> member.read.size() == PARTITIONS * EACH);
        }
        try (Member member = assigned(bootstrap, "automatic-at-close", Map.of(), 0)) {
            is("committed by the close", member.consumer.position(at(0)), (long) EACH);
        }
    }

    /** Made by the consumer itself, so that what it sees is counted for the class. */
    public static final class Counting implements ConsumerInterceptor<String, String> {
        static final AtomicInteger CONSUMED = new AtomicInteger();
        static final AtomicInteger COMMITTED = new AtomicInteger();

        @Override
        public ConsumerRecords<String, String> onConsume(ConsumerRecords<String, String> records) {
            CONSUMED.addAndGet(records.count());
            return records;
        }

        @Override
        public void onCommit(Map<TopicPartition, OffsetAndMetadata> offsets) {
            COMMITTED.addAndGet(offsets.size());
        }

        @Override
        public void close() {}

        @Override
        public void configure(Map<String, ?> configs) {}
    }

    private static void interceptors(String bootstrap) {
        try (Member member = assigned(bootstrap, "intercepted", Map.of("interceptor.classes", Counting.class.getName()), 0)) {
            next(member, EACH);
            member.consumer.commitSync();
            is("records seen", Counting.CONSUMED.get(), EACH);
            is("commits seen", Counting.COMMITTED.get(), 1);
        }
    }

    private static void wakeups(String bootstrap) throws Exception {
        try (Member member = assigned(bootstrap, "wakeups", Map.of(), 0)) {
            member.consumer.seekToEnd(List.of());
            member.consumer.position(at(0));
            CountDownLatch woken = new CountDownLatch(1);
            Thread waiting = new Thread(() -> {
                try {
                    while (true) {
                        member.consumer.poll(Duration.ofSeconds(30));
                    }
                } catch (WakeupException e) {
                    woken.countDown();
                }
            });
            waiting.start();
            member.consumer.wakeup();
            waiting.join(LIMIT_MS);
            is("woken", woken.getCount(), 0L);
            member.consumer.seekToBeginning(List.of(at(0)));
            is("it reads on afterwards", next(member, 1).get(0).offset(), 0L);
        }
    }

    // ---------------------------------------------------------------- what is not allowed, or not served

    private static void refusals(String bootstrap) {
        try (Member member = new Member(bootstrap, "refused", Map.of())) {
            member.consumer.subscribe(List.of("no such topic"));
            refused(InvalidTopicException.class, "a name that no topic can have", () -> next(member, 1));
        }
        Map<String, Object> noGroup = Map.of(
            "bootstrap.servers", bootstrap, "enable.auto.commit", false, "auto.offset.reset", "earliest");
        try (var consumer = new KafkaConsumer<>(noGroup, new StringDeserializer(), new StringDeserializer())) {
            refused(InvalidGroupIdException.class, "a subscription without a group", () -> consumer.subscribe(List.of(TOPIC)));
            consumer.assign(List.of(at(0)));
            refused(InvalidGroupIdException.class, "a commit without a group", consumer::commitSync);
        }
        Map<String, Object> shortSession = Map.of("session.timeout.ms", 200, "heartbeat.interval.ms", 50);
        try (Member member = new Member(bootstrap, "refused", shortSession).subscribed()) {
            refused(org.apache.kafka.common.errors.InvalidSessionTimeoutException.class, "a session below group.min.session.timeout.ms", () -> next(member, 1));
        }
        Map<String, Object> eager = Map.of("partition.assignment.strategy", RangeAssignor.class.getName());
        Map<String, Object> other = Map.of("partition.assignment.strategy", RoundRobinAssignor.class.getName());
        try (Member first = new Member(bootstrap, "inconsistent", eager).subscribed();
                Member second = new Member(bootstrap, "inconsistent", other).subscribed()) {
            next(first, 1);
            refused(org.apache.kafka.common.errors.InconsistentGroupProtocolException.class, "an assignor that the group has not", () -> next(second, 1));
        }
        // Transactions end nowhere yet, but who reads only what is committed reads what is no transaction's.
        try (Member member = assigned(bootstrap, "committed-only", Map.of("isolation.level", "read_committed"), 0)) {
            is("read_committed", next(member, EACH).size(), EACH);
        }
    }

    private Consumers() {}
}
