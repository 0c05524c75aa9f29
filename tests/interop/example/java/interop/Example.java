package interop;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * What the examples of frameworks have in common: two topics, the orders that go into the one, and the ledger of the
 * receipts that must come out of the other, each at least once.
 *
 * <p>Each framework brings a client of its own, so this uses nothing that came after kafka-clients 2.7.
 */
public final class Example implements AutoCloseable {
    /** No cluster takes longer to answer than this. */
    private static final int ANSWER_MS = 20_000;
    /** Beyond the time over which orders are spread. It covers the death of a broker and a slow machine. */
    private static final int LIMIT_MS = 180_000;
    private static final int PARTITIONS = 6;
    private static final int CUSTOMERS = 97;

    public final String bootstrap;
    /** How many orders there are, and over how many seconds they are spread, roughly. */
    public final int records;
    public final int seconds;
    public final String orders;
    public final String receipts;
    public final String group;
    public final Ledger ledger = new Ledger();
    private final Path files;
    private final Admin admin;
    private final List<String> topics = new ArrayList<>();
    private final long deadline;
    private final CountDownLatch started = new CountDownLatch(1);

    public interface Body {
        void run(Example example) throws Exception;
    }

    /** Throws what went wrong with what runs in the background. */
    public interface Health {
        void check() throws Exception;
    }

    /** Runs an example as a program: BOOTSTRAP RECORDS SECONDS. The last line is OK, or one that says what is wrong. */
    public static void main(String name, String[] args, Body body) {
        int code = 0;
        try (Example example = new Example(name, args[0], Integer.parseInt(args[1]), Integer.parseInt(args[2]))) {
            body.run(example);
            example.admin.deleteTopics(example.topics).all().get();
            System.out.println("OK");
        } catch (Throwable failure) {
            code = 1;
            if (System.getenv("EXAMPLE_TRACE") != null) {
                failure.printStackTrace();
            }
            System.err.println("FAILED: " + String.valueOf(reason(failure)).lines().findFirst().orElse(""));
        }
        // Frameworks leave threads behind.
        System.exit(code);
    }

    /** The innermost cause is the one that names the thing. */
    private static String reason(Throwable failure) {
        Throwable cause = failure;
        while (cause.getCause() != null && cause.getCause() != cause) {
            cause = cause.getCause();
        }
        return cause instanceof IllegalStateException ? cause.getMessage() : cause.toString();
    }

    private Example(String name, String bootstrap, int records, int seconds) throws Exception {
        this.bootstrap = bootstrap;
        this.records = records;
        this.seconds = seconds;
        // Of this run alone, so that whatever earlier runs left is not read.
        String run = Long.toString(System.currentTimeMillis(), 36);
        orders = name + "-orders-" + run;
        receipts = name + "-receipts-" + run;
        group = name + "-clerks-" + run;
        files = Files.createTempDirectory(name + "-example-");
        deadline = System.currentTimeMillis() + LIMIT_MS + seconds * 1_000L;
        admin = Admin.create(Map.of("bootstrap.servers", bootstrap, "default.api.timeout.ms", ANSWER_MS,
            "request.timeout.ms", ANSWER_MS / 2));
        int brokers = brokers();
        say("cluster of " + brokers + " brokers at " + bootstrap);
        createTopic(orders, brokers);
        createTopic(receipts, brokers);
    }

    private int brokers() throws Exception {
        try {
            return admin.describeCluster().nodes().get().size();
        } catch (ExecutionException e) {
            if (e.getCause() instanceof TimeoutException) {
                throw new IllegalStateException("no cluster answers at " + bootstrap + ": is it up, and is this one of its brokers?");
            }
            throw e;
        }
    }

    /** Another topic of this run. */
    public String createTopic(String name) throws Exception {
        createTopic(name, brokers());
        return name;
    }

    private void createTopic(String name, int brokers) throws Exception {
        int replicas = Math.min(3, brokers);
        int insync = Math.min(2, brokers);
        NewTopic topic = new NewTopic(name, PARTITIONS, (short) replicas);
        admin.createTopics(List.of(topic.configs(Map.of("min.insync.replicas", String.valueOf(insync))))).all().get();
        topics.add(name);
        say("topic " + name + ": " + PARTITIONS + " partitions, replication factor " + replicas + ", min.insync.replicas " + insync);
    }

    /** A new directory for files of this run, which go with it. */
    public Path directory(String name) throws IOException {
        return Files.createDirectory(files.resolve(name));
    }

    // ------------------------------------------------------------ the records

    public static String order(long number) {
        return "order-" + number;
    }

    public static String receipt(String order) {
        return "receipt for " + order;
    }

    /** The key of an order and of its receipt. */
    public static String customer(String text) {
        return "customer-" + number(text) % CUSTOMERS;
    }

    private static long number(String text) {
        return Long.parseLong(text.substring(text.lastIndexOf('-') + 1));
    }

    /** Which receipts have come. */
    public final class Ledger {
        private final BitSet seen = new BitSet();
        private int duplicates;

        public synchronized void add(String key, String value) {
            int number = (int) number(value);
            if (number >= records || !value.equals(receipt(order(number))) || !customer(value).equals(key)) {
                throw new IllegalStateException("nobody ordered what this receipt is for: " + key + " " + value);
            }
            if (seen.get(number)) {
                duplicates++;
            }
            seen.set(number);
        }

        public synchronized boolean isComplete() {
            return seen.cardinality() == records;
        }

        public void requireComplete(String reader) {
            if (!isComplete()) {
                throw new IllegalStateException(reader + " has read only " + this);
            }
            say(reader + " has read " + this);
        }

        @Override
        public synchronized String toString() {
            return seen.cardinality() + " of " + records + " receipts, " + duplicates + " duplicates";
        }
    }

    // ------------------------------------------------------------ looking on

    public void say(String line) {
        System.out.println(line);
        System.out.flush();
    }

    /** To be called when the first receipts are there: from here on a broker may die. */
    public void sayStarted() {
        if (started.getCount() > 0) {
            say("STARTED: " + ends(orders).values().stream().mapToLong(end -> end).sum() + " of " + records + " orders placed");
            started.countDown();
        }
    }

    /** For whoever places orders, half-way: so that a broker may die before the last order, however slow the start. */
    public void awaitStarted() throws Exception {
        while (!started.await(100, TimeUnit.MILLISECONDS)) {
            checkTime("the first receipt");
        }
    }

    /** Fails with `what` is missing once the time of the run is up. */
    public void checkTime(String what) {
        if (System.currentTimeMillis() > deadline) {
            throw new IllegalStateException("gave up on " + what + " after " + (LIMIT_MS / 1_000 + seconds) + " s: " + ledger);
        }
    }

    /** Reads the receipts with a plain consumer, from the first one on, until the ledger is complete. */
    public void followReceipts(Health health) throws Exception {
        try (KafkaConsumer<String, String> consumer = consumer()) {
            consumer.assign(partitions(receipts));
            consumer.seekToBeginning(consumer.assignment());
            while (!ledger.isComplete()) {
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(200))) {
                    ledger.add(record.key(), record.value());
                    sayStarted();
                }
                health.check();
                checkTime("receipts");
            }
        }
        ledger.requireComplete("a plain consumer");
    }

    /** Waits until the group has committed all that is in the orders. */
    public void awaitCommits() throws Exception {
        Map<TopicPartition, Long> ends = ends(orders);
        Map<TopicPartition, Long> committed = new HashMap<>();
        while (!committed.equals(ends)) {
            checkTime("commits of the group " + group);
            Thread.sleep(100);
            committed.clear();
            admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().forEach((partition, offset) -> {
                if (offset != null) {
                    committed.put(partition, offset.offset());
                }
            });
            // A partition into which no customer falls needs no commit.
            ends.forEach((partition, end) -> {
                if (end == 0) {
                    committed.putIfAbsent(partition, 0L);
                }
            });
        }
        say("group " + group + " has committed all orders");
    }

    /**
     * The high watermarks. Not by {@link Admin}: the one of 4.1.2 remembers the leaders that it once asked, and waits for
     * one that has died until its time is over.
     */
    private Map<TopicPartition, Long> ends(String topic) {
        try (KafkaConsumer<String, String> consumer = consumer()) {
            return consumer.endOffsets(partitions(topic));
        }
    }

    private KafkaConsumer<String, String> consumer() {
        Map<String, Object> config = new HashMap<>();
        config.put("bootstrap.servers", bootstrap);
        config.put("key.deserializer", StringDeserializer.class);
        config.put("value.deserializer", StringDeserializer.class);
        config.put("enable.auto.commit", false);
        return new KafkaConsumer<>(config);
    }

    private static Collection<TopicPartition> partitions(String topic) {
        return IntStream.range(0, PARTITIONS).mapToObj(index -> new TopicPartition(topic, index)).collect(Collectors.toList());
    }

    @Override
    public void close() throws IOException {
        admin.close(Duration.ofSeconds(5));
        try (Stream<Path> paths = Files.walk(files)) {
            paths.sorted(Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
        }
    }
}
