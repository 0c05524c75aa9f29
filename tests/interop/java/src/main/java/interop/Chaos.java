package interop;

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * A producer and a group of two members that go on while the cluster is broken, and tell what they were promised:
 *
 * <pre>
 * ACKNOWLEDGED partition sequence offset
 * WRITTEN                                  after the file stop-writing appeared and all was answered
 * READ partition from to                   a member was given these offsets, without the last
 * OK                                       after the file stop-reading appeared and the group has committed all
 * </pre>
 */
final class Chaos {
    private static final String PADDING = ".".repeat(100);
    private static final long LIMIT_MS = 90_000;

    static void run(String bootstrap, String topic, int partitions, int writer, String group, Path orders) throws Exception {
        AtomicReference<Throwable> failure = new AtomicReference<>();
        List<Thread> threads = new ArrayList<>();
        threads.add(start(failure, () -> write(bootstrap, topic, partitions, writer, orders)));
        for (int member = 0; member < 2; member++) {
            threads.add(start(failure, () -> read(bootstrap, topic, partitions, group, orders)));
        }
        for (Thread thread : threads) {
            thread.join();
        }
        if (failure.get() != null) {
            throw new AssertionError("a worker failed", failure.get());
        }
        say("OK");
    }

    private static Thread start(AtomicReference<Throwable> failure, Main.Action action) {
        Thread thread = new Thread(() -> {
            try {
                action.run();
            } catch (Throwable e) {
                e.printStackTrace();
                failure.compareAndSet(null, e);
            }
        });
        thread.start();
        return thread;
    }

    /** A line at once and whole. */
    private static synchronized void say(String line) {
        System.out.println(line);
    }

    private static boolean isTold(Path orders, String what) {
        return Files.exists(orders.resolve(what));
    }

    private static void write(String bootstrap, String topic, int partitions, int writer, Path orders) throws Exception {
        // No outage is so long that a record is given up.
        Map<String, Object> settings = Map.of("delivery.timeout.ms", 600_000, "linger.ms", 5);
        AtomicReference<Exception> failure = new AtomicReference<>();
        try (KafkaProducer<String, String> producer = Main.producer(bootstrap, settings)) {
            for (int sequence = 0; !isTold(orders, "stop-writing"); sequence++) {
                int number = sequence;
                for (int partition = 0; partition < partitions; partition++) {
                    var record = new ProducerRecord<String, String>(topic, partition, null, writer + ":" + number + ":" + PADDING);
                    producer.send(record, (metadata, error) -> {
                        if (error == null) {
                            say("ACKNOWLEDGED " + metadata.partition() + " " + number + " " + metadata.offset());
                        } else {
                            failure.compareAndSet(null, error);
                        }
                    });
                }
                Thread.sleep(25);
            }
            producer.flush();
        }
        if (failure.get() != null) {
            throw failure.get();
        }
        say("WRITTEN");
    }

    private static void read(String bootstrap, String topic, int partitions, String group, Path orders) throws Exception {
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", bootstrap,
            "group.id", group,
            "enable.auto.commit", false,
            "auto.offset.reset", "earliest",
            "session.timeout.ms", 6_000,
            "heartbeat.interval.ms", 1_000);
        Set<TopicPartition> all = new HashSet<>();
        for (int partition = 0; partition < partitions; partition++) {
            all.add(new TopicPartition(topic, partition));
        }
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            long deadline = Long.MAX_VALUE;
            while (true) {
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(200));
                for (TopicPartition partition : records.partitions()) {
                    List<ConsumerRecord<String, String>> these = records.records(partition);
                    long from = these.get(0).offset();
                    long to = these.get(these.size() - 1).offset() + 1;
                    Main.check(to - from == these.size(), partition + ": " + these.size() + " records from " + from + " to " + to);
                    say("READ " + partition.partition() + " " + from + " " + to);
                }
                try {
                    consumer.commitSync();
                } catch (KafkaException e) {
                    // The next one commits more.
                    continue;
                }
                if (isTold(orders, "stop-reading")) {
                    if (deadline == Long.MAX_VALUE) {
                        deadline = System.currentTimeMillis() + LIMIT_MS;
                    }
                    if (hasCommittedAll(consumer, all)) {
                        return;
                    }
                    Main.check(System.currentTimeMillis() < deadline, "the group has not committed all");
                }
            }
        }
    }

    private static boolean hasCommittedAll(KafkaConsumer<String, String> consumer, Set<TopicPartition> all) {
        Map<TopicPartition, OffsetAndMetadata> committed = consumer.committed(all);
        Map<TopicPartition, Long> ends = consumer.endOffsets(all);
        return all.stream().allMatch(one -> {
            long position = committed.get(one) == null ? 0 : committed.get(one).offset();
            Main.check(position <= ends.get(one), one + ": " + position + " is committed, the end is at " + ends.get(one));
            return position == ends.get(one);
        });
    }

    private Chaos() {}
}
