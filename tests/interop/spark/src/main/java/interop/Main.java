package interop;

import static org.apache.spark.sql.functions.col;

import org.apache.spark.sql.Dataset;
import org.apache.spark.sql.Row;
import org.apache.spark.sql.SparkSession;
import org.apache.spark.sql.streaming.StreamingQuery;

/**
 * Spark in local mode: one streaming query writes orders to Kafka, another one reads them from there and writes
 * receipts. When all receipts are there, a batch query reads them once more.
 */
public final class Main {
    public static void main(String[] args) {
        Example.main("spark", args, Main::run);
    }

    private static void run(Example example) throws Exception {
        // Two threads; a task may fail three times before its query does.
        SparkSession spark = SparkSession.builder()
            .appName("orders and receipts")
            .master("local[2,4]")
            .config("spark.ui.enabled", false)
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.bindAddress", "127.0.0.1")
            .getOrCreate();
        try {
            StreamingQuery customers = write(example, orders(spark, example), example.orders);
            StreamingQuery clerk = write(example, receipts(spark, example), example.receipts);
            example.followReceipts(() -> {
                for (StreamingQuery query : new StreamingQuery[] {customers, clerk}) {
                    if (query.exception().isDefined()) {
                        throw query.exception().get();
                    }
                }
            });
            customers.stop();
            clerk.stop();
            readBack(spark, example);
        } finally {
            spark.stop();
        }
    }

    /** Numbers at an even rate, turned into orders. */
    private static Dataset<Row> orders(SparkSession spark, Example example) {
        long rate = example.seconds == 0 ? example.records : Math.max(1, example.records / example.seconds);
        return spark.readStream().format("rate").option("rowsPerSecond", rate).option("numPartitions", 2).load()
            .filter(col("value").lt(example.records))
            .selectExpr("concat('customer-', value % 97) AS key", "concat('order-', value) AS value");
    }

    private static Dataset<Row> receipts(SparkSession spark, Example example) {
        return spark.readStream().format("kafka")
            .option("kafka.bootstrap.servers", example.bootstrap)
            .option("subscribe", example.orders)
            .option("startingOffsets", "earliest")
            .load()
            .selectExpr("key", "concat('receipt for ', CAST(value AS STRING)) AS value");
    }

    /** The checkpoint says where to go on. A batch that was not finished is written again: at least once. */
    private static StreamingQuery write(Example example, Dataset<Row> rows, String topic) throws Exception {
        return rows.writeStream().format("kafka")
            .option("kafka.bootstrap.servers", example.bootstrap)
            .option("kafka.acks", "all")
            .option("topic", topic)
            .option("checkpointLocation", example.directory(topic).toString())
            .start();
    }

    private static void readBack(SparkSession spark, Example example) {
        Example.Ledger ledger = example.new Ledger();
        spark.read().format("kafka")
            .option("kafka.bootstrap.servers", example.bootstrap)
            .option("subscribe", example.receipts)
            .option("startingOffsets", "earliest")
            .option("endingOffsets", "latest")
            .load()
            .selectExpr("CAST(key AS STRING)", "CAST(value AS STRING)")
            .toLocalIterator()
            .forEachRemaining(row -> ledger.add(row.getString(0), row.getString(1)));
        ledger.requireComplete("a batch query");
    }
}
