package interop;

import static interop.Main.check;
import static interop.Main.refused;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.admin.AbortTransactionSpec;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.ListTransactionsOptions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.TransactionDescription;
import org.apache.kafka.clients.admin.TransactionListing;
import org.apache.kafka.clients.admin.TransactionState;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Transactions, as applications, frameworks and administrators use them; three brokers. */
final class Transactions {
    static final long LIMIT_MS = 60_000;

    static void run(String bootstrap) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            commitAndAbort(bootstrap, admin);
            fencing(bootstrap, admin);
            offsets(bootstrap, admin);
            administrators(bootstrap, admin);
        }
        System.out.println("OK");
    }

    static KafkaProducer<String, String> producer(String bootstrap, String id) {
        return producer(bootstrap, id, 60_000);
    }

    private static KafkaProducer<String, String> producer(String bootstrap, String id, int timeoutMs) {
        return Main.producer(bootstrap, Map.of("transactional.id", id, "transaction.timeout.ms", timeoutMs));
    }

    static KafkaConsumer<String, String> consumer(String bootstrap, String isolation, Map<String, Object> more) {
        Map<String, Object> settings = new HashMap<>(more);
        settings.put("bootstrap.servers", bootstrap);
        settings.put("isolation.level", isolation);
        settings.put("enable.auto.commit", false);
        settings.putIfAbsent("auto.offset.reset", "earliest");
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    static void await(String what, BooleanSupplier condition) throws InterruptedException {
        long deadline = System.currentTimeMillis() + LIMIT_MS;
        while (!condition.getAsBoolean()) {
            check(System.currentTimeMillis() < deadline, what + " does not come to be");
            Thread.sleep(20);
        }
    }

    static void create(Admin admin, String topic, int partitions) throws Exception {
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 3))).all().get();
    }

    /** All values of a topic, in the order of their partitions. */
    static List<String> read(String bootstrap, String topic, int partitions, String isolation) {
        List<String> values = new ArrayList<>();
        try (KafkaConsumer<String, String> consumer = consumer(bootstrap, isolation, Map.of())) {
            for (int index = 0; index < partitions; index++) {
                TopicPartition partition = new TopicPartition(topic, index);
                consumer.assign(List.of(partition));
                consumer.seekToBeginning(List.of(partition));
                long end = consumer.endOffsets(List.of(partition)).get(partition);
                long deadline = System.currentTimeMillis() + LIMIT_MS;
                while (consumer.position(partition) < end) {
                    check(System.currentTimeMillis() < deadline, topic + " is not read to its end " + end);
                    consumer.poll(Duration.ofMillis(200)).forEach(record -> values.add(record.value()));
                }
            }
        }
        return values;
    }

    private static void commitAndAbort(String bootstrap, Admin admin) throws Exception {
        create(admin, "ledger", 2);
        TopicPartition first = new TopicPartition("ledger", 0);
        List<String> committed = new ArrayList<>();
        try (KafkaProducer<String, String> producer = producer(bootstrap, "bank")) {
            producer.initTransactions();
            for (int n = 0; n < 60; n++) {
                boolean commits = n % 3 != 2;
                producer.beginTransaction();
                for (int index = 0; index < 2; index++) {
                    producer.send(new ProducerRecord<>("ledger", index, null, n + (commits ? " kept" : " dropped")));
                }
                if (commits) {
                    producer.commitTransaction();
                    committed.add(n + " kept");
                } else {
                    producer.flush();
                    producer.abortTransaction();
                }
            }
            // One that is open holds back those who read what is committed.
            producer.beginTransaction();
            long open = producer.send(new ProducerRecord<>("ledger", 0, null, "open")).get().offset();
            long stable = admin.listOffsets(Map.of(first, OffsetSpec.latest()), new ListOffsetsOptions(IsolationLevel.READ_COMMITTED))
                .partitionResult(first).get().offset();
            check(stable == open, "the stable end is " + stable + ", and a transaction is open from " + open);
            List<String> both = new ArrayList<>(committed);
            both.addAll(committed);
            check(read(bootstrap, "ledger", 2, "read_committed").equals(both), "other records are committed");
            check(read(bootstrap, "ledger", 2, "read_uncommitted").size() == 121, "other records are written");
            producer.abortTransaction();
            // An empty transaction, and one that was begun anew after it.
            producer.beginTransaction();
            producer.commitTransaction();
            producer.beginTransaction();
            producer.abortTransaction();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>("ledger", 0, null, "last"));
            producer.commitTransaction();
        }
        List<String> values = read(bootstrap, "ledger", 1, "read_committed");
        check(values.get(values.size() - 1).equals("last") && values.size() == 41, "other records in the end: " + values);
    }

    private static void fencing(String bootstrap, Admin admin) throws Exception {
        create(admin, "fenced", 1);
        try (KafkaProducer<String, String> older = producer(bootstrap, "one-of-two");
                KafkaProducer<String, String> newer = producer(bootstrap, "one-of-two")) {
            older.initTransactions();
            older.beginTransaction();
            older.send(new ProducerRecord<>("fenced", "of the older")).get();
            newer.initTransactions();
            newer.beginTransaction();
            newer.send(new ProducerRecord<>("fenced", "of the newer")).get();
            refusedAsFenced("the older producer's commit", () -> {
                older.send(new ProducerRecord<>("fenced", "too late"));
                older.commitTransaction();
            });
            newer.commitTransaction();
        }
        check(read(bootstrap, "fenced", 1, "read_committed").equals(List.of("of the newer")), "the older producer is not fenced");
        // By an administrator, and by time.
        try (KafkaProducer<String, String> producer = producer(bootstrap, "fenced-by-admin")) {
            producer.initTransactions();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>("fenced", "fenced")).get();
            admin.fenceProducers(List.of("fenced-by-admin")).all().get();
            refusedAsFenced("a fenced producer's commit", producer::commitTransaction);
        }
        try (KafkaProducer<String, String> producer = producer(bootstrap, "too-slow", 1_000)) {
            producer.initTransactions();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>("fenced", "slow")).get();
            await("the abort of what takes too long", () -> state(admin, "too-slow") == TransactionState.COMPLETE_ABORT);
            refused(KafkaException.class, "the commit of what took too long", producer::commitTransaction);
        }
        check(read(bootstrap, "fenced", 1, "read_committed").equals(List.of("of the newer")), "what was fenced is committed");
    }

    /** Fenced one way or another: by the coordinator, or by a partition. */
    private static void refusedAsFenced(String what, Main.Action action) throws Exception {
        try {
            action.run();
        } catch (ProducerFencedException | InvalidProducerEpochException e) {
            return;
        } catch (KafkaException e) {
            Throwable cause = e.getCause();
            check(cause instanceof ProducerFencedException || cause instanceof InvalidProducerEpochException, what + " is refused with " + e);
            return;
        }
        check(false, what + " is accepted");
    }

    private static TransactionState state(Admin admin, String id) {
        try {
            return describe(admin, id).state();
        } catch (Exception e) {
            throw new RuntimeException(e);
        }
    }

    static TransactionDescription describe(Admin admin, String id) throws Exception {
        return admin.describeTransactions(List.of(id)).description(id).get();
    }

    private static void offsets(String bootstrap, Admin admin) throws Exception {
        create(admin, "source", 1);
        TopicPartition partition = new TopicPartition("source", 0);
        var group = new ConsumerGroupMetadata("with-transactions");
        try (KafkaProducer<String, String> producer = producer(bootstrap, "commits-offsets");
                KafkaConsumer<String, String> consumer = consumer(bootstrap, "read_committed", Map.of("group.id", "with-transactions"))) {
            producer.initTransactions();
            producer.beginTransaction();
            producer.sendOffsetsToTransaction(Map.of(partition, new OffsetAndMetadata(5, "five")), group);
            producer.abortTransaction();
            check(consumer.committed(Set.of(partition)).get(partition) == null, "an aborted offset counts");
            producer.beginTransaction();
            producer.sendOffsetsToTransaction(Map.of(partition, new OffsetAndMetadata(7, "seven")), group);
            // Whoever asks for what is stable has to wait for the end of the transaction.
            producer.commitTransaction();
            OffsetAndMetadata found = consumer.committed(Set.of(partition)).get(partition);
            check(found.offset() == 7 && found.metadata().equals("seven"), "another offset is committed: " + found);
        }
    }

    private static void administrators(String bootstrap, Admin admin) throws Exception {
        create(admin, "administered", 2);
        TopicPartition partition = new TopicPartition("administered", 1);
        try (KafkaProducer<String, String> producer = producer(bootstrap, "watched")) {
            producer.initTransactions();
            producer.beginTransaction();
            producer.send(new ProducerRecord<>("administered", 1, null, "open")).get();
            TransactionDescription description = describe(admin, "watched");
            check(description.state() == TransactionState.ONGOING, "another state: " + description);
            check(description.topicPartitions().equals(Set.of(partition)), "other partitions: " + description);
            check(description.transactionTimeoutMs() == 60_000, "another timeout: " + description);
            check(description.transactionStartTimeMs().isPresent(), "no time: " + description);
            Map<String, TransactionListing> ongoing = list(admin, new ListTransactionsOptions().filterStates(Set.of(TransactionState.ONGOING)));
            check(ongoing.keySet().equals(Set.of("watched")), "others are open: " + ongoing);
            check(ongoing.get("watched").producerId() == description.producerId(), "another producer: " + ongoing);
            check(list(admin, new ListTransactionsOptions().filterProducerIds(Set.of(description.producerId()))).size() == 1, "no filter by producer");
            check(list(admin, new ListTransactionsOptions().filterOnDuration(3_600_000L).filterStates(Set.of(TransactionState.ONGOING))).isEmpty(), "no filter by duration");
            check(list(admin, new ListTransactionsOptions().filterOnTransactionalIdPattern("wat.*")).keySet().equals(Set.of("watched")), "no filter by pattern");
            var producers = admin.describeProducers(List.of(partition)).partitionResult(partition).get().activeProducers();
            var open = producers.stream().filter(state -> state.producerId() == description.producerId()).findFirst().orElseThrow();
            check(open.currentTransactionStartOffset().isPresent(), "no open transaction in the partition: " + producers);
            producer.commitTransaction();
            await("the end of the transaction", () -> state(admin, "watched") == TransactionState.COMPLETE_COMMIT);
            // One of which the coordinator says that it is over, and the partition that it is not, cannot be made with a
            // producer that keeps to the protocol; but a marker from an administrator is one all the same.
            producer.beginTransaction();
            long start = producer.send(new ProducerRecord<>("administered", 1, null, "aborted")).get().offset();
            TransactionDescription again = describe(admin, "watched");
            int coordinator = admin.describeProducers(List.of(partition)).partitionResult(partition).get().activeProducers().stream()
                .filter(state -> state.producerId() == again.producerId()).findFirst().orElseThrow().coordinatorEpoch().orElse(0);
            admin.abortTransaction(new AbortTransactionSpec(partition, again.producerId(), (short) again.producerEpoch(), coordinator)).all().get();
            long stable = admin.listOffsets(Map.of(partition, OffsetSpec.latest()), new ListOffsetsOptions(IsolationLevel.READ_COMMITTED))
                .partitionResult(partition).get().offset();
            check(stable > start, "the aborted transaction still holds the stable end at " + stable);
        }
        check(read(bootstrap, "administered", 2, "read_committed").equals(List.of("open")), "what an administrator aborted is committed");
    }

    private static Map<String, TransactionListing> list(Admin admin, ListTransactionsOptions options) throws Exception {
        Map<String, TransactionListing> byId = new TreeMap<>();
        Collection<TransactionListing> all = admin.listTransactions(options).all().get();
        all.forEach(listing -> byId.put(listing.transactionalId(), listing));
        return byId;
    }
}
