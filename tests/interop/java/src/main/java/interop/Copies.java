package interop;

import static interop.Main.check;
import static interop.Transactions.LIMIT_MS;
import static interop.Transactions.await;
import static interop.Transactions.consumer;
import static interop.Transactions.create;
import static interop.Transactions.describe;
import static interop.Transactions.producer;
import static interop.Transactions.read;

import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.clients.consumer.RoundRobinAssignor;
import org.apache.kafka.clients.consumer.StickyAssignor;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;

/**
 * Consume, transform, produce, under both group protocols and every assignor; three brokers. Each record is copied once, though
 * workers come while others copy, and a coordinator is killed meanwhile: that of the transactions, or that of the group.
 */
final class Copies {
    private static final int RECORDS = 2_000;
    private static final int PARTITIONS = 4;

    static void run(String bootstrap) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            int kills = 0;
            for (Class<?> assignor : List.of(
                    RangeAssignor.class, RoundRobinAssignor.class, StickyAssignor.class, CooperativeStickyAssignor.class)) {
                Map<String, Object> settings = Map.of(
                    "group.protocol", "classic", "partition.assignment.strategy", assignor.getName(), "session.timeout.ms", 10_000);
                new Copies(bootstrap, admin, assignor.getSimpleName(), settings).all(kills++ % 2 == 0);
            }
            for (String assignor : List.of("uniform", "range")) {
                Map<String, Object> settings = Map.of("group.protocol", "consumer", "group.remote.assignor", assignor);
                // Both, for each: these groups and their coordinator are the newer ones.
                new Copies(bootstrap, admin, assignor, settings).all(true);
                new Copies(bootstrap, admin, assignor + "-again", settings).all(false);
            }
        }
        System.out.println("OK");
    }

    private final String bootstrap;
    private final Admin admin;
    private final String name;
    private final Map<String, Object> settings;
    private final AtomicInteger copied = new AtomicInteger();
    private final List<Throwable> failures = new ArrayList<>();
    private final List<Thread> workers = new ArrayList<>();

    private Copies(String bootstrap, Admin admin, String name, Map<String, Object> settings) {
        this.bootstrap = bootstrap;
        this.admin = admin;
        this.name = name;
        this.settings = new HashMap<>(settings);
        this.settings.put("group.id", group());
        this.settings.put("max.poll.records", 20);
    }

    private String group() {
        return "copies-" + name;
    }

    private String from() {
        return "from-" + name;
    }

    private String to() {
        return "to-" + name;
    }

    private void all(boolean killsThatOfTransactions) throws Exception {
        create(admin, from(), PARTITIONS);
        create(admin, to(), PARTITIONS);
        try (KafkaProducer<String, String> producer = producer(bootstrap, "fills-" + name)) {
            producer.initTransactions();
            producer.beginTransaction();
            for (int n = 0; n < RECORDS; n++) {
                producer.send(new ProducerRecord<>(from(), n % PARTITIONS, null, "v" + n));
            }
            producer.commitTransaction();
        }
        start();
        reached(RECORDS / 6);
        start();
        reached(RECORDS / 3);
        int coordinator = killsThatOfTransactions
            ? describe(admin, group() + "-0").coordinatorId()
            : admin.describeConsumerGroups(List.of(group())).describedGroups().get(group()).get().coordinator().id();
        System.out.println(name + ": " + copied + " are copied");
        System.out.println("BROKER kill " + coordinator);
        reached(2 * RECORDS / 3);
        System.out.println("BROKER start " + coordinator);
        for (Thread thread : workers) {
            thread.join(2 * LIMIT_MS);
        }
        requireNoFailure();
        List<String> found = read(bootstrap, to(), PARTITIONS, "read_committed");
        Set<String> distinct = new HashSet<>(found);
        check(found.size() == RECORDS && distinct.size() == RECORDS,
            name + ": " + found.size() + " copies of " + distinct.size() + " records, of " + RECORDS);
    }

    private void start() {
        Worker worker = new Worker(group() + "-" + workers.size());
        Thread thread = new Thread(() -> {
            try {
                worker.run();
            } catch (Throwable e) {
                synchronized (failures) {
                    failures.add(e);
                }
            }
        });
        thread.start();
        workers.add(thread);
    }

    private void reached(int count) throws InterruptedException {
        await(name + ": " + count + " copies", () -> {
            requireNoFailure();
            return copied.get() >= count;
        });
    }

    private void requireNoFailure() {
        synchronized (failures) {
            for (Throwable failure : failures) {
                throw new AssertionError(name + ": a worker failed", failure);
            }
        }
    }

    /** Copies from one topic to another, a transaction for each poll, until all is copied. */
    private final class Worker {
        private final String id;

        Worker(String id) {
            this.id = id;
        }

        void run() {
            KafkaProducer<String, String> producer = initialised();
            try (KafkaConsumer<String, String> consumer = consumer(bootstrap, "read_committed", settings)) {
                consumer.subscribe(List.of(from()));
                long deadline = System.currentTimeMillis() + 2 * LIMIT_MS;
                while (true) {
                    check(System.currentTimeMillis() < deadline, id + " has copied too little");
                    ConsumerRecords<String, String> records = consumer.poll(Duration.ofMillis(100));
                    if (records.isEmpty()) {
                        if (isAllCopied(consumer)) {
                            return;
                        }
                        continue;
                    }
                    try {
                        copy(producer, consumer, records);
                        copied.addAndGet(records.count());
                    } catch (KafkaException e) {
                        producer = recovered(producer, e);
                        rewind(consumer);
                    }
                }
            } finally {
                producer.close(Duration.ofSeconds(5));
            }
        }

        /** By what the group has committed, as a worker does not know what became of its commit when the answer was lost. */
        private boolean isAllCopied(KafkaConsumer<String, String> consumer) {
            Set<TopicPartition> all = new HashSet<>();
            for (int index = 0; index < PARTITIONS; index++) {
                all.add(new TopicPartition(from(), index));
            }
            var committed = consumer.committed(all).values().stream();
            return committed.mapToLong(position -> position == null ? 0 : position.offset()).sum() == RECORDS;
        }

        private KafkaProducer<String, String> initialised() {
            KafkaProducer<String, String> producer = producer(bootstrap, id);
            producer.initTransactions();
            return producer;
        }

        private void copy(KafkaProducer<String, String> producer, KafkaConsumer<String, String> consumer, ConsumerRecords<String, String> records) {
            producer.beginTransaction();
            Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
            for (ConsumerRecord<String, String> record : records) {
                producer.send(new ProducerRecord<>(to(), record.partition(), null, record.value()));
                offsets.put(new TopicPartition(from(), record.partition()), new OffsetAndMetadata(record.offset() + 1));
            }
            producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
            producer.commitTransaction();
        }

        /** Aborts, or begins with a new producer where that is not to be had any more. */
        private KafkaProducer<String, String> recovered(KafkaProducer<String, String> producer, KafkaException why) {
            System.out.println(id + " begins again: " + why);
            try {
                producer.abortTransaction();
                return producer;
            } catch (KafkaException e) {
                producer.close(Duration.ofSeconds(5));
                return initialised();
            }
        }

        /** To what is committed: what was polled last has not been copied. */
        private static void rewind(KafkaConsumer<String, String> consumer) {
            Set<TopicPartition> assigned = consumer.assignment();
            Map<TopicPartition, OffsetAndMetadata> committed = consumer.committed(assigned);
            for (TopicPartition partition : assigned) {
                OffsetAndMetadata position = committed.get(partition);
                if (position == null) {
                    consumer.seekToBeginning(List.of(partition));
                } else {
                    consumer.seek(partition, position);
                }
            }
        }
    }
}
