package interop;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.RichMapFunction;
import org.apache.flink.api.common.serialization.SimpleStringSchema;
import org.apache.flink.api.common.state.CheckpointListener;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.source.util.ratelimit.RateLimiterStrategy;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.RestartStrategyOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.datagen.source.DataGeneratorSource;
import org.apache.flink.connector.datagen.source.GeneratorFunction;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * A Flink job whose {@link KafkaSink} is exactly-once: it writes in transactions that it commits when a checkpoint is complete.
 * After a checkpoint, with records behind it, the job fails once and starts again from there; later a broker is killed, too. Who
 * reads what is committed finds each record once.
 *
 * <p>It prints {@code BROKER kill ID} and {@code BROKER start ID} for whoever runs it to do so, and OK.
 */
public final class ExactlyOnce {
    private static final int RECORDS = 6_000;
    private static final int EACH_SECOND = 500;
    private static final int PARALLELISM = 2;
    private static final int PARTITIONS = 3;
    private static final String TOPIC = "flink-exactly-once";
    private static final Duration CHECKPOINT_INTERVAL = Duration.ofMillis(500);
    private static final Duration LIMIT = Duration.ofSeconds(120);

    public static void main(String[] args) {
        int code = 0;
        try {
            run(args[0]);
            System.out.println("OK");
        } catch (Throwable e) {
            e.printStackTrace();
            code = 1;
        }
        System.exit(code);
    }

    private static void run(String bootstrap) throws Exception {
        Flaky.bootstrap = bootstrap;
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic(TOPIC, PARTITIONS, (short) 3))).all().get();
        }
        job(bootstrap).execute("exactly once");
        check(Flaky.FAILED.get(), "the job has not failed");
        List<String> committed = read(bootstrap, "read_committed");
        int written = read(bootstrap, "read_uncommitted").size();
        System.out.println(committed.size() + " records are committed, of " + written + " that were written");
        Set<String> distinct = new HashSet<>(committed);
        check(committed.size() == RECORDS && distinct.size() == RECORDS,
            committed.size() + " records are committed, " + distinct.size() + " of them different ones, of " + RECORDS);
        check(written > RECORDS, "the failure has taken nothing back");
    }

    private static StreamExecutionEnvironment job(String bootstrap) {
        Configuration configuration = new Configuration();
        configuration.set(RestartStrategyOptions.RESTART_STRATEGY, "fixed-delay");
        configuration.set(RestartStrategyOptions.RESTART_STRATEGY_FIXED_DELAY_ATTEMPTS, 10);
        configuration.set(RestartStrategyOptions.RESTART_STRATEGY_FIXED_DELAY_DELAY, Duration.ofMillis(200));
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.createLocalEnvironment(PARALLELISM, configuration);
        environment.enableCheckpointing(CHECKPOINT_INTERVAL.toMillis(), CheckpointingMode.EXACTLY_ONCE);
        GeneratorFunction<Long, String> record = number -> "record-" + number;
        DataGeneratorSource<String> records =
            new DataGeneratorSource<>(record, RECORDS, RateLimiterStrategy.perSecond(EACH_SECOND), Types.STRING);
        KafkaSink<String> sink = KafkaSink.<String>builder()
            .setBootstrapServers(bootstrap)
            .setRecordSerializer(KafkaRecordSerializationSchema.<String>builder()
                .setTopic(TOPIC)
                .setValueSerializationSchema(new SimpleStringSchema())
                .build())
            .setDeliveryGuarantee(DeliveryGuarantee.EXACTLY_ONCE)
            .setTransactionalIdPrefix("flink-exactly-once")
            // Longer than a job may be away, and no longer than brokers allow (transaction.max.timeout.ms).
            .setProperty("transaction.timeout.ms", String.valueOf(LIMIT.toMillis()))
            .build();
        environment.fromSource(records, WatermarkStrategy.noWatermarks(), "records").map(new Flaky()).returns(Types.STRING).sinkTo(sink);
        return environment;
    }

    /** Passes records on, and fails once, some time after a checkpoint. What it counts is the virtual machine's. */
    private static final class Flaky extends RichMapFunction<String, String> implements CheckpointListener {
        private static final long serialVersionUID = 1;
        private static final AtomicBoolean FAILED = new AtomicBoolean();
        private static final AtomicBoolean KILLED = new AtomicBoolean();
        private static final AtomicInteger PASSED = new AtomicInteger();
        /** Since the last checkpoint, in this task. */
        private static final int PASSED_SINCE = EACH_SECOND / PARALLELISM / 10;
        private static volatile String bootstrap;
        private boolean checkpointed;
        private int since;

        @Override
        public String map(String record) throws Exception {
            int passed = PASSED.incrementAndGet();
            since++;
            if (checkpointed && passed > RECORDS / 4 && since > PASSED_SINCE && FAILED.compareAndSet(false, true)) {
                System.out.println("the job fails after " + passed + " records");
                throw new IllegalStateException("as it is meant to");
            }
            if (passed > RECORDS / 2 && FAILED.get() && KILLED.compareAndSet(false, true)) {
                new Thread(Flaky::killSome).start();
            }
            return record;
        }

        @Override
        public void notifyCheckpointComplete(long id) {
            checkpointed = true;
            since = 0;
        }

        /** The coordinator of as many transactions as any. */
        private static void killSome() {
            try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
                var byBroker = admin.listTransactions().allByBrokerId().get();
                int broker = byBroker.entrySet().stream().max((a, b) -> a.getValue().size() - b.getValue().size()).orElseThrow().getKey();
                System.out.println("BROKER kill " + broker);
                Thread.sleep(2_000);
                System.out.println("BROKER start " + broker);
            } catch (Exception e) {
                e.printStackTrace();
                System.exit(1);
            }
        }
    }

    private static List<String> read(String bootstrap, String isolation) {
        List<String> found = new ArrayList<>();
        Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "isolation.level", isolation);
        var strings = new StringDeserializer();
        try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings, strings, strings)) {
            Collection<TopicPartition> all = IntStream.range(0, PARTITIONS).mapToObj(n -> new TopicPartition(TOPIC, n)).toList();
            consumer.assign(all);
            consumer.seekToBeginning(all);
            Map<TopicPartition, Long> ends = consumer.endOffsets(all);
            long deadline = System.nanoTime() + LIMIT.toNanos();
            while (all.stream().anyMatch(partition -> consumer.position(partition) < ends.get(partition))) {
                check(System.nanoTime() < deadline, "only " + found.size() + " records are read");
                consumer.poll(Duration.ofMillis(200)).forEach(record -> found.add(record.value()));
            }
        }
        return found;
    }

    private static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }
}
