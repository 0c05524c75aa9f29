package interop;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.admin.AdminClient;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.GroupNotEmptyException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * What a program does that brings a client of years ago along, in terms that the clients 2.1 and 2.8 have in common.
 *
 * <pre>
 * BOOTSTRAP ASSIGNOR...   all of it; asks for the end of a broker under load in a line `BROKER kill 2`; prints OK at the end
 * </pre>
 */
public final class Old {
    private static final long LIMIT_MS = 60_000;
    private static final String TOPIC = "old";
    private static final int PARTITIONS = 4;
    private static final int EACH = 25;
    private static final long START = 1_700_000_000_000L;

    private final String bootstrap;
    private final AdminClient admin;

    private Old(String bootstrap, AdminClient admin) {
        this.bootstrap = bootstrap;
        this.admin = admin;
    }

    public static void main(String[] args) throws Exception {
        try (AdminClient admin = AdminClient.create(Collections.singletonMap("bootstrap.servers", args[0]))) {
            Old old = new Old(args[0], admin);
            for (String codec : Arrays.asList("none", "gzip", "snappy", "lz4", "zstd")) {
                old.codec(codec, false);
                old.codec(codec, true);
            }
            old.refusals();
            old.fill();
            old.transactions();
            for (String assignor : Arrays.asList(args).subList(1, args.length)) {
                old.joinAndLeave(assignor);
            }
            old.positions();
            old.administration();
            old.brokerIsKilled();
        }
        System.out.println("OK");
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    private static void is(String what, Object found, Object expected) {
        check(expected.equals(found), what + ": " + found + ", not " + expected);
    }

    private static void fails(Class<?> expected, String what, Future<?> future) throws Exception {
        try {
            check(false, what + " is answered with " + future.get());
        } catch (ExecutionException e) {
            if (!expected.isInstance(e.getCause())) {
                throw new AssertionError(what + " is refused with " + e.getCause(), e.getCause());
            }
        }
    }

    private KafkaProducer<String, String> producer(Object... more) {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("acks", "all");
        for (int i = 0; i < more.length; i += 2) {
            settings.put((String) more[i], more[i + 1]);
        }
        return new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
    }

    private void create(String topic, int partitions, Map<String, String> configs) throws Exception {
        admin.createTopics(Collections.singletonList(new NewTopic(topic, partitions, (short) 3).configs(configs))).all().get();
        // The broker that is asked next may hear of it a moment later.
        until(topic + ": all replicas are in sync", Collections.emptyList(), () -> {
            try {
                return describe(topic).stream().allMatch(partition -> partition.leader() != null && partition.isr().size() == 3);
            } catch (ExecutionException e) {
                check(e.getCause() instanceof UnknownTopicOrPartitionException, topic + ": " + e.getCause());
                return false;
            }
        });
    }

    private List<TopicPartitionInfo> describe(String topic) throws Exception {
        return admin.describeTopics(Collections.singletonList(topic)).all().get().get(topic).partitions();
    }

    // ---------------------------------------------------------------- producers

    private void codec(String codec, boolean idempotent) throws Exception {
        String topic = TOPIC + "-" + codec + "-" + idempotent;
        TopicPartition partition = new TopicPartition(topic, 0);
        create(topic, 1, Collections.emptyMap());
        int count = 500;
        try (KafkaProducer<String, String> producer =
                producer("compression.type", codec, "enable.idempotence", idempotent, "linger.ms", 5, "batch.size", 50_000)) {
            for (int i = 0; i < count; i++) {
                ProducerRecord<String, String> record = new ProducerRecord<>(topic, 0, START + i, "key-" + i, i % 2 == 0 ? null : repeat("value-" + i, 50));
                record.headers().add("codec", codec.getBytes());
                producer.send(record);
            }
            producer.flush();
            is(topic + ": the next offset", producer.send(new ProducerRecord<>(topic, "last")).get().offset(), (long) count);
        }
        try (Member member = new Member("reads-" + topic, null)) {
            member.consumer.assign(Collections.singletonList(partition));
            List<ConsumerRecord<String, String>> found = member.next(count + 1);
            for (int i = 0; i < count; i++) {
                ConsumerRecord<String, String> record = found.get(i);
                is(topic + ": key", record.key(), "key-" + i);
                check(i % 2 == 0 ? record.value() == null : record.value().equals(repeat("value-" + i, 50)), topic + ": value " + i);
                is(topic + ": time", record.timestamp(), START + i);
                is(topic + ": header", new String(record.headers().lastHeader("codec").value()), codec);
            }
        }
    }

    private static String repeat(String text, int count) {
        return String.join("", Collections.nCopies(count, text));
    }

    private void refusals() throws Exception {
        create("old-small", 1, Collections.singletonMap("max.message.bytes", "1000"));
        fails(TopicExistsException.class, "a topic that is there", admin.createTopics(Collections.singletonList(new NewTopic("old-small", 1, (short) 1))).all());
        try (KafkaProducer<String, String> producer = producer()) {
            fails(RecordTooLargeException.class, "more than the topic takes", producer.send(new ProducerRecord<>("old-small", repeat("v", 2_000))));
            is("partitions", producer.partitionsFor("old-small").size(), 1);
        }
    }

    private void fill() throws Exception {
        create(TOPIC, PARTITIONS, Collections.emptyMap());
        try (KafkaProducer<String, String> producer = producer("enable.idempotence", true)) {
            for (int i = 0; i < PARTITIONS * EACH; i++) {
                producer.send(new ProducerRecord<>(TOPIC, i % PARTITIONS, START + i / PARTITIONS * 1_000L, null, Integer.toString(i)));
            }
        }
    }

    /** By the first protocol, with a group's offsets in the transactions. */
    private void transactions() throws Exception {
        create("old-ledger", 1, Collections.emptyMap());
        TopicPartition source = new TopicPartition(TOPIC, 0);
        try (KafkaProducer<String, String> producer = producer("transactional.id", "old-bank");
                Member member = new Member("old-transactions", null)) {
            producer.initTransactions();
            for (int i = 0; i < 10; i++) {
                producer.beginTransaction();
                producer.send(new ProducerRecord<>("old-ledger", (i % 2 == 0 ? "kept " : "dropped ") + i));
                producer.sendOffsetsToTransaction(Collections.singletonMap(source, new OffsetAndMetadata(i)), "old-transactions");
                if (i % 2 == 0) {
                    producer.commitTransaction();
                } else {
                    producer.flush();
                    producer.abortTransaction();
                }
            }
            member.consumer.assign(Collections.singletonList(new TopicPartition("old-ledger", 0)));
            List<ConsumerRecord<String, String>> found = member.next(5);
            for (int i = 0; i < 5; i++) {
                is("a committed record", found.get(i).value(), "kept " + 2 * i);
            }
            // The markers come a moment after the answer.
            until("the offset of the last commit", Collections.emptyList(), () -> {
                OffsetAndMetadata committed = member.consumer.committed(source);
                return committed != null && committed.offset() == 8;
            });
        }
    }

    // ---------------------------------------------------------------- groups

    private final class Member implements ConsumerRebalanceListener, AutoCloseable {
        final KafkaConsumer<String, String> consumer;
        final Set<Integer> held = new TreeSet<>();
        final List<String> read = new ArrayList<>();

        Member(String group, String assignor) {
            Map<String, Object> settings = new HashMap<>();
            settings.put("bootstrap.servers", bootstrap);
            settings.put("group.id", group);
            settings.put("enable.auto.commit", false);
            settings.put("auto.offset.reset", "earliest");
            settings.put("isolation.level", "read_committed");
            settings.put("heartbeat.interval.ms", 100);
            settings.put("session.timeout.ms", 30_000);
            if (assignor != null) {
                settings.put("partition.assignment.strategy", assignor);
            }
            consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            partitions.forEach(partition -> held.add(partition.partition()));
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            partitions.forEach(partition -> held.remove(partition.partition()));
        }

        Member subscribed(String topic) {
            consumer.subscribe(Collections.singletonList(topic), this);
            return this;
        }

        void poll() {
            consumer.poll(Duration.ofMillis(50)).forEach(record -> read.add(record.value()));
        }

        List<ConsumerRecord<String, String>> next(int count) {
            List<ConsumerRecord<String, String>> out = new ArrayList<>();
            long deadline = System.currentTimeMillis() + LIMIT_MS;
            while (out.size() < count) {
                check(System.currentTimeMillis() < deadline, out.size() + " of " + count + " records came");
                consumer.poll(Duration.ofMillis(50)).forEach(out::add);
            }
            return out;
        }

        long committed(TopicPartition partition) {
            OffsetAndMetadata found = consumer.committed(partition);
            return found == null ? -1 : found.offset();
        }

        @Override
        public void close() {
            consumer.close();
        }
    }

    private interface Condition {
        boolean holds() throws Exception;
    }

    private static void until(String what, List<Member> members, Condition condition) throws Exception {
        long deadline = System.currentTimeMillis() + LIMIT_MS;
        while (!condition.holds()) {
            check(System.currentTimeMillis() < deadline, what);
            members.forEach(Member::poll);
        }
    }

    private static TopicPartition at(int partition) {
        return new TopicPartition(TOPIC, partition);
    }

    private void joinAndLeave(String assignor) throws Exception {
        String group = "old-" + assignor;
        try (Member first = new Member(group, assignor).subscribed(TOPIC)) {
            until(group + ": one has all", Collections.singletonList(first), () -> first.held.size() == PARTITIONS);
            try (Member second = new Member(group, assignor).subscribed(TOPIC)) {
                until(group + ": each has half", Arrays.asList(first, second), () -> first.held.size() == 2 && second.held.size() == 2);
                check(Collections.disjoint(first.held, second.held), group + ": " + first.held + " and " + second.held);
            }
            until(group + ": one has all again", Collections.singletonList(first), () -> first.held.size() == PARTITIONS);
            until(group + ": all is read", Collections.singletonList(first), () -> new HashSet<>(first.read).size() == PARTITIONS * EACH);
            for (int i = 0; i < PARTITIONS; i++) {
                int partition = i;
                until(group + ": to the end", Collections.singletonList(first), () -> first.consumer.position(at(partition)) == EACH);
            }
            first.consumer.commitSync();
            is(group + ": committed", first.committed(at(0)), (long) EACH);
        }
        try (Member next = new Member(group, assignor).subscribed(TOPIC)) {
            until(group + ": the next has all", Collections.singletonList(next), () -> next.held.size() == PARTITIONS);
            is(group + ": it goes on where the former ended", next.consumer.position(at(3)), (long) EACH);
        }
    }

    private void positions() throws Exception {
        try (Member member = new Member("old-positions", null).subscribed(TOPIC)) {
            KafkaConsumer<String, String> consumer = member.consumer;
            List<Member> alone = Collections.singletonList(member);
            until("it has all", alone, () -> member.held.size() == PARTITIONS);
            consumer.seekToEnd(Collections.singletonList(at(0)));
            is("end", consumer.position(at(0)), (long) EACH);
            consumer.seekToBeginning(Collections.singletonList(at(0)));
            is("beginning", consumer.position(at(0)), 0L);
            consumer.seek(at(0), 7);
            consumer.pause(Arrays.asList(at(1), at(2), at(3)));
            is("from there on", member.next(1).get(0).offset(), 7L);
            consumer.resume(consumer.paused());
            is("by time", consumer.offsetsForTimes(Collections.singletonMap(at(1), START + 3_001)).get(at(1)).offset(), 4L);
            is("ends", consumer.endOffsets(Collections.singletonList(at(2))).get(at(2)), (long) EACH);
            is("beginnings", consumer.beginningOffsets(Collections.singletonList(at(2))).get(at(2)), 0L);
            consumer.commitSync(Collections.singletonMap(at(0), new OffsetAndMetadata(7, "halfway")));
            is("with its words", consumer.committed(at(0)), new OffsetAndMetadata(7, "halfway"));
            AtomicInteger called = new AtomicInteger();
            AtomicReference<Exception> failed = new AtomicReference<>();
            consumer.commitAsync(Collections.singletonMap(at(0), new OffsetAndMetadata(9)), (offsets, error) -> {
                failed.set(error);
                called.incrementAndGet();
            });
            until("the callback", alone, () -> called.get() == 1);
            check(failed.get() == null, "commitAsync: " + failed.get());
            is("the later commit", member.committed(at(0)), 9L);
            consumer.seekToEnd(Collections.emptyList());
            consumer.wakeup();
            try {
                consumer.poll(Duration.ofSeconds(30));
                check(false, "a wakeup that wakes nobody");
            } catch (WakeupException e) {
                member.poll();
            }
            // While it is a member.
            ConsumerGroupDescription described = admin.describeConsumerGroups(Collections.singletonList("old-positions")).all().get().get("old-positions");
            is("members", described.members().size(), 1);
            is("assignor", described.partitionAssignor(), "range");
            is("its partitions", described.members().iterator().next().assignment().topicPartitions().size(), PARTITIONS);
            fails(GroupNotEmptyException.class, "a group with a member is deleted", admin.deleteConsumerGroups(Collections.singletonList("old-positions")).all());
        }
        check(admin.listConsumerGroups().all().get().stream().anyMatch(group -> group.groupId().equals("old-positions")), "the group is listed");
        is("its offsets", admin.listConsumerGroupOffsets("old-positions").partitionsToOffsetAndMetadata().get().get(at(0)).offset(), 9L);
        admin.deleteConsumerGroups(Collections.singletonList("old-positions")).all().get();
    }

    // ---------------------------------------------------------------- administration

    /** AlterConfigs, which gives all configs of a resource at once, is what clients had before 2.3. */
    @SuppressWarnings("deprecation")
    private void administration() throws Exception {
        is("brokers", admin.describeCluster().nodes().get().size(), 3);
        ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, TOPIC);
        Config config = new Config(Collections.singletonList(new ConfigEntry("retention.bytes", "123456789")));
        admin.alterConfigs(Collections.singletonMap(topic, config)).all().get();
        until("the config", Collections.emptyList(), () ->
            admin.describeConfigs(Collections.singletonList(topic)).all().get().get(topic).get("retention.bytes").value().equals("123456789"));
        admin.createPartitions(Collections.singletonMap("old-small", NewPartitions.increaseTo(3))).all().get();
        until("three partitions", Collections.emptyList(), () -> describe("old-small").size() == 3);
        is("deleted records", admin.deleteRecords(Collections.singletonMap(at(0), RecordsToDelete.beforeOffset(3))).lowWatermarks().get(at(0)).get().lowWatermark(), 3L);
        is("directories", admin.describeLogDirs(Arrays.asList(1, 2, 3)).all().get().size(), 3);
        admin.deleteTopics(Collections.singletonList("old-small")).all().get();
        until("the topic is gone", Collections.emptyList(), () -> !admin.listTopics().names().get().contains("old-small"));
    }

    // ---------------------------------------------------------------- a broker ends

    /** Produced idempotently and read by a group of two while the leader of the partition is killed. */
    private void brokerIsKilled() throws Exception {
        String topic = "old-survives";
        create(topic, 2, Collections.singletonMap("min.insync.replicas", "2"));
        TopicPartition zero = new TopicPartition(topic, 0);
        int leader = describe(topic).get(0).leader().id();
        AtomicReference<Exception> failed = new AtomicReference<>();
        AtomicInteger acknowledged = new AtomicInteger();
        int sent = 0;
        try (KafkaProducer<String, String> producer = producer("enable.idempotence", true, "delivery.timeout.ms", 120_000);
                Member first = new Member("old-survivors", null).subscribed(topic);
                Member second = new Member("old-survivors", null).subscribed(topic)) {
            List<Member> both = Arrays.asList(first, second);
            until("each has one", both, () -> first.held.size() == 1 && second.held.size() == 1);
            Set<String> read = new HashSet<>();
            int goal = Integer.MAX_VALUE;
            long deadline = System.currentTimeMillis() + 2 * LIMIT_MS;
            while (read.size() < goal) {
                check(System.currentTimeMillis() < deadline, acknowledged + " of " + sent + " acknowledged, " + read.size() + " read");
                for (int i = 0; i < 20 && goal == Integer.MAX_VALUE; i++) {
                    producer.send(new ProducerRecord<>(topic, sent % 2, null, Integer.toString(sent++)), (RecordMetadata metadata, Exception error) -> {
                        failed.compareAndSet(null, error);
                        acknowledged.incrementAndGet();
                    });
                }
                both.forEach(Member::poll);
                both.forEach(member -> read.addAll(member.read));
                both.forEach(member -> member.consumer.commitAsync());
                if (sent == 200) {
                    System.out.println("BROKER kill " + leader);
                }
                boolean gone = sent >= 200 && sent % 100 == 0 && admin.describeCluster().nodes().get().size() == 2;
                if (gone && goal == Integer.MAX_VALUE) {
                    // So much again without it.
                    for (int i = 0; i < 500; i++) {
                        producer.send(new ProducerRecord<>(topic, sent % 2, null, Integer.toString(sent++)), (metadata, error) -> {
                            failed.compareAndSet(null, error);
                            acknowledged.incrementAndGet();
                        });
                    }
                    producer.flush();
                    goal = sent;
                }
            }
            check(failed.get() == null, "a record failed: " + failed.get());
            is("acknowledged", acknowledged.get(), sent);
            // The group is whole, and commits.
            both.forEach(Member::poll);
            first.consumer.commitSync();
            second.consumer.commitSync();
        }
        try (Member reader = new Member("old-reader", null)) {
            reader.consumer.assign(Arrays.asList(zero, new TopicPartition(topic, 1)));
            int[] next = {0, 1};
            for (ConsumerRecord<String, String> record : reader.next(sent)) {
                is("in order, once", record.value(), Integer.toString(next[record.partition()]));
                next[record.partition()] += 2;
            }
            Map<TopicPartition, Long> ends = reader.consumer.endOffsets(reader.consumer.assignment());
            is("and no more", ends.values().stream().mapToLong(Long::longValue).sum(), (long) sent);
        }
    }
}
