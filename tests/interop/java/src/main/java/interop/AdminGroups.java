package interop;

import static interop.Admins.is;
import static interop.Admins.until;
import static interop.Main.check;
import static interop.Main.fails;

import java.time.Duration;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsOptions;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsSpec;
import org.apache.kafka.clients.admin.ListGroupsOptions;
import org.apache.kafka.clients.admin.MemberDescription;
import org.apache.kafka.clients.admin.MemberToRemove;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.RemoveMembersFromConsumerGroupOptions;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.ClassicGroupState;
import org.apache.kafka.common.GroupState;
import org.apache.kafka.common.GroupType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.errors.GroupNotEmptyException;
import org.apache.kafka.common.errors.GroupSubscribedToTopicException;
import org.apache.kafka.common.errors.UnknownMemberIdException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.StringDeserializer;

/** Groups and their offsets, as an administrator sees and changes them while a member is there and when it is gone. */
final class AdminGroups {
    private static final String TOPIC = "administered";
    private static final String GROUP = "administered-group";
    private static final String OTHER = "administered-other";
    private static final TopicPartition ZERO = new TopicPartition(TOPIC, 0);
    private static final TopicPartition ONE = new TopicPartition(TOPIC, 1);

    static void run(Admin admin, String bootstrap) throws Exception {
        admin.createTopics(List.of(new NewTopic(TOPIC, 2, (short) 3))).all().get();
        Map<String, Object> settings = Map.of(
            "bootstrap.servers", bootstrap, "group.id", GROUP, "client.id", "administered-client", "group.instance.id", "named",
            "auto.offset.reset", "earliest", "enable.auto.commit", false, "heartbeat.interval.ms", 100);
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(TOPIC));
            until("it is a member", () -> {
                consumer.poll(Duration.ofMillis(50));
                return consumer.assignment().size() == 2;
            });
            consumer.commitSync(Map.of(ZERO, new OffsetAndMetadata(0, "by the member"), ONE, new OffsetAndMetadata(0)));
            withMember(admin);
        }
        // A static member stays when it closes.
        is("members", Admins.members(admin, GROUP), 1);
        Admins.remove(admin, GROUP, "named");
        empty(admin);
    }

    private static boolean lists(Admin admin, ListGroupsOptions options, String group) throws Exception {
        return admin.listGroups(options).all().get().stream().map(GroupListing::groupId).anyMatch(group::equals);
    }

    private static void withMember(Admin admin) throws Exception {
        admin.alterConsumerGroupOffsets(OTHER, Map.of(ZERO, new OffsetAndMetadata(0))).all().get();
        ListGroupsOptions stable = new ListGroupsOptions().inGroupStates(Set.of(GroupState.STABLE));
        check(lists(admin, stable, GROUP) && !lists(admin, stable, OTHER), "by state");
        ListGroupsOptions classic = new ListGroupsOptions().withTypes(Set.of(GroupType.CLASSIC));
        check(lists(admin, classic, GROUP) && lists(admin, classic, OTHER), "by type");
        check(!lists(admin, new ListGroupsOptions().withTypes(Set.of(GroupType.SHARE)), GROUP), "of another type");
        check(lists(admin, ListGroupsOptions.forConsumerGroups(), GROUP), "those of consumers");
        GroupListing listing = admin.listGroups().all().get().stream().filter(each -> each.groupId().equals(GROUP)).findFirst().get();
        is("protocol", listing.protocol(), "consumer");
        is("state", listing.groupState().get(), GroupState.STABLE);
        GroupListing simple = admin.listGroups().all().get().stream().filter(each -> each.groupId().equals(OTHER)).findFirst().get();
        check(simple.isSimpleConsumerGroup(), "only offsets, no members: " + simple);
        check(listedByTheOlderMethod(admin).contains(GROUP), "by the older method");

        ConsumerGroupDescription described = admin.describeConsumerGroups(List.of(GROUP)).all().get().get(GROUP);
        is("state", described.groupState(), GroupState.STABLE);
        is("assignor", described.partitionAssignor(), "range");
        check(List.of(1, 2, 3).contains(described.coordinator().id()), "its coordinator");
        MemberDescription member = described.members().iterator().next();
        is("its partitions", member.assignment().topicPartitions(), Set.of(ZERO, ONE));
        is("its client", member.clientId(), "administered-client");
        is("its name", member.groupInstanceId().get(), "named");
        check(member.host().contains("127.0.0.1"), "its host " + member.host());
        var asClassic = admin.describeClassicGroups(List.of(GROUP)).all().get().get(GROUP);
        is("state", asClassic.state(), ClassicGroupState.STABLE);
        is("protocol", asClassic.protocolData(), "range");
        fails(GroupIdNotFoundException.class, "no such group", admin.describeConsumerGroups(List.of("none")).all());

        var stableOnly = new ListConsumerGroupOffsetsOptions().requireStable(true);
        var offsets = admin.listConsumerGroupOffsets(Map.of(
            GROUP, new ListConsumerGroupOffsetsSpec(),
            OTHER, new ListConsumerGroupOffsetsSpec().topicPartitions(List.of(ZERO, ONE))), stableOnly).all().get();
        is("all of a group", offsets.get(GROUP), Map.of(ZERO, new OffsetAndMetadata(0, "by the member"), ONE, new OffsetAndMetadata(0)));
        is("these of another", offsets.get(OTHER).get(ZERO), new OffsetAndMetadata(0));
        check(offsets.get(OTHER).containsKey(ONE) && offsets.get(OTHER).get(ONE) == null, "none is known: " + offsets);

        fails(GroupNotEmptyException.class, "a group with a member is deleted", admin.deleteConsumerGroups(List.of(GROUP)).all());
        fails(UnknownMemberIdException.class, "its offsets are set", admin.alterConsumerGroupOffsets(GROUP, Map.of(ZERO, new OffsetAndMetadata(0))).all());
        fails(GroupSubscribedToTopicException.class, "its offsets are deleted", admin.deleteConsumerGroupOffsets(GROUP, Set.of(ZERO)).all());
        var stranger = new RemoveMembersFromConsumerGroupOptions(Set.of(new MemberToRemove("stranger")));
        var removed = admin.removeMembersFromConsumerGroup(GROUP, stranger);
        fails(UnknownMemberIdException.class, "a stranger is removed", removed.memberResult(new MemberToRemove("stranger")));
    }

    @SuppressWarnings("deprecation")
    private static List<String> listedByTheOlderMethod(Admin admin) throws ExecutionException, InterruptedException {
        Collection<org.apache.kafka.clients.admin.ConsumerGroupListing> all = admin.listConsumerGroups().all().get();
        return all.stream().map(org.apache.kafka.clients.admin.ConsumerGroupListing::groupId).toList();
    }

    private static void empty(Admin admin) throws Exception {
        is("state", admin.describeConsumerGroups(List.of(GROUP)).all().get().get(GROUP).groupState(), GroupState.EMPTY);
        admin.alterConsumerGroupOffsets(GROUP, Map.of(ZERO, new OffsetAndMetadata(7, "by hand"))).all().get();
        is("set", offsets(admin).get(ZERO), new OffsetAndMetadata(7, "by hand"));
        admin.deleteConsumerGroupOffsets(GROUP, Set.of(ZERO)).all().get();
        check(!offsets(admin).containsKey(ZERO) && offsets(admin).containsKey(ONE), "one is deleted: " + offsets(admin));
        TopicPartition none = new TopicPartition("none", 0);
        fails(UnknownTopicOrPartitionException.class, "of no topic", admin.alterConsumerGroupOffsets(GROUP, Map.of(none, new OffsetAndMetadata(1))).all());
        fails(GroupIdNotFoundException.class, "of no group", admin.deleteConsumerGroupOffsets("none", Set.of(ZERO)).all());
        fails(GroupIdNotFoundException.class, "no group", admin.deleteConsumerGroups(List.of("none")).all());
        admin.deleteConsumerGroups(List.of(GROUP, OTHER)).all().get();
        fails(GroupIdNotFoundException.class, "a deleted group", admin.describeConsumerGroups(List.of(GROUP)).all());
        check(!lists(admin, new ListGroupsOptions(), GROUP), "it is listed no more");
        admin.deleteTopics(List.of(TOPIC)).all().get();
    }

    private static Map<TopicPartition, OffsetAndMetadata> offsets(Admin admin) throws Exception {
        return admin.listConsumerGroupOffsets(GROUP).partitionsToOffsetAndMetadata().get();
    }

    private AdminGroups() {}
}
