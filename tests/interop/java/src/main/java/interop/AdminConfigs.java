package interop;

import static interop.Admins.is;
import static interop.Admins.until;
import static interop.Main.check;
import static interop.Main.fails;

import java.util.Arrays;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.AlterConfigOp.OpType;
import org.apache.kafka.clients.admin.AlterConfigsOptions;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.DescribeConfigsOptions;
import org.apache.kafka.clients.admin.ListConfigResourcesOptions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.config.ConfigResource.Type;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidRequestException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/** Configs of every kind of resource: described, changed in every way, listed. */
final class AdminConfigs {
    private static final ConfigResource TOPIC = new ConfigResource(Type.TOPIC, "configured");
    private static final ConfigResource BROKER = new ConfigResource(Type.BROKER, "2");
    private static final ConfigResource ALL_BROKERS = new ConfigResource(Type.BROKER, "");
    private static final ConfigResource LOGGERS = new ConfigResource(Type.BROKER_LOGGER, "2");
    private static final ConfigResource GROUP = new ConfigResource(Type.GROUP, "configured-group");
    private static final ConfigResource METRICS = new ConfigResource(Type.CLIENT_METRICS, "configured-metrics");

    static void run(Admin admin) throws Exception {
        admin.createTopics(List.of(new NewTopic(TOPIC.name(), 1, (short) 1))).all().get();
        topic(admin);
        brokers(admin);
        loggers(admin);
        groupsAndMetrics(admin);
        refusals(admin);
        admin.deleteTopics(List.of(TOPIC.name())).all().get();
    }

    private static Config describe(Admin admin, ConfigResource resource) throws Exception {
        return admin.describeConfigs(List.of(resource)).all().get().get(resource);
    }

    private static String value(Admin admin, ConfigResource resource, String name) throws Exception {
        ConfigEntry entry = describe(admin, resource).get(name);
        return entry == null ? null : entry.value();
    }

    private static AlterConfigOp op(OpType type, String name, String value) {
        return new AlterConfigOp(new ConfigEntry(name, value), type);
    }

    private static void alter(Admin admin, ConfigResource resource, AlterConfigOp... ops) throws Exception {
        admin.incrementalAlterConfigs(Map.of(resource, Arrays.asList(ops))).all().get();
    }

    private static void topic(Admin admin) throws Exception {
        var options = new DescribeConfigsOptions().includeSynonyms(true).includeDocumentation(true);
        ConfigEntry entry = admin.describeConfigs(List.of(TOPIC), options).all().get().get(TOPIC).get("retention.ms");
        is("a default", entry.source(), ConfigEntry.ConfigSource.DEFAULT_CONFIG);
        is("its type", entry.type(), ConfigEntry.ConfigType.LONG);
        check(entry.isDefault() && !entry.isReadOnly() && !entry.isSensitive(), "what is said of it: " + entry);
        check(entry.documentation() != null && !entry.documentation().isEmpty(), "documented: " + entry);
        ConfigEntry segment = admin.describeConfigs(List.of(TOPIC), options).all().get().get(TOPIC).get("segment.bytes");
        is("what it is taken from", segment.synonyms().stream().map(ConfigEntry.ConfigSynonym::name).toList(), List.of("log.segment.bytes"));

        admin.incrementalAlterConfigs(Map.of(TOPIC, List.of(op(OpType.SET, "retention.ms", "1000000"))), new AlterConfigsOptions().validateOnly(true)).all().get();
        is("a check changes nothing", value(admin, TOPIC, "retention.ms"), "604800000");
        alter(admin, TOPIC, op(OpType.SET, "retention.ms", "1000000"), op(OpType.SET, "cleanup.policy", "compact"));
        until("it is set", () -> "1000000".equals(value(admin, TOPIC, "retention.ms")));
        is("of the topic", describe(admin, TOPIC).get("retention.ms").source(), ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG);
        alter(admin, TOPIC, op(OpType.APPEND, "cleanup.policy", "delete"));
        until("one is appended", () -> Set.of("compact", "delete").equals(Set.of(value(admin, TOPIC, "cleanup.policy").split(","))));
        alter(admin, TOPIC, op(OpType.SUBTRACT, "cleanup.policy", "compact"), op(OpType.DELETE, "retention.ms", ""));
        until("one is taken away", () -> "delete".equals(value(admin, TOPIC, "cleanup.policy")));
        until("and the default is back", () -> "604800000".equals(value(admin, TOPIC, "retention.ms")));
    }

    private static void brokers(Admin admin) throws Exception {
        String name = "log.cleaner.threads";
        alter(admin, ALL_BROKERS, op(OpType.SET, name, "2"));
        until("of all brokers", () -> "2".equals(value(admin, BROKER, name)));
        is("its source", describe(admin, BROKER).get(name).source(), ConfigEntry.ConfigSource.DYNAMIC_DEFAULT_BROKER_CONFIG);
        alter(admin, BROKER, op(OpType.SET, name, "1"));
        until("of one", () -> "1".equals(value(admin, BROKER, name)));
        is("its source", describe(admin, BROKER).get(name).source(), ConfigEntry.ConfigSource.DYNAMIC_BROKER_CONFIG);
        is("of all brokers", value(admin, ALL_BROKERS, name), "2");
        alter(admin, BROKER, op(OpType.DELETE, name, ""));
        until("not of the one any more", () -> "2".equals(value(admin, BROKER, name)));
        alter(admin, ALL_BROKERS, op(OpType.DELETE, name, ""));
        until("nor of all", () -> "1".equals(value(admin, BROKER, name)));
        ConfigEntry readOnly = describe(admin, BROKER).get("node.id");
        check(readOnly.isReadOnly() && readOnly.value().equals("2"), "from its file: " + readOnly);
        is("its source", readOnly.source(), ConfigEntry.ConfigSource.STATIC_BROKER_CONFIG);
    }

    private static void loggers(Admin admin) throws Exception {
        Config before = describe(admin, LOGGERS);
        check(before.entries().size() > 1, "loggers: " + before);
        String logger = before.entries().stream().map(ConfigEntry::name).filter(name -> !name.equals("root")).sorted().findFirst().get();
        alter(admin, LOGGERS, op(OpType.SET, logger, "DEBUG"));
        until("its level", () -> "DEBUG".equals(value(admin, LOGGERS, logger)));
        alter(admin, LOGGERS, op(OpType.SET, logger, before.get(logger).value()));
        until("its level", () -> before.get(logger).value().equals(value(admin, LOGGERS, logger)));
        fails(InvalidConfigurationException.class, "no level", admin.incrementalAlterConfigs(Map.of(LOGGERS, List.of(op(OpType.SET, logger, "LOUD")))).all());
    }

    private static void groupsAndMetrics(Admin admin) throws Exception {
        alter(admin, GROUP, op(OpType.SET, "consumer.session.timeout.ms", "50000"));
        until("of a group", () -> "50000".equals(value(admin, GROUP, "consumer.session.timeout.ms")));
        alter(admin, METRICS, op(OpType.SET, "interval.ms", "1000"), op(OpType.SET, "metrics", "org.apache.kafka.producer."));
        until("of client metrics", () -> "1000".equals(value(admin, METRICS, "interval.ms")));
        Set<ConfigResource> listed = listed(admin, Set.of());
        check(listed.containsAll(Set.of(TOPIC, BROKER, GROUP, METRICS)), "all: " + listed);
        is("of one type", listed(admin, Set.of(Type.CLIENT_METRICS)), Set.of(METRICS));
        is("of one type", listed(admin, Set.of(Type.GROUP)), Set.of(GROUP));
        is("each broker", listed(admin, Set.of(Type.BROKER)).stream().map(ConfigResource::name).filter(name -> !name.isEmpty()).collect(Collectors.toSet()), Set.of("1", "2", "3"));
        alter(admin, GROUP, op(OpType.DELETE, "consumer.session.timeout.ms", ""));
        alter(admin, METRICS, op(OpType.DELETE, "interval.ms", ""), op(OpType.DELETE, "metrics", ""));
        until("none is left", () -> listed(admin, Set.of(Type.GROUP, Type.CLIENT_METRICS)).isEmpty());
    }

    private static Set<ConfigResource> listed(Admin admin, Set<Type> types) throws Exception {
        Collection<ConfigResource> all = admin.listConfigResources(types, new ListConfigResourcesOptions()).all().get();
        return Set.copyOf(all);
    }

    private static void refusals(Admin admin) throws Exception {
        record Case(Class<? extends Throwable> expected, ConfigResource resource, AlterConfigOp op) {}
        ConfigResource none = new ConfigResource(Type.TOPIC, "none");
        List<Case> table = List.of(
            new Case(InvalidConfigurationException.class, TOPIC, op(OpType.SET, "retention.ms", "soon")),
            new Case(InvalidConfigurationException.class, TOPIC, op(OpType.SET, "no.such.config", "1")),
            new Case(InvalidConfigurationException.class, TOPIC, op(OpType.APPEND, "retention.ms", "1")),
            new Case(UnknownTopicOrPartitionException.class, none, op(OpType.SET, "retention.ms", "1")),
            new Case(InvalidRequestException.class, BROKER, op(OpType.SET, "node.id", "7")),
            new Case(InvalidConfigurationException.class, GROUP, op(OpType.SET, "consumer.session.timeout.ms", "1")),
            new Case(InvalidRequestException.class, METRICS, op(OpType.SET, "interval.ms", "1")));
        for (Case each : table) {
            fails(each.expected(), each.toString(), admin.incrementalAlterConfigs(Map.of(each.resource(), List.of(each.op()))).all());
        }
        fails(UnknownTopicOrPartitionException.class, "of no topic", admin.describeConfigs(List.of(none)).all());
    }

    private AdminConfigs() {}
}
