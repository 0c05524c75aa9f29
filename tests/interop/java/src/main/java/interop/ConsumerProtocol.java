package interop;

import static interop.Main.check;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.CloseOptions;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.GroupType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.GroupNotEmptyException;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidRegularExpression;
import org.apache.kafka.common.errors.UnreleasedInstanceIdException;
import org.apache.kafka.common.errors.UnsupportedAssignorException;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Consumers with {@code group.protocol=consumer} (KIP-848): both assignors, members that come and go while partitions have
 * one owner, growing topics, regular expressions of the server, static members, and what an administrator sees of it.
 * It prints STARTED when the first group is under way, for whoever wants to disturb it.
 */
final class ConsumerProtocol {
    private static final long LIMIT_MS = 60_000;
    private static final String TOPIC = "modern";
    private static final int PARTITIONS = 4;
    private static final int EACH = 25;

    static void run(String bootstrap) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            short replicas = (short) Math.min(3, admin.describeCluster().nodes().get().size());
            admin.createTopics(List.of(new NewTopic(TOPIC, PARTITIONS, replicas))).all().get();
            try (var producer = Main.producer(bootstrap, Map.of())) {
                for (int i = 0; i < PARTITIONS * EACH; i++) {
                    producer.send(new ProducerRecord<>(TOPIC, i % PARTITIONS, null, Integer.toString(i)));
                }
            }
            for (String assignor : List.of("uniform", "range")) {
                comeAndGo(bootstrap, admin, assignor);
            }
            manyMembers(bootstrap);
            staticMembers(bootstrap, admin);
            topicsChange(bootstrap, admin, replicas);
            patterns(bootstrap, admin, replicas);
            refusals(bootstrap);
            groupConfigs(bootstrap, admin);
        }
        System.out.println("OK");
    }

    private static final class Member implements ConsumerRebalanceListener, AutoCloseable {
        final KafkaConsumer<String, String> consumer;
        final Set<TopicPartition> held = new HashSet<>();
        final Set<String> read = new HashSet<>();
        int taken = 0;

        Member(String bootstrap, String group, Map<String, Object> more) {
            Map<String, Object> settings = new HashMap<>(Map.of(
                "bootstrap.servers", bootstrap,
                "group.id", group,
                "group.protocol", "consumer",
                "enable.auto.commit", false,
                "auto.offset.reset", "earliest"));
            settings.putAll(more);
            consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
        }

        Member subscribed() {
            consumer.subscribe(List.of(TOPIC), this);
            return this;
        }

        @Override
        public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
            held.addAll(partitions);
        }

        @Override
        public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
            taken += partitions.size();
            held.removeAll(partitions);
        }

        @Override
        public void onPartitionsLost(Collection<TopicPartition> partitions) {
            held.removeAll(partitions);
        }

        void poll() {
            consumer.poll(Duration.ofMillis(20)).forEach(record -> read.add(record.topic() + record.value()));
            // What is being taken away is out of the listener's hands before it is out of the consumer's.
            check(consumer.assignment().containsAll(held), "the listener knows " + held + ", not " + consumer.assignment());
        }

        boolean hasReadAll() {
            return held.stream().allMatch(partition -> consumer.position(partition) == EACH);
        }

        Set<String> topics() {
            Set<String> topics = new TreeSet<>();
            held.forEach(partition -> topics.add(partition.topic()));
            return topics;
        }

        @Override
        public void close() {
            consumer.close();
        }
    }

    private interface Condition {
        boolean holds() throws Exception;
    }

    private static void until(String what, List<Member> members, Condition condition) throws Exception {
        long deadline = System.currentTimeMillis() + LIMIT_MS;
        while (!condition.holds()) {
            check(System.currentTimeMillis() < deadline, what + ": " + members.stream().map(m -> m.held).toList());
            Set<TopicPartition> owned = new HashSet<>();
            for (Member member : members) {
                member.poll();
                for (TopicPartition partition : member.held) {
                    check(owned.add(partition), what + ": two members have " + partition);
                }
            }
        }
    }

    private static ConsumerGroupDescription described(Admin admin, String group) throws Exception {
        return admin.describeConsumerGroups(List.of(group)).all().get().get(group);
    }

    private static void comeAndGo(String bootstrap, Admin admin, String assignor) throws Exception {
        String group = "modern-" + assignor;
        Map<String, Object> settings = Map.of("group.remote.assignor", assignor);
        try (Member first = new Member(bootstrap, group, settings).subscribed()) {
            until(group + ": one has all", List.of(first), () -> first.held.size() == PARTITIONS);
            if (assignor.equals("uniform")) {
                System.out.println("STARTED");
            }
            try (Member second = new Member(bootstrap, group, settings).subscribed()) {
                List<Member> both = List.of(first, second);
                until(group + ": each has half", both, () -> first.held.size() == 2 && second.held.size() == 2);
                check(first.taken == 2, group + ": only what moves is taken, not " + first.taken);
                until(group + ": it is stable", both, () -> described(admin, group).groupState() == GroupState.STABLE);
                ConsumerGroupDescription description = described(admin, group);
                check(description.type() == GroupType.CONSUMER, "its type: " + description);
                check(description.partitionAssignor().equals(assignor), "its assignor: " + description);
                check(description.members().size() == 2, "its members: " + description);
                description.members().forEach(member -> {
                    check(member.assignment().topicPartitions().size() == 2, "a member: " + member);
                    check(member.targetAssignment().equals(Optional.of(member.assignment())), "its target: " + member);
                    check(member.memberEpoch().equals(description.groupEpoch()), "its epoch: " + member);
                });
                until(group + ": all is read", both, () -> {
                    Set<String> read = new HashSet<>(first.read);
                    read.addAll(second.read);
                    // Again, maybe: who has not committed begins anew when partitions move.
                    return read.size() == PARTITIONS * EACH && both.stream().allMatch(Member::hasReadAll);
                });
                first.consumer.commitSync();
                second.consumer.commitSync();
                Main.fails(GroupNotEmptyException.class, "a group with members is deleted",
                    admin.deleteConsumerGroups(List.of(group)).all());
            }
            until(group + ": one has all again", List.of(first), () -> first.held.size() == PARTITIONS);
            var committed = first.consumer.committed(first.held);
            check(committed.values().stream().allMatch(offset -> offset.offset() == EACH), "committed " + committed);
        }
        check(admin.listGroups().all().get().stream().anyMatch(listed -> listed.groupId().equals(group)
            && listed.type().equals(Optional.of(GroupType.CONSUMER))
            && listed.groupState().equals(Optional.of(GroupState.EMPTY))), "it is listed as empty");
        admin.deleteConsumerGroups(List.of(group)).all().get();
    }

    /** More members than partitions, which come one after the other and go in the same order. */
    private static void manyMembers(String bootstrap) throws Exception {
        List<Member> members = new ArrayList<>();
        for (int i = 0; i < PARTITIONS + 2; i++) {
            members.add(new Member(bootstrap, "modern-many", Map.of()).subscribed());
            int least = PARTITIONS / members.size();
            until("many: " + members.size() + " members share", members, () -> isShared(members, least));
        }
        while (members.size() > 1) {
            members.remove(0).close();
            int least = PARTITIONS / members.size();
            until("many: " + members.size() + " members are left", members, () -> isShared(members, least));
        }
        members.get(0).close();
    }

    private static boolean isShared(List<Member> members, int least) {
        int all = members.stream().mapToInt(member -> member.held.size()).sum();
        return all == PARTITIONS
            && members.stream().allMatch(member -> member.held.size() >= least && member.held.size() <= least + 1);
    }

    private static void staticMembers(String bootstrap, Admin admin) throws Exception {
        String group = "modern-static";
        Map<String, Object> one = Map.of("group.instance.id", "one");
        Map<String, Object> two = Map.of("group.instance.id", "two");
        Member first = new Member(bootstrap, group, one).subscribed();
        try (Member second = new Member(bootstrap, group, two).subscribed()) {
            until("static: each has half", List.of(first, second), () -> first.held.size() == 2 && second.held.size() == 2);
            Set<TopicPartition> share = Set.copyOf(first.held);
            int taken = second.taken;
            // It goes for a while, and its partitions wait for it.
            first.consumer.close(CloseOptions.groupMembershipOperation(CloseOptions.GroupMembershipOperation.REMAIN_IN_GROUP));
            try (Member again = new Member(bootstrap, group, one).subscribed()) {
                until("static: it is back", List.of(again, second), () -> again.held.equals(share));
                check(second.taken == taken, "the other did not notice");
                // Whoever comes under the same name while it is there is refused.
                try (Member other = new Member(bootstrap, group, one).subscribed()) {
                    Main.refused(UnreleasedInstanceIdException.class, "an instance id in use", () -> {
                        long deadline = System.currentTimeMillis() + LIMIT_MS;
                        while (System.currentTimeMillis() < deadline) {
                            other.poll();
                        }
                    });
                }
                // And for good.
                again.consumer.close(CloseOptions.groupMembershipOperation(CloseOptions.GroupMembershipOperation.LEAVE_GROUP));
            }
            until("static: the other has all", List.of(second), () -> second.held.size() == PARTITIONS);
            check(described(admin, group).members().size() == 1, "one member is left");
        }
    }

    private static void topicsChange(String bootstrap, Admin admin, short replicas) throws Exception {
        admin.createTopics(List.of(new NewTopic("growing", 1, replicas))).all().get();
        try (Member member = new Member(bootstrap, "modern-growing", Map.of("allow.auto.create.topics", false))) {
            member.consumer.subscribe(List.of("growing", "coming"), member);
            until("the topic that is there", List.of(member), () -> member.held.size() == 1);
            admin.createPartitions(Map.of("growing", NewPartitions.increaseTo(3))).all().get();
            until("it has grown", List.of(member), () -> member.held.size() == 3);
            admin.createTopics(List.of(new NewTopic("coming", 2, replicas))).all().get();
            until("another has come", List.of(member), () -> member.held.size() == 5);
            admin.deleteTopics(List.of("growing")).all().get();
            until("the first has gone", List.of(member), () -> member.topics().equals(Set.of("coming")));
        }
    }

    private static void patterns(String bootstrap, Admin admin, short replicas) throws Exception {
        admin.createTopics(List.of(new NewTopic("pattern-1", 1, replicas), new NewTopic("pattern-2", 1, replicas))).all().get();
        try (Member member = new Member(bootstrap, "modern-patterns", Map.of())) {
            member.consumer.subscribe(new SubscriptionPattern("pattern-[0-9]"), member);
            until("what matches", List.of(member), () -> member.topics().equals(Set.of("pattern-1", "pattern-2")));
            admin.createTopics(List.of(new NewTopic("pattern-3", 1, replicas), new NewTopic("pattern-x", 1, replicas))).all().get();
            until("what has come", List.of(member), () -> member.topics().equals(Set.of("pattern-1", "pattern-2", "pattern-3")));
            admin.deleteTopics(List.of("pattern-1")).all().get();
            until("what has gone", List.of(member), () -> member.topics().equals(Set.of("pattern-2", "pattern-3")));
        }
        try (Member member = new Member(bootstrap, "modern-no-pattern", Map.of())) {
            member.consumer.subscribe(new SubscriptionPattern("(unclosed"), member);
            Main.refused(InvalidRegularExpression.class, "an expression that is none", () -> {
                long deadline = System.currentTimeMillis() + LIMIT_MS;
                while (System.currentTimeMillis() < deadline) {
                    member.poll();
                }
            });
        }
    }

    private static void refusals(String bootstrap) throws Exception {
        try (Member member = new Member(bootstrap, "modern-refused", Map.of("group.remote.assignor", "nobodys")).subscribed()) {
            Main.refused(UnsupportedAssignorException.class, "an assignor that is not there", () -> {
                long deadline = System.currentTimeMillis() + LIMIT_MS;
                while (System.currentTimeMillis() < deadline) {
                    member.poll();
                }
            });
        }
    }

    /** A group's own timeouts, within the broker's bounds. */
    private static void groupConfigs(String bootstrap, Admin admin) throws Exception {
        String group = "modern-configured";
        Main.refused(InvalidConfigurationException.class, "a session shorter than a heartbeat's interval", () -> alter(admin, group, "3000"));
        alter(admin, group, "50000");
        try (Member member = new Member(bootstrap, group, Map.of()).subscribed()) {
            until("it has all", List.of(member), () -> member.held.size() == PARTITIONS);
            member.consumer.commitSync(Map.of(new TopicPartition(TOPIC, 0), new OffsetAndMetadata(1)));
        }
    }

    private static void alter(Admin admin, String group, String sessionTimeoutMs) throws Exception {
        ConfigEntry entry = new ConfigEntry("consumer.session.timeout.ms", sessionTimeoutMs);
        var operations = List.of(new AlterConfigOp(entry, AlterConfigOp.OpType.SET));
        try {
            admin.incrementalAlterConfigs(Map.of(new ConfigResource(ConfigResource.Type.GROUP, group), operations)).all().get();
        } catch (ExecutionException e) {
            throw (Exception) e.getCause();
        }
    }

    private ConsumerProtocol() {}
}
