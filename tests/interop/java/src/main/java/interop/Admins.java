package interop;

import static interop.Main.check;
import static interop.Main.fails;

import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.CreatePartitionsOptions;
import org.apache.kafka.clients.admin.CreateTopicsOptions;
import org.apache.kafka.clients.admin.CreateTopicsResult;
import org.apache.kafka.clients.admin.DescribeClusterOptions;
import org.apache.kafka.clients.admin.DescribeTopicsOptions;
import org.apache.kafka.clients.admin.FeatureUpdate;
import org.apache.kafka.clients.admin.ListTopicsOptions;
import org.apache.kafka.clients.admin.MemberToRemove;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.QuorumInfo;
import org.apache.kafka.clients.admin.RemoveMembersFromConsumerGroupOptions;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.admin.TopicListing;
import org.apache.kafka.clients.admin.UpdateFeaturesOptions;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicCollection;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidPartitionsException;
import org.apache.kafka.common.errors.InvalidReplicaAssignmentException;
import org.apache.kafka.common.errors.InvalidReplicationFactorException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.InvalidUpdateVersionException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicIdException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/**
 * The administrator's client: every method whose API is served, with its options and with the exceptions that it has for
 * what may go wrong. It wants three brokers with the ids 1, 2 and 3, and asks for their end and return in lines
 * `BROKER kill 2` and `BROKER start 2`.
 */
final class Admins {
    static final long LIMIT_MS = 60_000;

    static void run(String bootstrap) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap, "metadata.max.age.ms", 500))) {
            topics(admin);
            cluster(admin);
            features(admin);
            AdminConfigs.run(admin);
            AdminGroups.run(admin, bootstrap);
            AdminPlacement.run(admin, bootstrap);
        }
        System.out.println("OK");
    }

    static void is(String what, Object found, Object expected) {
        check(expected.equals(found), what + ": " + found + ", not " + expected);
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    /** Asks again until it is so; what a broker says lags a moment behind what a controller has decided. */
    static void until(String what, Condition condition) throws Exception {
        long deadline = System.currentTimeMillis() + LIMIT_MS;
        while (!condition.holds()) {
            check(System.currentTimeMillis() < deadline, what + ": not within " + LIMIT_MS + " ms");
        }
    }

    static TopicDescription describe(Admin admin, String topic) throws Exception {
        return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
    }

    static List<Integer> ids(Collection<Node> nodes) {
        return nodes.stream().map(Node::id).toList();
    }

    static void removeAll(Admin admin, String group) throws Exception {
        admin.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions()).all().get();
    }

    static void remove(Admin admin, String group, String instance) throws Exception {
        var options = new RemoveMembersFromConsumerGroupOptions(Set.of(new MemberToRemove(instance)));
        options.reason("it is not coming back");
        admin.removeMembersFromConsumerGroup(group, options).all().get();
    }

    static int members(Admin admin, String group) throws Exception {
        return admin.describeConsumerGroups(List.of(group)).all().get().get(group).members().size();
    }

    // ---------------------------------------------------------------- topics

    private static void topics(Admin admin) throws Exception {
        CreateTopicsResult made = admin.createTopics(List.of(
            new NewTopic("made", 5, (short) 3).configs(Map.of("retention.ms", "1234567")),
            new NewTopic("made-by-hand", Map.of(0, List.of(3, 1), 1, List.of(1, 2))),
            new NewTopic("made-by-default", Optional.empty(), Optional.empty())));
        made.all().get();
        is("partitions", made.numPartitions("made").get(), 5);
        is("replicas", made.replicationFactor("made").get(), 3);
        is("its configs", made.config("made").get().get("retention.ms").value(), "1234567");
        is("num.partitions", made.numPartitions("made-by-default").get(), 1);
        CreateTopicsOptions onlyAsked = new CreateTopicsOptions().validateOnly(true);
        is("a check", admin.createTopics(List.of(new NewTopic("not-made", 2, (short) 1)), onlyAsked).numPartitions("not-made").get(), 2);
        check(!admin.listTopics().names().get().contains("not-made"), "a check makes nothing");
        refusedTopics(admin);

        TopicDescription described = describe(admin, "made-by-hand");
        is("as assigned", described.partitions().stream().map(TopicPartitionInfo::replicas).map(Admins::ids).toList(), List.of(List.of(3, 1), List.of(1, 2)));
        is("leaders", described.partitions().stream().map(partition -> partition.leader().id()).toList(), List.of(3, 1));
        check(described.authorizedOperations() == null, "not asked for");
        var allowed = new DescribeTopicsOptions().includeAuthorizedOperations(true);
        check(admin.describeTopics(List.of("made"), allowed).allTopicNames().get().get("made").authorizedOperations().contains(AclOperation.ALTER), "asked for");
        // In pages of two partitions, though there are eight, and the next begins in the middle of a topic.
        var pages = new DescribeTopicsOptions().partitionSizeLimitPerResponse(2);
        var paged = admin.describeTopics(List.of("made", "made-by-hand", "made-by-default"), pages).allTopicNames().get();
        is("in pages", paged.get("made").partitions().stream().map(TopicPartitionInfo::partition).toList(), List.of(0, 1, 2, 3, 4));
        is("in pages", paged.get("made-by-hand").partitions().size() + paged.get("made-by-default").partitions().size(), 3);
        check(paged.get("made").partitions().get(0).elr() != null, "with the eligible leader replicas");
        Uuid id = made.topicId("made").get();
        is("by id", admin.describeTopics(TopicCollection.ofTopicIds(List.of(id))).allTopicIds().get().get(id).name(), "made");
        Uuid none = Uuid.randomUuid();
        fails(UnknownTopicIdException.class, "no such id", admin.describeTopics(TopicCollection.ofTopicIds(List.of(none))).allTopicIds());
        fails(UnknownTopicOrPartitionException.class, "no such topic", admin.describeTopics(List.of("none")).allTopicNames());
        fails(InvalidTopicException.class, "no name of a topic", admin.describeTopics(List.of("")).allTopicNames());

        admin.createPartitions(Map.of("made-by-hand", NewPartitions.increaseTo(3, List.of(List.of(2, 3))))).all().get();
        until("the third partition", () -> describe(admin, "made-by-hand").partitions().size() == 3);
        is("as assigned", ids(describe(admin, "made-by-hand").partitions().get(2).replicas()), List.of(2, 3));
        var check = new CreatePartitionsOptions().validateOnly(true);
        admin.createPartitions(Map.of("made-by-hand", NewPartitions.increaseTo(9)), check).all().get();
        is("a check makes nothing", describe(admin, "made-by-hand").partitions().size(), 3);
        fails(InvalidPartitionsException.class, "fewer", admin.createPartitions(Map.of("made-by-hand", NewPartitions.increaseTo(1))).all());
        fails(InvalidPartitionsException.class, "as many", admin.createPartitions(Map.of("made-by-hand", NewPartitions.increaseTo(3))).all());
        fails(InvalidReplicaAssignmentException.class, "on no broker", admin.createPartitions(Map.of("made-by-hand", NewPartitions.increaseTo(4, List.of(List.of(1, 99))))).all());
        fails(UnknownTopicOrPartitionException.class, "of no topic", admin.createPartitions(Map.of("none", NewPartitions.increaseTo(4))).all());

        Set<String> names = admin.listTopics().names().get();
        check(names.containsAll(Set.of("made", "made-by-hand", "made-by-default")), "listed: " + names);
        check(admin.listTopics(new ListTopicsOptions().listInternal(true)).listings().get().stream().map(TopicListing::topicId).collect(Collectors.toSet()).contains(id), "with its id");
        admin.deleteTopics(TopicCollection.ofTopicIds(List.of(id))).all().get();
        admin.deleteTopics(TopicCollection.ofTopicNames(List.of("made-by-hand", "made-by-default"))).all().get();
        until("they are gone", () -> !admin.listTopics().names().get().removeAll(Set.of("made", "made-by-hand", "made-by-default")));
        fails(UnknownTopicIdException.class, "deleted twice", admin.deleteTopics(TopicCollection.ofTopicIds(List.of(id))).all());
        fails(UnknownTopicOrPartitionException.class, "deleted twice", admin.deleteTopics(List.of("made-by-hand")).all());
    }

    private static void refusedTopics(Admin admin) throws Exception {
        record Case(Class<? extends Throwable> expected, NewTopic topic) {}
        List<Case> table = List.of(
            new Case(TopicExistsException.class, new NewTopic("made", 1, (short) 1)),
            new Case(InvalidTopicException.class, new NewTopic("no such topic", 1, (short) 1)),
            new Case(InvalidTopicException.class, new NewTopic("..", 1, (short) 1)),
            new Case(InvalidPartitionsException.class, new NewTopic("bad", 0, (short) 1)),
            new Case(InvalidReplicationFactorException.class, new NewTopic("bad", 1, (short) 4)),
            new Case(InvalidReplicationFactorException.class, new NewTopic("bad", 1, (short) 0)),
            new Case(InvalidReplicaAssignmentException.class, new NewTopic("bad", Map.of(0, List.of(1, 1)))),
            new Case(InvalidReplicaAssignmentException.class, new NewTopic("bad", Map.of(1, List.of(1)))),
            new Case(InvalidReplicaAssignmentException.class, new NewTopic("bad", Map.of(0, List.of(99)))),
            new Case(InvalidConfigurationException.class, new NewTopic("bad", 1, (short) 1).configs(Map.of("retention.ms", "soon"))),
            new Case(InvalidConfigurationException.class, new NewTopic("bad", 1, (short) 1).configs(Map.of("no.such.config", "1"))));
        for (Case each : table) {
            fails(each.expected(), each.topic().toString(), admin.createTopics(List.of(each.topic())).all());
        }
        // Each of a request has an answer of its own.
        var both = admin.createTopics(List.of(new NewTopic("made", 1, (short) 1), new NewTopic("beside", 1, (short) 1)));
        fails(TopicExistsException.class, "the one", both.values().get("made"));
        both.values().get("beside").get();
        admin.deleteTopics(List.of("beside")).all().get();
    }

    // ---------------------------------------------------------------- the cluster

    private static void cluster(Admin admin) throws Exception {
        var described = admin.describeCluster(new DescribeClusterOptions().includeAuthorizedOperations(true).includeFencedBrokers(true));
        is("brokers", new HashSet<>(ids(described.nodes().get())), Set.of(1, 2, 3));
        check(described.nodes().get().stream().noneMatch(Node::isFenced), "none is fenced");
        check(described.controller().get() != null && !described.clusterId().get().isEmpty(), "a controller and an id");
        check(described.authorizedOperations().get().contains(AclOperation.ALTER), "what may be done: " + described.authorizedOperations().get());
        QuorumInfo quorum = admin.describeMetadataQuorum().quorumInfo().get();
        check(quorum.voters().stream().anyMatch(voter -> voter.replicaId() == quorum.leaderId()), "its leader votes: " + quorum);
        check(quorum.highWatermark() > 0 && quorum.leaderEpoch() > 0, "it has agreed on something: " + quorum);
        is("who looks on", quorum.observers().stream().map(QuorumInfo.ReplicaState::replicaId).collect(Collectors.toSet()), Set.of(1, 2, 3));
        check(!admin.metrics().isEmpty(), "there are metrics");
    }

    private static void features(Admin admin) throws Exception {
        String name = "eligible.leader.replicas.version";
        var features = admin.describeFeatures().featureMetadata().get();
        check(features.finalizedFeatures().containsKey("metadata.version"), "finalized: " + features);
        check(features.supportedFeatures().containsKey(name), "supported: " + features);
        check(features.finalizedFeaturesEpoch().isPresent(), "as of: " + features);
        short before = level(admin, name);
        short other = (short) (1 - before);
        var change = Map.of(name, change(before, other));
        admin.updateFeatures(change, new UpdateFeaturesOptions().validateOnly(true)).all().get();
        is("a check changes nothing", level(admin, name), before);
        admin.updateFeatures(change, new UpdateFeaturesOptions()).all().get();
        until("it is changed", () -> level(admin, name) == other);
        admin.updateFeatures(Map.of(name, change(other, before)), new UpdateFeaturesOptions()).all().get();
        until("and changed back", () -> level(admin, name) == before);
        FeatureUpdate beyond = new FeatureUpdate((short) 99, FeatureUpdate.UpgradeType.UPGRADE);
        fails(InvalidUpdateVersionException.class, "beyond what is supported", admin.updateFeatures(Map.of(name, beyond), new UpdateFeaturesOptions()).all());
        fails(InvalidUpdateVersionException.class, "no such feature", admin.updateFeatures(Map.of("no.such.feature", beyond), new UpdateFeaturesOptions()).all());
    }

    private static FeatureUpdate change(short from, short to) {
        return new FeatureUpdate(to, to > from ? FeatureUpdate.UpgradeType.UPGRADE : FeatureUpdate.UpgradeType.SAFE_DOWNGRADE);
    }

    private static short level(Admin admin, String feature) throws Exception {
        var range = admin.describeFeatures().featureMetadata().get().finalizedFeatures().get(feature);
        return range == null ? 0 : range.maxVersionLevel();
    }

    private Admins() {}
}
