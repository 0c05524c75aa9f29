package interop;

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.LongDeserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.KeyValue;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.Stores;

/**
 * Counts words exactly once while a broker and a worker are killed. `count BOOTSTRAP` drives it and prints OK; it starts
 * workers, each a process of its own: `work BOOTSTRAP DIRECTORY`. A line `BROKER kill 2` asks whoever started this to kill a
 * broker, `BROKER start 2` to start it again.
 */
public final class Main {
    private static final String LINES = "lines", COUNTS = "counts";
    private static final String[] WORDS = "to be or not that is the question whether nobler in mind".split(" ");
    private static final int LINE_COUNT = 600, WORDS_A_LINE = 5;
    private static final long LIMIT_MS = 180_000;

    public static void main(String[] arguments) throws Exception {
        switch (arguments[0]) {
            case "count" -> count(arguments[1]);
            case "work" -> work(arguments[1], arguments[2]);
            default -> throw new IllegalArgumentException("count BOOTSTRAP, or work BOOTSTRAP DIRECTORY");
        }
        // Threads of the client may be waiting for a broker still.
        System.exit(0);
    }

    // ---- a worker ----

    private static void work(String bootstrap, String directory) throws InterruptedException {
        StreamsBuilder builder = new StreamsBuilder();
        builder.<String, String>stream(LINES)
            .flatMap((key, line) -> Arrays.stream(line.split(" ")).map(word -> KeyValue.pair(word, word)).toList())
            .groupByKey(Grouped.with(Serdes.String(), Serdes.String()))
            .count(Materialized.as(Stores.inMemoryKeyValueStore("words")))
            .toStream()
            .to(COUNTS, Produced.with(Serdes.String(), Serdes.Long()));
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "word-count");
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 3);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, directory);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 200);
        // Every count is told, not only the last of a while.
        settings.put(StreamsConfig.STATESTORE_CACHE_MAX_BYTES_CONFIG, 0);
        settings.put(StreamsConfig.DEFAULT_KEY_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        settings.put(StreamsConfig.DEFAULT_VALUE_SERDE_CLASS_CONFIG, Serdes.StringSerde.class);
        settings.put(StreamsConfig.consumerPrefix("session.timeout.ms"), 6_000);
        settings.put(StreamsConfig.consumerPrefix("heartbeat.interval.ms"), 1_000);
        settings.put(StreamsConfig.producerPrefix("transaction.timeout.ms"), 10_000);
        KafkaStreams streams = new KafkaStreams(builder.build(), settings);
        CountDownLatch ended = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(error -> StreamThreadExceptionResponse.REPLACE_THREAD);
        streams.start();
        ended.await();
    }

    private static Process startWorker(String bootstrap) throws Exception {
        Path directory = Files.createTempDirectory("streams");
        String java = ProcessHandle.current().info().command().orElse("java");
        ProcessBuilder builder = new ProcessBuilder(
            java, "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", System.getProperty("java.class.path"),
            Main.class.getName(), "work", bootstrap, directory.toString());
        builder.redirectErrorStream(true).redirectOutput(directory.resolve("log").toFile());
        Process worker = builder.start();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            worker.destroyForcibly();
            try (var files = Files.walk(directory)) {
                files.sorted((a, b) -> b.compareTo(a)).forEach(path -> path.toFile().delete());
            } catch (java.io.IOException e) {
                System.err.println(directory + " stays: " + e);
            }
        }));
        return worker;
    }

    // ---- the driver ----

    private static void count(String bootstrap) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic(LINES, 3, (short) 3), new NewTopic(COUNTS, 2, (short) 3))).all().get();
        }
        Map<String, Long> expected = new TreeMap<>();
        try (Reader reader = new Reader(bootstrap)) {
            Process first = startWorker(bootstrap);
            startWorker(bootstrap);
            produce(bootstrap, 0, LINE_COUNT / 3, expected);
            reader.until(LINE_COUNT * WORDS_A_LINE / 6);
            System.out.println("BROKER kill 2");
            produce(bootstrap, LINE_COUNT / 3, 2 * LINE_COUNT / 3, expected);
            reader.until(LINE_COUNT * WORDS_A_LINE / 2);
            // In the middle of a transaction, most likely: it has one all the time.
            first.destroyForcibly();
            System.out.println("BROKER start 2");
            startWorker(bootstrap);
            produce(bootstrap, 2 * LINE_COUNT / 3, LINE_COUNT, expected);
            reader.until(LINE_COUNT * WORDS_A_LINE);
            reader.rest();
            check(reader.counts.equals(expected), "counted " + reader.counts + ", sent " + expected);
        }
        System.out.println("OK");
    }

    private static void produce(String bootstrap, int from, int to, Map<String, Long> expected) throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "linger.ms", 5);
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            var sent = new ArrayList<java.util.concurrent.Future<?>>();
            for (int line = from; line < to; line++) {
                List<String> words = new ArrayList<>();
                for (int at = 0; at < WORDS_A_LINE; at++) {
                    String word = WORDS[(line * 7 + at * at + line / 11) % WORDS.length];
                    words.add(word);
                    expected.merge(word, 1L, Long::sum);
                }
                sent.add(producer.send(new ProducerRecord<>(LINES, "line " + line, String.join(" ", words))));
            }
            for (var one : sent) {
                one.get();
            }
        }
    }

    /** Reads what is committed of the counts: those of each word must come one after the other, each once. */
    private static final class Reader implements AutoCloseable {
        final Map<String, Long> counts = new TreeMap<>();
        private final KafkaConsumer<String, Long> consumer;
        private int read;

        Reader(String bootstrap) {
            Map<String, Object> settings = new HashMap<>();
            settings.put("bootstrap.servers", bootstrap);
            settings.put("group.id", "reader");
            settings.put("isolation.level", "read_committed");
            settings.put("auto.offset.reset", "earliest");
            consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new LongDeserializer());
            consumer.subscribe(List.of(COUNTS));
        }

        void until(int count) {
            long deadline = System.currentTimeMillis() + LIMIT_MS;
            while (read < count) {
                check(System.currentTimeMillis() < deadline, read + " of " + count + " counts came: " + counts);
                poll(Duration.ofMillis(200));
            }
        }

        /** What nobody expects would come in this time. */
        void rest() {
            long deadline = System.currentTimeMillis() + 3_000;
            while (System.currentTimeMillis() < deadline) {
                poll(Duration.ofMillis(200));
            }
        }

        private void poll(Duration timeout) {
            consumer.poll(timeout).forEach(record -> {
                long due = counts.getOrDefault(record.key(), 0L) + 1;
                check(record.value() == due, record.key() + " is counted " + record.value() + " where " + due + " is due");
                counts.put(record.key(), due);
                read++;
            });
        }

        @Override
        public void close() {
            consumer.close();
        }
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }
}
