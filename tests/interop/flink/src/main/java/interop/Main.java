package interop;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.serialization.SerializationSchema;
import org.apache.flink.api.common.serialization.SimpleStringSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.source.util.ratelimit.RateLimiterStrategy;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.RestartStrategyOptions;
import org.apache.flink.connector.base.DeliveryGuarantee;
import org.apache.flink.connector.datagen.source.DataGeneratorSource;
import org.apache.flink.connector.datagen.source.GeneratorFunction;
import org.apache.flink.connector.kafka.sink.KafkaRecordSerializationSchema;
import org.apache.flink.connector.kafka.sink.KafkaSink;
import org.apache.flink.connector.kafka.source.KafkaSource;
import org.apache.flink.connector.kafka.source.KafkaSourceBuilder;
import org.apache.flink.connector.kafka.source.enumerator.initializer.OffsetsInitializer;
import org.apache.flink.connector.kafka.source.reader.deserializer.KafkaRecordDeserializationSchema;
import org.apache.flink.core.execution.CheckpointingMode;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.util.CloseableIterator;
import org.apache.flink.util.Collector;
import org.apache.kafka.clients.consumer.ConsumerRecord;

/**
 * A Flink job in a local environment: one pipeline writes orders by a {@link KafkaSink}, another one reads them by a
 * {@link KafkaSource} and writes receipts. When all receipts are there, a bounded job reads them once more.
 */
public final class Main {
    private static final int PARALLELISM = 2;
    private static final Duration CHECKPOINT_INTERVAL = Duration.ofMillis(500);

    public static void main(String[] args) {
        Example.main("flink", args, Main::run);
    }

    private static void run(Example example) throws Exception {
        JobClient job = trade(example);
        example.followReceipts(() -> {
            if (job.getJobStatus().get().isGloballyTerminalState()) {
                // Throws why it failed. It cannot end otherwise, as the source of orders has no end.
                job.getJobExecutionResult().get();
            }
        });
        example.awaitCommits();
        job.cancel().get();
        readBack(example);
    }

    private static JobClient trade(Example example) throws Exception {
        Configuration configuration = new Configuration();
        configuration.set(RestartStrategyOptions.RESTART_STRATEGY, "fixed-delay");
        configuration.set(RestartStrategyOptions.RESTART_STRATEGY_FIXED_DELAY_ATTEMPTS, 10);
        configuration.set(RestartStrategyOptions.RESTART_STRATEGY_FIXED_DELAY_DELAY, Duration.ofSeconds(1));
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.createLocalEnvironment(PARALLELISM, configuration);
        environment.enableCheckpointing(CHECKPOINT_INTERVAL.toMillis(), CheckpointingMode.AT_LEAST_ONCE);

        GeneratorFunction<Long, String> order = Example::order;
        double rate = example.seconds == 0 ? Double.MAX_VALUE : (double) example.records / example.seconds;
        DataGeneratorSource<String> generator =
            new DataGeneratorSource<>(order, example.records, RateLimiterStrategy.perSecond(rate), Types.STRING);
        environment.fromSource(generator, WatermarkStrategy.noWatermarks(), "customers")
            .sinkTo(sink(example, example.orders));

        environment.fromSource(source(example, example.orders).build(), WatermarkStrategy.noWatermarks(), "orders")
            .map(record -> Example.receipt(record.f1))
            .returns(Types.STRING)
            .sinkTo(sink(example, example.receipts));
        return environment.executeAsync("orders and receipts");
    }

    private static void readBack(Example example) throws Exception {
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.createLocalEnvironment(PARALLELISM);
        KafkaSource<Tuple2<String, String>> receipts =
            source(example, example.receipts).setBounded(OffsetsInitializer.latest()).build();
        Example.Ledger ledger = example.new Ledger();
        try (CloseableIterator<Tuple2<String, String>> records =
                environment.fromSource(receipts, WatermarkStrategy.noWatermarks(), "receipts").executeAndCollect()) {
            records.forEachRemaining(record -> ledger.add(record.f0, record.f1));
        }
        ledger.requireComplete("a bounded KafkaSource");
    }

    /**
     * A job that is restarted goes on where its last checkpoint says. The offsets that the source then commits to its
     * group are for people and tools that watch the lag.
     */
    private static KafkaSourceBuilder<Tuple2<String, String>> source(Example example, String topic) {
        return KafkaSource.<Tuple2<String, String>>builder()
            .setBootstrapServers(example.bootstrap)
            .setTopics(topic)
            .setGroupId(topic.equals(example.orders) ? example.group : example.group + "-auditors")
            .setStartingOffsets(OffsetsInitializer.earliest())
            .setDeserializer(new KeyAndValue());
    }

    /** A checkpoint is complete only when all that was sent before it is acknowledged by every in-sync replica. */
    private static KafkaSink<String> sink(Example example, String topic) {
        SerializationSchema<String> customer = text -> Example.customer(text).getBytes(StandardCharsets.UTF_8);
        return KafkaSink.<String>builder()
            .setBootstrapServers(example.bootstrap)
            .setRecordSerializer(KafkaRecordSerializationSchema.<String>builder()
                .setTopic(topic)
                .setKeySerializationSchema(customer)
                .setValueSerializationSchema(new SimpleStringSchema())
                .build())
            .setDeliveryGuarantee(DeliveryGuarantee.AT_LEAST_ONCE)
            .setProperty("acks", "all")
            .build();
    }

    private static final class KeyAndValue implements KafkaRecordDeserializationSchema<Tuple2<String, String>> {
        private static final long serialVersionUID = 1;

        @Override
        public void deserialize(ConsumerRecord<byte[], byte[]> record, Collector<Tuple2<String, String>> out) {
            out.collect(Tuple2.of(text(record.key()), text(record.value())));
        }

        private static String text(byte[] bytes) {
            return new String(bytes, StandardCharsets.UTF_8);
        }

        @Override
        public TypeInformation<Tuple2<String, String>> getProducedType() {
            return Types.TUPLE(Types.STRING, Types.STRING);
        }
    }
}
