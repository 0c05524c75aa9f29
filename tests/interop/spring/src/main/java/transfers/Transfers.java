package transfers;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.function.BooleanSupplier;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.kafka.core.KafkaOperations;
import org.springframework.kafka.core.KafkaTemplate;
import org.springframework.kafka.transaction.KafkaTransactionManager;
import org.springframework.transaction.support.TransactionTemplate;

/**
 * A Spring Boot application with transactions; three brokers. A transactional {@link KafkaTemplate} places transfers, by
 * {@code executeInTransaction} and under a {@link KafkaTransactionManager}, and takes back every third lot. A listener, whose
 * container begins a transaction for each batch and commits its offsets in it, books what it reads, and fails now and then after
 * it has sent. In the end each transfer that was committed is booked once.
 *
 * <p>It prints {@code BROKER kill ID} and {@code BROKER start ID} for whoever runs it to do so, and OK.
 */
@SpringBootApplication
public class Transfers {
    private static final String PLACED = "transfers-placed";
    private static final String BOOKED = "transfers-booked";
    private static final int PARTITIONS = 4;
    private static final int LOTS = 300;
    private static final int LOT = 10;
    private static final int KEPT = LOTS / 3 * 2 * LOT;
    private static final Duration LIMIT = Duration.ofSeconds(120);
    private static final int FAILS_EACH = 15;

    private final KafkaTemplate<String, String> template;
    private final TransactionTemplate transactions;
    private final AtomicInteger batches = new AtomicInteger();
    private final AtomicInteger booked = new AtomicInteger();
    private final AtomicInteger failed = new AtomicInteger();
    private final AtomicReference<Throwable> failure = new AtomicReference<>();

    Transfers(KafkaTemplate<String, String> template, KafkaTransactionManager<?, ?> manager) {
        this.template = template;
        transactions = new TransactionTemplate(manager);
    }

    public static void main(String[] args) {
        String bootstrap = args[0];
        int code = 0;
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic(PLACED, PARTITIONS, (short) 3), new NewTopic(BOOKED, PARTITIONS, (short) 3))).all().get();
            try (ConfigurableApplicationContext context = new SpringApplication(Transfers.class).run(
                    "--spring.kafka.bootstrap-servers=" + bootstrap,
                    // A transactional producer: Spring Boot makes the manager of its transactions, and gives it to the containers.
                    "--spring.kafka.producer.transaction-id-prefix=transfers-",
                    "--spring.kafka.consumer.isolation-level=read_committed",
                    "--spring.kafka.consumer.max-poll-records=20",
                    "--spring.kafka.listener.concurrency=2")) {
                context.getBean(Transfers.class).run(admin);
            }
            requireBookedOnce(bootstrap);
            System.out.println("OK");
        } catch (Throwable e) {
            e.printStackTrace();
            code = 1;
        }
        System.exit(code);
    }

    private void run(Admin admin) throws Exception {
        Thread placing = new Thread(() -> {
            try {
                IntStream.range(0, LOTS).forEach(this::place);
            } catch (Throwable e) {
                failure.compareAndSet(null, e);
            }
        });
        placing.start();
        await("a third of the bookings", () -> booked.get() > KEPT / 3);
        // Whoever coordinates the most.
        var byBroker = admin.listTransactions().allByBrokerId().get();
        int broker = byBroker.entrySet().stream().max((a, b) -> a.getValue().size() - b.getValue().size()).orElseThrow().getKey();
        System.out.println("BROKER kill " + broker);
        await("two thirds of the bookings", () -> booked.get() > 2 * KEPT / 3);
        System.out.println("BROKER start " + broker);
        placing.join();
        await("all bookings", () -> booked.get() >= KEPT);
        check(failed.get() > 0, "the listener has never failed");
        System.out.println(booked + " transfers booked, " + failed + " batches taken back");
    }

    private void place(int lot) {
        boolean kept = lot % 3 != 2;
        List<String> values = IntStream.range(0, LOT).mapToObj(n -> (kept ? "kept " : "dropped ") + lot + "-" + n).toList();
        try {
            if (lot % 2 == 0) {
                template.executeInTransaction(operations -> send(operations, values, kept));
            } else {
                transactions.executeWithoutResult(status -> send(template, values, kept));
            }
            check(kept, "what was taken back is committed");
        } catch (TakenBack expected) {
            check(!kept, "what was to be kept is taken back");
        }
    }

    private static boolean send(KafkaOperations<String, String> operations, List<String> values, boolean kept) {
        for (int n = 0; n < values.size(); n++) {
            operations.send(PLACED, n % PARTITIONS, null, values.get(n));
        }
        if (!kept) {
            // So that it is in the log, where a reader of uncommitted records would see it.
            operations.flush();
            throw new TakenBack();
        }
        return true;
    }

    private static final class TakenBack extends RuntimeException {
        private static final long serialVersionUID = 1;
    }

    /** In the transaction of the container, to which the template adds what it sends, and the container its offsets. */
    @KafkaListener(topics = PLACED, groupId = "transfers-clerks")
    void book(List<ConsumerRecord<String, String>> placed) {
        for (ConsumerRecord<String, String> record : placed) {
            if (!record.value().startsWith("kept ")) {
                failure.compareAndSet(null, new AssertionError("read: " + record.value()));
            }
            template.send(BOOKED, record.partition(), null, record.value());
        }
        if (batches.incrementAndGet() % FAILS_EACH == 0) {
            template.flush();
            failed.incrementAndGet();
            throw new TakenBack();
        }
        // Told when the records are sent, not when they are committed: near enough to choose a moment.
        booked.addAndGet(placed.size());
    }

    private static void requireBookedOnce(String bootstrap) {
        List<String> found = new ArrayList<>();
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "isolation.level", "read_committed");
        var strings = new StringDeserializer();
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings, strings, strings)) {
            Collection<TopicPartition> all = IntStream.range(0, PARTITIONS).mapToObj(n -> new TopicPartition(BOOKED, n)).toList();
            consumer.assign(all);
            consumer.seekToBeginning(all);
            Map<TopicPartition, Long> ends = consumer.endOffsets(all);
            long deadline = System.nanoTime() + LIMIT.toNanos();
            while (all.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
                check(System.nanoTime() < deadline, "only " + found.size() + " bookings are read");
                consumer.poll(Duration.ofMillis(200)).forEach(record -> found.add(record.value()));
            }
        }
        Set<String> distinct = new HashSet<>(found);
        check(found.size() == KEPT && distinct.size() == KEPT, found.size() + " bookings of " + distinct.size() + " transfers, of " + KEPT);
    }

    private void await(String what, BooleanSupplier condition) throws Exception {
        long deadline = System.nanoTime() + LIMIT.toNanos();
        while (!condition.getAsBoolean()) {
            if (failure.get() != null) {
                throw new AssertionError(failure.get());
            }
            check(System.nanoTime() < deadline, what + " do not come; " + booked + " are there, " + failed + " batches taken back");
            Thread.sleep(20);
        }
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }
}
