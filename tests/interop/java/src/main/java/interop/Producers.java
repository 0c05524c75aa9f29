package interop;

import static interop.Main.check;
import static interop.Main.fails;
import static interop.Main.refused;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Partitioner;
import org.apache.kafka.clients.producer.ProducerInterceptor;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.Cluster;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InvalidTimestampException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;

/** Every method of a producer, its settings that a broker sees, and what it is told when a broker refuses. */
final class Producers {
    private static final String TOPIC = "producers";
    private static final int PARTITIONS = 3;

    static void run(String bootstrap) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic(TOPIC, PARTITIONS, (short) 1))).all().get();
            codecs(bootstrap, admin);
            acknowledgements(bootstrap, admin);
            times(bootstrap, admin);
            refusals(bootstrap, admin);
        }
        callbacks(bootstrap);
        partitioners(bootstrap);
        interceptors(bootstrap);
        headers(bootstrap);
        System.out.println("OK");
    }

    private static void is(String what, Object found, Object expected) {
        check(expected.equals(found), what + ": " + found + ", not " + expected);
    }

    private static void create(Admin admin, String topic, Map<String, String> configs) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, 1, (short) 1).configs(configs))).all().get();
    }

    /** Small batches and large ones of each codec and level, idempotent, in the order in which they were sent. */
    private static void codecs(String bootstrap, Admin admin) throws Exception {
        List<Map<String, Object>> table = List.of(
            Map.of("compression.type", "none"),
            Map.of("compression.type", "gzip", "compression.gzip.level", 9),
            Map.of("compression.type", "snappy"),
            Map.of("compression.type", "lz4", "compression.lz4.level", 17),
            Map.of("compression.type", "zstd", "compression.zstd.level", 7));
        for (Map<String, Object> settings : table) {
            String topic = "producers-" + settings.get("compression.type");
            create(admin, topic, Map.of());
            int large = 20;
            int small = 500;
            try (var producer = Main.producer(bootstrap, settings)) {
                for (int i = 0; i < large; i++) {
                    producer.send(new ProducerRecord<>(topic, Integer.toString(i), Integer.toString(i).repeat(200_000)));
                }
                for (int i = large; i < large + small; i++) {
                    producer.send(new ProducerRecord<>(topic, Integer.toString(i), null));
                }
            }
            List<ConsumerRecord<String, String>> found = Main.readAll(bootstrap, new TopicPartition(topic, 0), large + small);
            for (int i = 0; i < found.size(); i++) {
                is(topic + ": order", found.get(i).key(), Integer.toString(i));
            }
            is(topic + ": the large ones are whole", found.get(large - 1).value(), "19".repeat(200_000));
        }
        // What the topic says goes before what the producer says: batches are compressed anew by the broker.
        for (String codec : List.of("uncompressed", "gzip", "snappy", "lz4", "zstd")) {
            String topic = "producers-again-" + codec;
            create(admin, topic, Map.of("compression.type", codec));
            try (var producer = Main.producer(bootstrap, Map.of("compression.type", codec.equals("zstd") ? "gzip" : "zstd"))) {
                is("offset", producer.send(new ProducerRecord<>(topic, "k", "v".repeat(10_000))).get().offset(), 0L);
            }
            is("value", Main.readAll(bootstrap, new TopicPartition(topic, 0), 1).get(0).value(), "v".repeat(10_000));
        }
    }

    private static void acknowledgements(String bootstrap, Admin admin) throws Exception {
        for (String acks : List.of("0", "1", "all")) {
            create(admin, "producers-acks-" + acks, Map.of());
            TopicPartition partition = new TopicPartition("producers-acks-" + acks, 0);
            boolean idempotent = acks.equals("all");
            try (var producer = Main.producer(bootstrap, Map.of("acks", acks, "enable.idempotence", idempotent))) {
                RecordMetadata first = producer.send(new ProducerRecord<>(partition.topic(), "one")).get();
                // Who does not wait for an answer is not told the offset.
                is(acks + ": offset", first.offset(), acks.equals("0") ? -1L : 0L);
                is(acks + ": has an offset", first.hasOffset(), !acks.equals("0"));
            }
            is(acks, Main.readAll(bootstrap, partition, 1).get(0).value(), "one");
        }
    }

    private static void times(String bootstrap, Admin admin) throws Exception {
        String topic = "producers-append-time";
        create(admin, topic, Map.of("message.timestamp.type", "LogAppendTime"));
        try (var producer = Main.producer(bootstrap, Map.of())) {
            long before = System.currentTimeMillis() - 60_000;
            RecordMetadata stored = producer.send(new ProducerRecord<>(topic, 0, 5L, "k", "v")).get();
            check(stored.timestamp() > before, "the broker's time is told: " + stored.timestamp());
            ConsumerRecord<String, String> read = Main.readAll(bootstrap, new TopicPartition(topic, 0), 1).get(0);
            is("the time that is read", read.timestamp(), stored.timestamp());
            is("its type", read.timestampType(), TimestampType.LOG_APPEND_TIME);
        }
        String early = "producers-not-after";
        create(admin, early, Map.of("message.timestamp.after.max.ms", "1000"));
        try (var producer = Main.producer(bootstrap, Map.of())) {
            long tomorrow = System.currentTimeMillis() + 86_400_000;
            fails(InvalidTimestampException.class, "a record of tomorrow", producer.send(new ProducerRecord<>(early, 0, tomorrow, "k", "v")));
            is("and then one of now", producer.send(new ProducerRecord<>(early, "v")).get().offset(), 0L);
        }
    }

    /** In the order of their records, before flush returns. */
    private static void callbacks(String bootstrap) throws Exception {
        List<Long> offsets = new ArrayList<>();
        try (var producer = Main.producer(bootstrap, Map.of("linger.ms", 60_000, "max.in.flight.requests.per.connection", 5, "batch.size", 300))) {
            List<Future<RecordMetadata>> futures = new ArrayList<>();
            for (int i = 0; i < 500; i++) {
                futures.add(producer.send(new ProducerRecord<>(TOPIC, 0, null, "value-" + i), (metadata, error) -> {
                    check(error == null, "a callback is told " + error);
                    synchronized (offsets) {
                        offsets.add(metadata.offset());
                    }
                }));
            }
            producer.flush();
            check(futures.stream().allMatch(Future::isDone), "flush waits for all");
            is("all are called", offsets.size(), 500);
            for (int i = 0; i < 500; i++) {
                is("in order", offsets.get(i), (long) i);
                is("a future says the same", futures.get(i).get().offset(), (long) i);
            }
            is("partitions", producer.partitionsFor(TOPIC).size(), PARTITIONS);
            double sent = producer.metrics().entrySet().stream()
                .filter(each -> each.getKey().name().equals("record-send-total") && each.getKey().group().equals("producer-metrics"))
                .mapToDouble(each -> (Double) each.getValue().metricValue()).sum();
            is("the metric of sent records", sent, 500.0);
            producer.close(Duration.ofSeconds(30));
            refused(IllegalStateException.class, "a send after the close", () -> producer.send(new ProducerRecord<>(TOPIC, "v")));
        }
    }

    /** All to the last partition. */
    public static final class Last implements Partitioner {
        @Override
        public int partition(String topic, Object key, byte[] keyBytes, Object value, byte[] valueBytes, Cluster cluster) {
            return cluster.partitionCountForTopic(topic) - 1;
        }

        @Override
        public void close() {}

        @Override
        public void configure(Map<String, ?> configs) {}
    }

    private static void partitioners(String bootstrap) throws Exception {
        try (var producer = Main.producer(bootstrap, Map.of("partitioner.class", Last.class.getName()))) {
            for (int i = 0; i < 5; i++) {
                is("the program's own", producer.send(new ProducerRecord<>(TOPIC, "key-" + i, "v")).get().partition(), PARTITIONS - 1);
            }
        }
        try (var producer = Main.producer(bootstrap, Map.of("partitioner.class", "org.apache.kafka.clients.producer.RoundRobinPartitioner"))) {
            List<Future<RecordMetadata>> all = new ArrayList<>();
            for (int i = 0; i < 4 * PARTITIONS; i++) {
                all.add(producer.send(new ProducerRecord<>(TOPIC, "v")));
            }
            producer.flush();
            int[] count = new int[PARTITIONS];
            for (Future<RecordMetadata> each : all) {
                count[each.get().partition()]++;
            }
            for (int each : count) {
                check(each > 0, "each in turn: " + java.util.Arrays.toString(count));
            }
        }
        try (var producer = Main.producer(bootstrap, Map.of())) {
            int first = producer.send(new ProducerRecord<>(TOPIC, "a key", "v")).get().partition();
            is("a key has its place", producer.send(new ProducerRecord<>(TOPIC, "a key", "w")).get().partition(), first);
        }
    }

    /** Made by the producer itself, so that what it sees is counted for the class. */
    public static final class Counting implements ProducerInterceptor<String, String> {
        static final AtomicInteger SENT = new AtomicInteger();
        static final AtomicInteger ACKNOWLEDGED = new AtomicInteger();

        @Override
        public ProducerRecord<String, String> onSend(ProducerRecord<String, String> record) {
            SENT.incrementAndGet();
            return new ProducerRecord<>(record.topic(), record.partition(), record.key(), record.value() + " intercepted");
        }

        @Override
        public void onAcknowledgement(RecordMetadata metadata, Exception exception) {
            ACKNOWLEDGED.incrementAndGet();
        }

        @Override
        public void close() {}

        @Override
        public void configure(Map<String, ?> configs) {}
    }

    private static void interceptors(String bootstrap) throws Exception {
        try (var producer = Main.producer(bootstrap, Map.of("interceptor.classes", Counting.class.getName()))) {
            RecordMetadata at = producer.send(new ProducerRecord<>(TOPIC, 1, "k", "v")).get();
            ConsumerRecord<String, String> read = Main.readFrom(bootstrap, new TopicPartition(TOPIC, 1), at.offset(), 1).get(0);
            is("changed on its way", read.value(), "v intercepted");
        }
        is("sent", Counting.SENT.get(), 1);
        is("acknowledged", Counting.ACKNOWLEDGED.get(), 1);
    }

    private static void headers(String bootstrap) throws Exception {
        try (var producer = Main.producer(bootstrap, Map.of())) {
            ProducerRecord<String, String> record = new ProducerRecord<>(TOPIC, 1, "k", "v");
            record.headers().add("twice", "one".getBytes()).add("twice", "two".getBytes()).add("empty", new byte[0]);
            record.headers().add(new RecordHeader("none", (byte[]) null));
            RecordMetadata at = producer.send(record).get();
            var read = Main.readFrom(bootstrap, new TopicPartition(TOPIC, 1), at.offset(), 1).get(0).headers();
            is("all headers", read.toArray().length, 4);
            is("the last of a name", new String(read.lastHeader("twice").value()), "two");
            is("an empty one", read.lastHeader("empty").value().length, 0);
            check(read.lastHeader("none").value() == null, "null is not empty");
        }
    }

    private static void refusals(String bootstrap, Admin admin) throws Exception {
        create(admin, "producers-small", Map.of("max.message.bytes", "1000"));
        create(admin, "producers-compacted", Map.of("cleanup.policy", "compact"));
        try (var producer = Main.producer(bootstrap, Map.of())) {
            fails(RecordTooLargeException.class, "more than the topic takes", producer.send(new ProducerRecord<>("producers-small", "v".repeat(2_000))));
            is("and then a small one", producer.send(new ProducerRecord<>("producers-small", "v")).get().offset(), 0L);
            fails(RecordTooLargeException.class, "more than max.request.size", producer.send(new ProducerRecord<>(TOPIC, "v".repeat(2_000_000))));
            fails(org.apache.kafka.common.InvalidRecordException.class, "no key where keys are compacted", producer.send(new ProducerRecord<>("producers-compacted", "v")));
            is("and then with a key", producer.send(new ProducerRecord<>("producers-compacted", "k", "v")).get().offset(), 0L);
            fails(InvalidTopicException.class, "a name that no topic can have", producer.send(new ProducerRecord<>("no such topic", "v")));
        }
        try (var producer = Main.producer(bootstrap, Map.of("max.block.ms", 500))) {
            fails(TimeoutException.class, "a partition that is not there", producer.send(new ProducerRecord<>(TOPIC, PARTITIONS, "k", "v")));
        }
    }

    private Producers() {}
}
