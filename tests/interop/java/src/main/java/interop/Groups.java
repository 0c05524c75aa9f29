package interop;

import static interop.Main.check;

import java.time.Duration;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.NoOffsetForPartitionException;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.clients.consumer.RoundRobinAssignor;
import org.apache.kafka.clients.consumer.StickyAssignor;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Consumers in groups of the classic protocol. With each of Kafka's four assignors a second member joins and leaves while
 * the first reads on; then positions, commits, resets and wakeups of one member. It prints STARTED when the first group is
 * under way, for whoever wants to disturb it.
 */
final class Groups {
    private static final long LIMIT_MS = 60_000;
    private static final String TOPIC = "java-groups";
    private static final int PARTITIONS = 4;
    private static final int EACH = 25;

    static void run(String bootstrap) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            int replicas = Math.min(3, admin.describeCluster().nodes().get().size());
            admin.createTopics(List.of(new NewTopic(TOPIC, PARTITIONS, (short) replicas))).all().get();
        }
        try (var producer = Main.producer(bootstrap, Map.of())) {
            for (int i = 0; i < PARTITIONS * EACH; i++) {
                producer.send(new ProducerRecord<>(TOPIC, i % PARTITIONS, null, Integer.toString(i)));
            }
        }
        for (Class<?> assignor : List.of(
                RangeAssignor.class, RoundRobinAssignor.class, StickyAssignor.class, CooperativeStickyAssignor.class)) {
            joinAndLeave(bootstrap, assignor);
        }
        positions(bootstrap);
        resets(bootstrap);
        System.out.println("OK");
    }

    /** A consumer with what its rebalance listener has been told. */
    private static final class Member implements ConsumerRebalanceListener, AutoCloseable {
        final KafkaConsumer<String, String> consumer;
        final Set<TopicPartition> held = new HashSet<>();
        final Set<String> read = new HashSet<>();
        int taken = 0;

        Member(String bootstrap, String group, Map<String, Object> more) {
            Map<String, Object> settings = new HashMap<>(Map.of(
                "bootstrap.servers", bootstrap,
                "group.id", group,
                "enable.auto.commit", false,
                "auto.offset.reset", "earliest",
                "heartbeat.interval.ms", 200,
                "session.timeout.ms", 20_000));
            settings.putAll(more);
            consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            held.addAll(partitions);
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            taken += partitions.size();
            held.removeAll(partitions);
        }

        void poll() {
            consumer.poll(Duration.ofMillis(50)).forEach(record -> read.add(record.value()));
            check(held.equals(consumer.assignment()), "the listener knows " + held + ", not " + consumer.assignment());
        }

        /** Again, maybe: who has not committed begins anew when partitions move. */
        boolean hasReadAll() {
            return partitions().stream().allMatch(partition -> consumer.position(partition) == EACH);
        }

        @Override
        public void close() {
            consumer.close();
        }
    }

    private interface Condition {
        boolean holds();
    }

    private static void until(String what, List<Member> members, Condition condition) {
        long deadline = System.currentTimeMillis() + LIMIT_MS;
        while (!condition.holds()) {
            check(System.currentTimeMillis() < deadline, what + ": " + members.stream().map(m -> m.held).toList());
            members.forEach(Member::poll);
        }
    }

    private static void joinAndLeave(String bootstrap, Class<?> assignor) {
        String group = "java-" + assignor.getSimpleName();
        Map<String, Object> settings = Map.of("partition.assignment.strategy", assignor.getName());
        try (Member first = new Member(bootstrap, group, settings)) {
            first.consumer.subscribe(List.of(TOPIC), first);
            until(group + ": one has all", List.of(first), () -> first.held.size() == PARTITIONS);
            if (assignor == RangeAssignor.class) {
                System.out.println("STARTED");
            }
            try (Member second = new Member(bootstrap, group, settings)) {
                second.consumer.subscribe(List.of(TOPIC), second);
                List<Member> both = List.of(first, second);
                until(group + ": each has half", both, () -> first.held.size() == 2 && second.held.size() == 2);
                Set<TopicPartition> shared = new HashSet<>(first.held);
                shared.retainAll(second.held);
                check(shared.isEmpty(), group + ": both have " + shared);
                if (assignor == CooperativeStickyAssignor.class) {
                    check(first.taken == 2, group + ": only what moves is taken, not " + first.taken);
                }
            }
            until(group + ": one has all again", List.of(first), () -> first.held.size() == PARTITIONS);
            until(group + ": all is read", List.of(first), first::hasReadAll);
            check(first.read.size() == PARTITIONS * EACH, group + ": " + first.read.size() + " records were read");
            first.consumer.commitSync();
        }
        try (Member next = new Member(bootstrap, group, settings)) {
            var committed = next.consumer.committed(partitions());
            for (TopicPartition partition : partitions()) {
                check(committed.get(partition).offset() == EACH, group + ": committed " + committed);
            }
        }
    }

    private static Set<TopicPartition> partitions() {
        Set<TopicPartition> all = new HashSet<>();
        for (int i = 0; i < PARTITIONS; i++) {
            all.add(new TopicPartition(TOPIC, i));
        }
        return all;
    }

    /** Positions by seek; commits with metadata, with a callback; wakeup from another thread. */
    private static void positions(String bootstrap) throws Exception {
        TopicPartition zero = new TopicPartition(TOPIC, 0);
        try (Member member = new Member(bootstrap, "java-positions", Map.of())) {
            KafkaConsumer<String, String> consumer = member.consumer;
            consumer.subscribe(List.of(TOPIC), member);
            until("it has all", List.of(member), () -> member.held.size() == PARTITIONS);
            consumer.seekToEnd(List.of(zero));
            check(consumer.position(zero) == EACH, "the end is at " + consumer.position(zero));
            consumer.seek(zero, 7);
            check(consumer.position(zero) == 7, "it was set to 7, not " + consumer.position(zero));
            consumer.commitSync(Map.of(zero, new OffsetAndMetadata(7, "halfway")));
            OffsetAndMetadata committed = consumer.committed(Set.of(zero)).get(zero);
            check(committed.offset() == 7 && committed.metadata().equals("halfway"), "committed: " + committed);

            CountDownLatch called = new CountDownLatch(1);
            AtomicReference<Exception> failed = new AtomicReference<>();
            consumer.commitAsync(Map.of(zero, new OffsetAndMetadata(9)), (offsets, error) -> {
                failed.set(error);
                called.countDown();
            });
            until("the callback", List.of(member), () -> called.getCount() == 0);
            check(failed.get() == null, "commitAsync: " + failed.get());
            check(consumer.committed(Set.of(zero)).get(zero).offset() == 9, "the later commit counts");

            consumer.seekToEnd(partitions());
            Thread waker = new Thread(consumer::wakeup);
            waker.start();
            try {
                while (true) {
                    consumer.poll(Duration.ofSeconds(30));
                }
            } catch (WakeupException e) {
                waker.join();
            }
            member.poll();
        }
    }

    private static void resets(String bootstrap) {
        TopicPartition zero = new TopicPartition(TOPIC, 0);
        Map<String, Long> table = Map.of("earliest", 0L, "latest", (long) EACH);
        for (String reset : table.keySet()) {
            try (Member member = new Member(bootstrap, "java-reset-" + reset, Map.of("auto.offset.reset", reset))) {
                member.consumer.assign(List.of(zero));
                long position = member.consumer.position(zero);
                check(position == table.get(reset), reset + " is at " + position);
            }
        }
        try (Member member = new Member(bootstrap, "java-reset-none", Map.of("auto.offset.reset", "none"))) {
            member.consumer.assign(List.of(zero));
            member.consumer.position(zero);
            check(false, "a position without a commit and without a reset");
        } catch (NoOffsetForPartitionException e) {
            check(e.partitions().contains(zero), "for " + e.partitions());
        }
    }

    private Groups() {}
}
