package interop;

import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicLongArray;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * What a Java application does with a cluster. The settings of producers and consumers are Kafka's defaults, so acks=all
 * and idempotent.
 *
 * <pre>
 * roundtrip BOOTSTRAP               topics, every codec, assign and consume, seek, by time; prints OK
 * survive BOOTSTRAP TOPIC SECONDS   produces at full speed to one partition with three replicas, prints `LEADER id host:port`
 *                                   and, when records are acknowledged, STARTED; then reads all back and compares;
 *                                   prints a line of JSON and OK
 * gap BOOTSTRAP TOPIC SECONDS       the same with one record at a time, without reading back
 * groups BOOTSTRAP                  what {@link Groups} says; prints OK
 * consumers BOOTSTRAP               what {@link Consumers} says; prints OK
 * consumer-protocol BOOTSTRAP       what {@link ConsumerProtocol} says; prints OK
 * producers BOOTSTRAP               what {@link Producers} says; prints OK
 * admin BOOTSTRAP                   what {@link Admins} says; prints OK
 * transactions BOOTSTRAP            what {@link Transactions} says; prints OK
 * copies BOOTSTRAP                  what {@link Copies} says; prints OK
 * chaos BOOTSTRAP TOPIC PARTITIONS WRITER GROUP DIRECTORY    what {@link Chaos} says, told by files in the directory
 * not-served BOOTSTRAP              what {@link NotServed} says; prints OK
 * </pre>
 */
public final class Main {
    private static final long LIMIT_MS = 60_000;
    /** More than this are not sent, so that what is remembered of them has a bound. */
    private static final int RECORDS_MAX = 1_000_000;

    public static void main(String[] args) throws Exception {
        switch (args.length == 0 ? "" : args[0]) {
            case "roundtrip" -> roundtrip(args[1]);
            case "survive" -> survive(args[1], args[2], Integer.parseInt(args[3]), 1_000);
            case "gap" -> survive(args[1], args[2], Integer.parseInt(args[3]), 1);
            case "groups" -> Groups.run(args[1]);
            case "consumers" -> Consumers.run(args[1]);
            case "consumer-protocol" -> ConsumerProtocol.run(args[1]);
            case "producers" -> Producers.run(args[1]);
            case "admin" -> Admins.run(args[1]);
            case "transactions" -> Transactions.run(args[1]);
            case "copies" -> Copies.run(args[1]);
            case "chaos" -> Chaos.run(args[1], args[2], Integer.parseInt(args[3]), Integer.parseInt(args[4]), args[5], Path.of(args[6]));
            case "not-served" -> NotServed.run(args[1]);
            default -> {
                System.err.println("roundtrip|groups|consumers|consumer-protocol|producers|admin|transactions|copies|not-served BOOTSTRAP, or survive|gap BOOTSTRAP TOPIC SECONDS");
                System.exit(2);
            }
        }
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    /** The future fails, in time, and for this reason. */
    static void fails(Class<? extends Throwable> expected, String what, Future<?> future) throws Exception {
        try {
            Object answer = future.get(LIMIT_MS, TimeUnit.MILLISECONDS);
            check(false, what + " is answered with " + answer);
        } catch (ExecutionException e) {
            Throwable cause = e.getCause();
            if (!expected.isInstance(cause)) {
                throw new AssertionError(what + " is refused with " + cause, cause);
            }
        } catch (TimeoutException e) {
            check(false, what + " is not answered");
        }
    }

    interface Action {
        void run() throws Exception;
    }

    /** The call throws, and for this reason. */
    static void refused(Class<? extends Throwable> expected, String what, Action action) {
        try {
            action.run();
        } catch (Exception e) {
            if (!expected.isInstance(e)) {
                throw new AssertionError(what + " is refused with " + e, e);
            }
            return;
        }
        check(false, what + " is accepted");
    }

    static KafkaProducer<String, String> producer(String bootstrap, Map<String, Object> more) {
        Map<String, Object> settings = new HashMap<>(more);
        settings.put("bootstrap.servers", bootstrap);
        return new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
    }

    private static KafkaConsumer<String, String> consumer(String bootstrap) {
        return new KafkaConsumer<>(
            Map.of("bootstrap.servers", bootstrap, "enable.auto.commit", false, "auto.offset.reset", "none"),
            new StringDeserializer(),
            new StringDeserializer());
    }

    /** Reads on from the consumer's position until there are `count` records. */
    private static List<ConsumerRecord<String, String>> read(KafkaConsumer<String, String> consumer, int count) {
        List<ConsumerRecord<String, String>> out = new ArrayList<>();
        long deadline = System.currentTimeMillis() + LIMIT_MS;
        while (out.size() < count) {
            check(System.currentTimeMillis() < deadline, out.size() + " of " + count + " records came");
            consumer.poll(Duration.ofMillis(100)).forEach(out::add);
        }
        return out;
    }

    static List<ConsumerRecord<String, String>> readAll(String bootstrap, TopicPartition partition, int count) {
        return readFrom(bootstrap, partition, 0, count);
    }

    static List<ConsumerRecord<String, String>> readFrom(String bootstrap, TopicPartition partition, long offset, int count) {
        try (KafkaConsumer<String, String> consumer = consumer(bootstrap)) {
            consumer.assign(List.of(partition));
            consumer.seek(partition, offset);
            return read(consumer, count);
        }
    }

    private static void roundtrip(String bootstrap) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
                oneCodec(admin, bootstrap, codec);
            }
            topics(admin);
        }
        System.out.println("OK");
    }

    private static void oneCodec(Admin admin, String bootstrap, String codec) throws Exception {
        String topic = "java-" + codec;
        TopicPartition partition = new TopicPartition(topic, 0);
        admin.createTopics(List.of(new NewTopic(topic, 1, (short) 1))).all().get();
        long start = 1_700_000_000_000L;
        int count = 1_000;
        try (KafkaProducer<String, String> producer = producer(bootstrap, Map.of("compression.type", codec, "linger.ms", 5))) {
            for (int i = 0; i < count; i++) {
                var record = new ProducerRecord<>(topic, 0, start + i * 10L, "key-" + i, ("value-" + i).repeat(20));
                record.headers().add(new RecordHeader("codec", codec.getBytes()));
                producer.send(record);
            }
            producer.flush();
            var last = producer.send(new ProducerRecord<String, String>(topic, 0, (Long) (start + count * 10L), null, null)).get();
            check(last.offset() == count, codec + ": the last offset is " + last.offset());
        }
        try (KafkaConsumer<String, String> consumer = consumer(bootstrap)) {
            consumer.assign(List.of(partition));
            check(consumer.beginningOffsets(Set.of(partition)).get(partition) == 0, codec + ": beginning");
            check(consumer.endOffsets(Set.of(partition)).get(partition) == count + 1, codec + ": end");
            consumer.seekToBeginning(List.of(partition));
            List<ConsumerRecord<String, String>> found = read(consumer, count + 1);
            for (int i = 0; i < count; i++) {
                ConsumerRecord<String, String> record = found.get(i);
                check(record.offset() == i, codec + ": offset " + record.offset() + " at place " + i);
                check(record.key().equals("key-" + i), codec + ": key " + i);
                check(record.value().equals(("value-" + i).repeat(20)), codec + ": value " + i);
                check(record.timestamp() == start + i * 10L, codec + ": timestamp " + i);
                check(new String(record.headers().lastHeader("codec").value()).equals(codec), codec + ": header " + i);
            }
            check(found.get(count).value() == null, codec + ": a null value stays null");
            long[][] table = {{start + 5_000, 500}, {start + 5_001, 501}, {0, 0}, {start + count * 10L, count}};
            for (long[] line : table) {
                var answer = consumer.offsetsForTimes(Map.of(partition, line[0])).get(partition);
                check(answer.offset() == line[1], codec + ": time " + line[0] + " is at " + answer.offset());
                consumer.seek(partition, answer.offset());
                check(read(consumer, 1).get(0).offset() == line[1], codec + ": reading on from " + line[1]);
            }
            check(consumer.offsetsForTimes(Map.of(partition, start * 2)).get(partition) == null, codec + ": after all");
        }
    }

    private static void topics(Admin admin) throws Exception {
        check(admin.listTopics().names().get().contains("java-zstd"), "the topic is listed");
        TopicDescription described = admin.describeTopics(List.of("java-zstd")).allTopicNames().get().get("java-zstd");
        check(described.partitions().size() == 1 && described.partitions().get(0).isr().size() == 1, "it is described");
        check(!described.topicId().toString().isEmpty(), "it has an id");
        check(!admin.describeCluster().nodes().get().isEmpty(), "the cluster has nodes");
        try {
            admin.createTopics(List.of(new NewTopic("java-zstd", 1, (short) 1))).all().get();
            check(false, "a topic is created twice");
        } catch (ExecutionException e) {
            check(e.getCause() instanceof TopicExistsException, "created twice: " + e.getCause());
        }
        admin.deleteTopics(List.of("java-zstd")).all().get();
        try {
            admin.deleteTopics(List.of("never-there")).all().get();
            check(false, "a topic is deleted that never was");
        } catch (ExecutionException e) {
            check(e.getCause() instanceof UnknownTopicOrPartitionException, "never there: " + e.getCause());
        }
        long deadline = System.currentTimeMillis() + LIMIT_MS;
        while (admin.listTopics().names().get().contains("java-zstd")) {
            check(System.currentTimeMillis() < deadline, "the deleted topic is still listed");
        }
    }

    /** `window`: how many records may be under way. */
    private static void survive(String bootstrap, String topic, int seconds, int window) throws Exception {
        leader(bootstrap, topic);
        // By number: the offset that was acknowledged, plus two; 0 while there is none.
        AtomicLongArray acknowledged = new AtomicLongArray(RECORDS_MAX);
        AtomicLong last = new AtomicLong(), longest = new AtomicLong(), failed = new AtomicLong(), count = new AtomicLong();
        Semaphore room = new Semaphore(window);
        int sent = 0;
        try (KafkaProducer<String, String> producer = producer(bootstrap, Map.of())) {
            long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(seconds);
            while (System.nanoTime() < until && sent < RECORDS_MAX) {
                room.acquire();
                int number = sent++;
                producer.send(new ProducerRecord<>(topic, 0, null, Integer.toString(number)), (metadata, error) -> {
                    long now = System.nanoTime();
                    if (error == null) {
                        acknowledged.set(number, metadata.offset() + 2);
                        count.incrementAndGet();
                        long before = last.getAndSet(now);
                        if (before == 0) {
                            System.out.println("STARTED");
                        } else {
                            longest.accumulateAndGet(now - before, Math::max);
                        }
                    } else {
                        failed.incrementAndGet();
                        System.out.println("FAILED " + error);
                    }
                    room.release();
                });
            }
            producer.flush();
        }
        check(failed.get() == 0, failed + " records failed");
        check(count.get() == sent, count + " of " + sent + " acknowledged");
        if (window > 1) {
            readBack(bootstrap, topic, sent, acknowledged);
        }
        System.out.printf(
            "{\"run\":\"java\",\"acked\":%d,\"longest_ms\":%d}%nOK%n",
            count.get(),
            TimeUnit.NANOSECONDS.toMillis(longest.get()));
    }

    /** Creates the topic with three replicas (fewer where there are fewer brokers) and prints its leader. */
    private static void leader(String bootstrap, String topic) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            int replicas = Math.min(3, admin.describeCluster().nodes().get().size());
            String leastInSync = Integer.toString(Math.max(1, replicas - 1));
            NewTopic made = new NewTopic(topic, 1, (short) replicas).configs(Map.of("min.insync.replicas", leastInSync));
            try {
                admin.createTopics(List.of(made)).all().get();
            } catch (ExecutionException e) {
                check(e.getCause() instanceof TopicExistsException, "create: " + e.getCause());
            }
            long deadline = System.currentTimeMillis() + LIMIT_MS;
            while (System.currentTimeMillis() < deadline) {
                try {
                    var partition = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().get(0);
                    Node leader = partition.leader();
                    if (leader != null && !leader.isEmpty() && partition.isr().size() == replicas) {
                        System.out.println("LEADER " + leader.id() + " " + leader.host() + ":" + leader.port());
                        return;
                    }
                } catch (ExecutionException e) {
                    check(e.getCause() instanceof UnknownTopicOrPartitionException, "describe: " + e.getCause());
                }
            }
            check(false, "the topic has no leader");
        }
    }

    private static void readBack(String bootstrap, String topic, int sent, AtomicLongArray acknowledged) {
        TopicPartition partition = new TopicPartition(topic, 0);
        try (KafkaConsumer<String, String> consumer = consumer(bootstrap)) {
            consumer.assign(List.of(partition));
            consumer.seekToBeginning(List.of(partition));
            check(consumer.endOffsets(Set.of(partition)).get(partition) == sent, "as many are stored as were sent");
            int next = 0;
            long deadline = System.currentTimeMillis() + LIMIT_MS;
            while (next < sent) {
                check(System.currentTimeMillis() < deadline, next + " of " + sent + " records came");
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(100))) {
                    check(record.value().equals(Integer.toString(next)), "record " + record.value() + " at place " + next);
                    long promised = acknowledged.get(next) - 2;
                    // -1: the client does not know the offset of a batch that was answered as a duplicate.
                    check(promised == record.offset() || promised == -1, next + " is at " + record.offset() + ", not " + promised);
                    next++;
                }
            }
        }
    }
}
