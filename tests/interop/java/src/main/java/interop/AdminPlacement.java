package interop;

import static interop.Admins.describe;
import static interop.Admins.ids;
import static interop.Admins.is;
import static interop.Admins.until;
import static interop.Main.check;
import static interop.Main.fails;

import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.DescribeClusterOptions;
import org.apache.kafka.clients.admin.DescribeProducersOptions;
import org.apache.kafka.clients.admin.ListOffsetsOptions;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.NewPartitionReassignment;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.ProducerState;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.ElectionType;
import org.apache.kafka.common.IsolationLevel;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.TopicPartitionInfo;
import org.apache.kafka.common.TopicPartitionReplica;
import org.apache.kafka.common.errors.BrokerIdNotRegisteredException;
import org.apache.kafka.common.errors.ElectionNotNeededException;
import org.apache.kafka.common.errors.EligibleLeadersNotAvailableException;
import org.apache.kafka.common.errors.InvalidReplicaAssignmentException;
import org.apache.kafka.common.errors.LogDirNotFoundException;
import org.apache.kafka.common.errors.NoReassignmentInProgressException;
import org.apache.kafka.common.errors.NotEnoughReplicasException;
import org.apache.kafka.common.errors.OffsetOutOfRangeException;
import org.apache.kafka.common.errors.PolicyViolationException;
import org.apache.kafka.common.errors.PreferredLeaderNotAvailableException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/** Records, directories, leaders, replicas, and brokers that end: what an administrator sees of them and does with them. */
final class AdminPlacement {
    private static final long START = 1_700_000_000_000L;
    private static final TopicPartition PLACED = new TopicPartition("placed", 0);
    private static final TopicPartition TORN = new TopicPartition("torn", 0);

    static void run(Admin admin, String bootstrap) throws Exception {
        admin.createTopics(List.of(new NewTopic("placed", Map.of(0, List.of(1, 2))))).all().get();
        try (var producer = Main.producer(bootstrap, Map.of("batch.size", 1))) {
            for (int i = 0; i < 20; i++) {
                producer.send(new ProducerRecord<>("placed", 0, START + (i == 12 ? 500_000 : i * 1_000L), "k", "v")).get();
            }
        }
        offsets(admin);
        producers(admin);
        directories(admin);
        deletions(admin);
        reassignments(admin);
        preferredLeaders(admin);
        brokersThatEnd(admin, bootstrap);
    }

    // ---------------------------------------------------------------- records

    private static ListOffsetsResultInfo offset(Admin admin, OffsetSpec spec) throws Exception {
        return admin.listOffsets(Map.of(PLACED, spec)).partitionResult(PLACED).get();
    }

    private static void offsets(Admin admin) throws Exception {
        is("earliest", offset(admin, OffsetSpec.earliest()).offset(), 0L);
        is("latest", offset(admin, OffsetSpec.latest()).offset(), 20L);
        is("by time", offset(admin, OffsetSpec.forTimestamp(START + 3_001)).offset(), 4L);
        is("its time", offset(admin, OffsetSpec.forTimestamp(START + 3_001)).timestamp(), START + 4_000);
        is("after all", offset(admin, OffsetSpec.forTimestamp(START * 2)).offset(), -1L);
        is("the record of the latest time", offset(admin, OffsetSpec.maxTimestamp()).offset(), 12L);
        is("its time", offset(admin, OffsetSpec.maxTimestamp()).timestamp(), START + 500_000);
        is("all that is kept is here", offset(admin, OffsetSpec.earliestLocal()).offset(), 0L);
        is("and nothing elsewhere", offset(admin, OffsetSpec.latestTiered()).offset(), -1L);
        is("nor on its way", offset(admin, OffsetSpec.earliestPendingUpload()).offset(), -1L);
        check(offset(admin, OffsetSpec.latest()).leaderEpoch().isPresent(), "the leader's epoch");
        var committed = new ListOffsetsOptions(IsolationLevel.READ_COMMITTED);
        is("the end of what is committed", admin.listOffsets(Map.of(PLACED, OffsetSpec.latest()), committed).partitionResult(PLACED).get().offset(), 20L);
    }

    private static void producers(Admin admin) throws Exception {
        List<ProducerState> active = admin.describeProducers(List.of(PLACED)).partitionResult(PLACED).get().activeProducers();
        is("producers", active.size(), 1);
        ProducerState state = active.get(0);
        check(state.producerId() >= 0 && state.lastSequence() == 19 && state.currentTransactionStartOffset().isEmpty(), "its state: " + state);
        // A replica that follows knows the same.
        var follower = new DescribeProducersOptions().brokerId(2);
        until("the follower knows it", () -> {
            var there = admin.describeProducers(List.of(PLACED), follower).partitionResult(PLACED).get().activeProducers();
            return there.size() == 1 && there.get(0).producerId() == state.producerId() && there.get(0).lastSequence() == 19;
        });
    }

    private static void directories(Admin admin) throws Exception {
        var all = admin.describeLogDirs(List.of(1, 2, 3)).allDescriptions().get();
        is("of each broker", all.keySet(), Set.of(1, 2, 3));
        for (var ofBroker : all.entrySet()) {
            is("one directory", ofBroker.getValue().size(), 1);
            var directory = ofBroker.getValue().values().iterator().next();
            check(directory.error() == null && directory.totalBytes().getAsLong() > 0 && directory.usableBytes().getAsLong() > 0, "usable: " + directory);
            is("who has a replica", directory.replicaInfos().containsKey(PLACED), ofBroker.getKey() < 3);
        }
        var replica = all.get(1).values().iterator().next().replicaInfos().get(PLACED);
        check(replica.size() > 0 && replica.offsetLag() == 0 && !replica.isFuture(), "a replica: " + replica);
        TopicPartitionReplica second = new TopicPartitionReplica("placed", 0, 2);
        TopicPartitionReplica third = new TopicPartitionReplica("placed", 0, 3);
        var replicas = admin.describeReplicaLogDirs(List.of(second, third)).all().get();
        is("where it is", replicas.get(second).getCurrentReplicaLogDir(), all.get(2).keySet().iterator().next());
        check(replicas.get(third).getCurrentReplicaLogDir() == null, "where it is not");
        fails(LogDirNotFoundException.class, "no such directory", admin.alterReplicaLogDirs(Map.of(second, "/elsewhere")).all());
        admin.alterReplicaLogDirs(Map.of(second, replicas.get(second).getCurrentReplicaLogDir())).all().get();
    }

    private static void deletions(Admin admin) throws Exception {
        is("low watermark", admin.deleteRecords(Map.of(PLACED, RecordsToDelete.beforeOffset(5))).lowWatermarks().get(PLACED).get().lowWatermark(), 5L);
        is("earliest", offset(admin, OffsetSpec.earliest()).offset(), 5L);
        fails(OffsetOutOfRangeException.class, "beyond the end", admin.deleteRecords(Map.of(PLACED, RecordsToDelete.beforeOffset(21))).all());
        is("all there is", admin.deleteRecords(Map.of(PLACED, RecordsToDelete.beforeOffset(-1))).lowWatermarks().get(PLACED).get().lowWatermark(), 20L);
        is("earliest", offset(admin, OffsetSpec.earliest()).offset(), 20L);
        admin.createTopics(List.of(new NewTopic("kept", 1, (short) 1).configs(Map.of("cleanup.policy", "compact")))).all().get();
        fails(PolicyViolationException.class, "of a compacted topic", admin.deleteRecords(Map.of(new TopicPartition("kept", 0), RecordsToDelete.beforeOffset(0))).all());
    }

    // ---------------------------------------------------------------- replicas and leaders

    private static Optional<NewPartitionReassignment> to(Integer... replicas) {
        return Optional.of(new NewPartitionReassignment(List.of(replicas)));
    }

    private static TopicPartitionInfo partition(Admin admin, TopicPartition partition) throws Exception {
        return describe(admin, partition.topic()).partitions().get(partition.partition());
    }

    private static void reassignments(Admin admin) throws Exception {
        admin.alterPartitionReassignments(Map.of(PLACED, to(1, 3))).all().get();
        until("it has moved", () -> admin.listPartitionReassignments(Set.of(PLACED)).reassignments().get().isEmpty()
            && ids(partition(admin, PLACED).replicas()).equals(List.of(1, 3)));
        is("in sync", new HashSet<>(ids(partition(admin, PLACED).isr())), Set.of(1, 3));
        fails(NoReassignmentInProgressException.class, "nothing to cancel", admin.alterPartitionReassignments(Map.of(PLACED, Optional.empty())).all());
        fails(InvalidReplicaAssignmentException.class, "to no broker", admin.alterPartitionReassignments(Map.of(PLACED, to(1, 99))).all());
        fails(InvalidReplicaAssignmentException.class, "twice to one", admin.alterPartitionReassignments(Map.of(PLACED, to(1, 1))).all());
        TopicPartition none = new TopicPartition("placed", 7);
        fails(UnknownTopicOrPartitionException.class, "of no partition", admin.alterPartitionReassignments(Map.of(none, to(1))).all());
    }

    private static void preferredLeaders(Admin admin) throws Exception {
        admin.alterPartitionReassignments(Map.of(PLACED, to(3, 1))).all().get();
        until("the other order", () -> ids(partition(admin, PLACED).replicas()).equals(List.of(3, 1)));
        is("its leader stays", partition(admin, PLACED).leader().id(), 1);
        admin.electLeaders(ElectionType.PREFERRED, Set.of(PLACED)).all().get();
        until("the preferred leader", () -> partition(admin, PLACED).leader().id() == 3);
        fails(ElectionNotNeededException.class, "once more", admin.electLeaders(ElectionType.PREFERRED, Set.of(PLACED)).all());
        fails(ElectionNotNeededException.class, "who has a leader", admin.electLeaders(ElectionType.UNCLEAN, Set.of(PLACED)).all());
        fails(UnknownTopicOrPartitionException.class, "of no partition", admin.electLeaders(ElectionType.PREFERRED, Set.of(new TopicPartition("none", 0))).all());
        // All partitions: only those are named that had need of it.
        check(admin.electLeaders(ElectionType.PREFERRED, null).partitions().get().values().stream().allMatch(Optional::isEmpty), "all of them");
    }

    // ---------------------------------------------------------------- brokers that end

    private static Set<Integer> serving(Admin admin) throws Exception {
        return new HashSet<>(ids(admin.describeCluster().nodes().get()));
    }

    private static Node known(Admin admin, int id) throws Exception {
        var all = admin.describeCluster(new DescribeClusterOptions().includeFencedBrokers(true)).nodes().get();
        return all.stream().filter(node -> node.id() == id).findFirst().orElse(null);
    }

    private static boolean hasNoLeader(Admin admin, TopicPartition partition) throws Exception {
        Node leader = partition(admin, partition).leader();
        return leader == null || leader.isEmpty();
    }

    private static void brokersThatEnd(Admin admin, String bootstrap) throws Exception {
        TopicPartition waits = new TopicPartition("waits", 0);
        admin.createTopics(List.of(
            new NewTopic("torn", Map.of(0, List.of(2, 3))),
            new NewTopic("waits", Map.of(0, List.of(1))),
            new NewTopic("needs-two", Map.of(0, List.of(1, 2))).configs(Map.of("min.insync.replicas", "2")))).all().get();
        try (var producer = Main.producer(bootstrap, Map.of())) {
            producer.send(new ProducerRecord<>("torn", "both have it")).get();
            System.out.println("BROKER kill 2");
            until("2 is out of sync", () -> ids(partition(admin, TORN).isr()).equals(List.of(3)));
            producer.send(new ProducerRecord<>("torn", "only one has it")).get();
        }
        TopicPartition needsTwo = new TopicPartition("needs-two", 0);
        until("2 is out of sync", () -> ids(partition(admin, needsTwo).isr()).equals(List.of(1)));
        try (var producer = Main.producer(bootstrap, Map.of("enable.idempotence", false, "retries", 0))) {
            fails(NotEnoughReplicasException.class, "fewer than min.insync.replicas", producer.send(new ProducerRecord<>("needs-two", "v")));
        }
        // A move that cannot end while its target is away.
        admin.alterPartitionReassignments(Map.of(waits, to(2))).all().get();
        var move = admin.listPartitionReassignments().reassignments().get().get(waits);
        is("adding", move.addingReplicas(), List.of(2));
        is("removing", move.removingReplicas(), List.of(1));
        admin.alterPartitionReassignments(Map.of(waits, Optional.empty())).all().get();
        until("it is cancelled", () -> admin.listPartitionReassignments().reassignments().get().isEmpty());
        until("as before", () -> ids(partition(admin, waits).replicas()).equals(List.of(1)));

        System.out.println("BROKER kill 3");
        until("it has no leader", () -> hasNoLeader(admin, TORN));
        fails(PreferredLeaderNotAvailableException.class, "its preferred leader", admin.electLeaders(ElectionType.PREFERRED, Set.of(TORN)).all());
        fails(EligibleLeadersNotAvailableException.class, "any leader", admin.electLeaders(ElectionType.UNCLEAN, Set.of(TORN)).all());
        System.out.println("BROKER start 2");
        until("2 serves again", () -> serving(admin).contains(2));
        check(hasNoLeader(admin, TORN), "who is out of sync does not lead by itself");
        admin.electLeaders(ElectionType.UNCLEAN, Set.of(TORN)).all().get();
        until("it leads when it is told to", () -> partition(admin, TORN).leader() != null && partition(admin, TORN).leader().id() == 2);
        is("what only the other had is lost", Main.readAll(bootstrap, TORN, 1).get(0).value(), "both have it");

        check(known(admin, 3).isFenced(), "a broker that has ended is known, and fenced");
        fails(BrokerIdNotRegisteredException.class, "a broker that never was", admin.unregisterBroker(99).all());
        admin.unregisterBroker(3).all().get();
        until("it is known no more", () -> known(admin, 3) == null);
    }

    private AdminPlacement() {}
}
