package interop;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.CompletableFuture;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.flume.node.Application;
import org.apache.flume.node.MaterializedConfiguration;
import org.apache.flume.node.PropertiesFileConfigurationProvider;

/**
 * Flume's agent of orders.conf, in this process: a Kafka sink writes the lines of files as orders, a Kafka source reads
 * them into a Kafka channel, and another Kafka sink writes from there the receipts.
 */
public final class Main {
    private static final int FILES_PER_SECOND = 10;

    public static void main(String[] args) {
        Example.main("flume", args, Main::run);
    }

    private static void run(Example example) throws Exception {
        Path spool = example.directory("spool");
        System.setProperty("example.spool", spool.toString());
        System.setProperty("example.checkpoint", example.directory("checkpoint").toString());
        System.setProperty("example.data", example.directory("data").toString());
        System.setProperty("example.bootstrap", example.bootstrap);
        System.setProperty("example.orders", example.orders);
        System.setProperty("example.receipts", example.receipts);
        System.setProperty("example.group", example.group);
        System.setProperty("example.channel", example.createTopic(example.group + "-channel"));

        Path file = Path.of(Main.class.getResource("/orders.conf").toURI());
        MaterializedConfiguration configuration =
            new PropertiesFileConfigurationProvider("agent", file.toFile()).getConfiguration();
        // Flume leaves out what it cannot configure and only logs why.
        if (configuration.getSourceRunners().size() != 2 || configuration.getChannels().size() != 2
                || configuration.getSinkRunners().size() != 2) {
            throw new IllegalStateException("Flume does not take orders.conf");
        }
        Application agent = new Application();
        agent.handleConfigurationEvent(configuration);
        agent.start();
        try {
            CompletableFuture<Void> customers = CompletableFuture.runAsync(() -> place(example, spool));
            example.followReceipts(() -> {
                if (customers.isCompletedExceptionally()) {
                    customers.get();
                }
            });
            example.awaitCommits();
        } finally {
            agent.stop();
        }
    }

    /** A file appears in the spool complete, under a name of its own. */
    private static void place(Example example, Path spool) {
        try {
            Path drafts = example.directory("drafts");
            int files = Math.max(2, example.seconds * FILES_PER_SECOND);
            for (int file = 0; file < files; file++) {
                if (file == files / 2) {
                    example.awaitStarted();
                }
                int from = (int) ((long) example.records * file / files);
                int to = (int) ((long) example.records * (file + 1) / files);
                String lines = IntStream.range(from, to).mapToObj(Example::order)
                    .map(order -> Example.customer(order) + " " + order + "\n").collect(Collectors.joining());
                String name = String.format("%06d", file);
                Files.writeString(drafts.resolve(name), lines);
                Files.move(drafts.resolve(name), spool.resolve(name));
                Thread.sleep(example.seconds == 0 ? 0 : 1_000 / FILES_PER_SECOND);
            }
        } catch (Exception e) {
            throw new IllegalStateException("cannot place orders", e);
        }
    }
}
