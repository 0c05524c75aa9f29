package interop;

import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.kafka.core.KafkaTemplate;

/**
 * A Spring Boot application: a {@link KafkaTemplate} sends orders, one {@link KafkaListener} answers each with a
 * receipt, another one reads the receipts. The settings are in application.properties.
 */
@SpringBootApplication
public class Application {
    private static final int BURSTS_PER_SECOND = 20;

    private final KafkaTemplate<String, String> template;
    private final Example example;
    private final AtomicReference<Exception> failure = new AtomicReference<>();

    Application(KafkaTemplate<String, String> template, Example example) {
        this.template = template;
        this.example = example;
    }

    public static void main(String[] args) {
        Example.main("spring", args, example -> {
            SpringApplication application = new SpringApplication(Application.class);
            application.addInitializers(context -> context.getBeanFactory().registerSingleton("example", example));
            try (ConfigurableApplicationContext context = application.run(
                    "--spring.kafka.bootstrap-servers=" + example.bootstrap,
                    "--example.orders=" + example.orders,
                    "--example.receipts=" + example.receipts,
                    "--example.group=" + example.group)) {
                context.getBean(Application.class).trade();
            }
        });
    }

    private void trade() throws Exception {
        int bursts = Math.max(2, example.seconds * BURSTS_PER_SECOND);
        for (int burst = 0; burst < bursts; burst++) {
            if (burst == bursts / 2) {
                example.awaitStarted();
            }
            int from = (int) ((long) example.records * burst / bursts);
            int to = (int) ((long) example.records * (burst + 1) / bursts);
            all(IntStream.range(from, to).mapToObj(Example::order)
                .map(order -> template.send(example.orders, Example.customer(order), order)));
            Thread.sleep(example.seconds == 0 ? 0 : 1_000 / BURSTS_PER_SECOND);
        }
        example.say("KafkaTemplate has sent " + example.records + " orders");
        while (!example.ledger.isComplete()) {
            if (failure.get() != null) {
                throw failure.get();
            }
            example.checkTime("receipts");
            Thread.sleep(20);
        }
        example.ledger.requireComplete("KafkaListener");
        example.awaitCommits();
    }

    /**
     * Returns, and so lets the container commit, only when all receipts are acknowledged: an order whose receipt was not
     * comes again. That is at least once.
     */
    @KafkaListener(topics = "${example.orders}", groupId = "${example.group}", concurrency = "3")
    void answer(List<ConsumerRecord<String, String>> orders) {
        all(orders.stream().map(order -> template.send(example.receipts, order.key(), Example.receipt(order.value()))));
    }

    @KafkaListener(topics = "${example.receipts}", groupId = "${example.group}-auditors")
    void audit(List<ConsumerRecord<String, String>> receipts) {
        try {
            receipts.forEach(receipt -> example.ledger.add(receipt.key(), receipt.value()));
        } catch (IllegalStateException e) {
            failure.set(e);
        }
        example.sayStarted();
    }

    private static void all(Stream<? extends CompletableFuture<?>> sent) {
        CompletableFuture.allOf(sent.toArray(CompletableFuture[]::new)).join();
    }
}
