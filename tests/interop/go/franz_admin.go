package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func refused(err, want error, what string) {
	check(errors.Is(err, want), "%s: %v, not %v", what, err, want)
}

func (f *franz) admin() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	f.topics(ctx)
	f.partitions(ctx)
	f.configs(ctx)
	f.offsets(ctx)
	f.moves(ctx)
	f.groups(ctx)
	f.features(ctx)
}

func (f *franz) topic(ctx context.Context, topic string) kadm.TopicDetail {
	found, err := f.adm.ListTopics(ctx, topic)
	ok(err, "list %s", topic)
	return found[topic]
}

func (f *franz) topics(ctx context.Context) {
	meta, err := f.adm.BrokerMetadata(ctx)
	ok(err, "metadata")
	check(len(meta.Brokers) == 3 && meta.Cluster != "", "the cluster: %v", meta)
	brokers, err := f.adm.ListBrokers(ctx)
	ok(err, "brokers")
	check(slices.Equal(brokers.NodeIDs(), []int32{1, 2, 3}), "brokers %v", brokers)

	dry, err := f.adm.ValidateCreateTopics(ctx, 2, 3, nil, "kadm", "kadm-2")
	ok(err, "validate")
	ok(dry.Error(), "validate")
	check(!f.exists(ctx, "kadm"), "a topic that was only validated is there")
	_, err = f.adm.CreateTopic(ctx, 2, 4, nil, "kadm")
	refused(err, kerr.InvalidReplicationFactor, "four replicas on three brokers")
	_, err = f.adm.CreateTopic(ctx, 0, 3, nil, "kadm")
	refused(err, kerr.InvalidPartitions, "no partitions")
	_, err = f.adm.CreateTopic(ctx, 1, 1, nil, "with space")
	refused(err, kerr.InvalidTopicException, "a space in a name")
	_, err = f.adm.CreateTopic(ctx, 1, 1, map[string]*string{"retention.ms": kadm.StringPtr("soon")}, "kadm")
	refused(err, kerr.InvalidConfig, "retention.ms=soon")

	configs := map[string]*string{"retention.ms": kadm.StringPtr("3600000")}
	created, err := f.adm.CreateTopics(ctx, 2, 3, configs, "kadm", "kadm-2")
	ok(err, "create")
	ok(created.Error(), "create")
	answer := created["kadm"]
	check(answer.NumPartitions == 2 && answer.ReplicationFactor == 3 && answer.ID != kadm.TopicID{}, "created: %v", answer)
	config := answer.Configs["retention.ms"]
	check(config.MaybeValue() == "3600000", "created with %v", config)
	_, err = f.adm.CreateTopic(ctx, 2, 3, nil, "kadm")
	refused(err, kerr.TopicAlreadyExists, "created twice")
	f.settled(ctx, "kadm", 2)
	found := f.topic(ctx, "kadm")
	check(found.ID == answer.ID && !found.IsInternal, "listed: %v", found)
	for _, partition := range found.Partitions.Sorted() {
		check(len(partition.Replicas) == 3 && len(partition.ISR) == 3, "a partition: %v", partition)
	}

	deleted, err := f.adm.DeleteTopics(ctx, "kadm-2", "kadm-never")
	ok(err, "delete")
	ok(deleted["kadm-2"].Err, "delete")
	refused(deleted["kadm-never"].Err, kerr.UnknownTopicOrPartition, "delete what never was")
	waitFor("the topic is gone", func() (bool, string) { return !f.exists(ctx, "kadm-2"), "it is listed" })
}

func (f *franz) exists(ctx context.Context, topic string) bool {
	found, err := f.adm.ListTopics(ctx)
	ok(err, "list")
	return found.Has(topic)
}

// Waits until each of the topic's partitions has a leader and all replicas in sync.
func (f *franz) settled(ctx context.Context, topic string, partitions int) {
	waitFor(topic+" is settled", func() (bool, string) {
		found := f.topic(ctx, topic)
		settled := found.Err == nil && len(found.Partitions) == partitions
		for _, partition := range found.Partitions {
			settled = settled && partition.Leader > 0 && len(partition.ISR) == len(partition.Replicas)
		}
		return settled, fmt.Sprint(found)
	})
}

func (f *franz) partitions(ctx context.Context) {
	dry, err := f.adm.ValidateCreatePartitions(ctx, 2, "kadm")
	ok(err, "validate")
	ok(dry.Error(), "validate")
	check(len(f.topic(ctx, "kadm").Partitions) == 2, "partitions that were only validated are there")
	added, err := f.adm.CreatePartitions(ctx, 2, "kadm")
	ok(err, "add partitions")
	ok(added.Error(), "add partitions")
	f.settled(ctx, "kadm", 4)
	fewer, err := f.adm.UpdatePartitions(ctx, 3, "kadm")
	ok(err, "fewer partitions")
	refused(fewer.Error(), kerr.InvalidPartitions, "fewer partitions")
}

func (f *franz) config(ctx context.Context, topic, name string) kadm.Config {
	found, err := f.adm.DescribeTopicConfigs(ctx, topic)
	ok(err, "describe configs")
	resource, err := found.On(topic, nil)
	ok(err, "describe configs")
	ok(resource.Err, "describe configs")
	for _, config := range resource.Configs {
		if config.Key == name {
			return config
		}
	}
	check(false, "%s has no %s", topic, name)
	return kadm.Config{}
}

func altered(rs kadm.AlterConfigsResponses, err error, name string) error {
	ok(err, "alter configs")
	one, err := rs.On(name, nil)
	ok(err, "alter configs")
	return one.Err
}

func (f *franz) configs(ctx context.Context) {
	// What was set shows at every broker, but not at once.
	is := func(name, value string, source kmsg.ConfigSource) {
		waitFor(name+"="+value, func() (bool, string) {
			found := f.config(ctx, "kadm", name)
			return found.MaybeValue() == value && found.Source == source, fmt.Sprint(found.MaybeValue(), found.Source)
		})
	}
	set := func(op kadm.IncrementalOp, name, value string) error {
		rs, err := f.adm.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: op, Name: name, Value: &value}}, "kadm")
		return altered(rs, err, "kadm")
	}
	is("retention.ms", "3600000", kmsg.ConfigSourceDynamicTopicConfig)
	is("cleanup.policy", "delete", kmsg.ConfigSourceDefaultConfig)
	ok(set(kadm.SetConfig, "retention.ms", "7200000"), "set")
	is("retention.ms", "7200000", kmsg.ConfigSourceDynamicTopicConfig)
	ok(set(kadm.AppendConfig, "cleanup.policy", "compact"), "append")
	is("cleanup.policy", "delete,compact", kmsg.ConfigSourceDynamicTopicConfig)
	ok(set(kadm.SubtractConfig, "cleanup.policy", "compact"), "subtract")
	is("cleanup.policy", "delete", kmsg.ConfigSourceDynamicTopicConfig)
	ok(set(kadm.DeleteConfig, "cleanup.policy", ""), "delete")
	is("cleanup.policy", "delete", kmsg.ConfigSourceDefaultConfig)
	refused(set(kadm.SetConfig, "retention.ms", "soon"), kerr.InvalidConfig, "retention.ms=soon")
	refused(set(kadm.SetConfig, "no.such", "1"), kerr.InvalidConfig, "no.such=1")

	state := []kadm.AlterConfig{{Name: "max.message.bytes", Value: kadm.StringPtr("100000")}}
	rs, err := f.adm.ValidateAlterTopicConfigsState(ctx, state, "kadm")
	ok(altered(rs, err, "kadm"), "validate")
	is("retention.ms", "7200000", kmsg.ConfigSourceDynamicTopicConfig)
	rs, err = f.adm.AlterTopicConfigsState(ctx, state, "kadm")
	ok(altered(rs, err, "kadm"), "state")
	is("max.message.bytes", "100000", kmsg.ConfigSourceDynamicTopicConfig)
	is("retention.ms", "604800000", kmsg.ConfigSourceDefaultConfig)
	found, err := f.adm.DescribeTopicConfigs(ctx, "kadm-never")
	ok(err, "describe configs")
	_, err = found.On("kadm-never", func(r *kadm.ResourceConfig) error { return r.Err })
	refused(err, kerr.UnknownTopicOrPartition, "the configs of what never was")

	one := func(id int32, op kadm.IncrementalOp) {
		rs, err := f.adm.AlterBrokerConfigs(ctx, []kadm.AlterConfig{{Op: op, Name: "log.cleaner.threads", Value: kadm.StringPtr("2")}}, id)
		ok(altered(rs, err, strconv.Itoa(int(id))), "broker %d", id)
	}
	shows := func(id int32, want string) {
		waitFor("log.cleaner.threads", func() (bool, string) {
			found, err := f.adm.DescribeBrokerConfigs(ctx, id)
			ok(err, "describe broker %d", id)
			broker, err := found.On(strconv.Itoa(int(id)), nil)
			ok(err, "describe broker %d", id)
			at := slices.IndexFunc(broker.Configs, func(c kadm.Config) bool { return c.Key == "log.cleaner.threads" })
			check(at >= 0, "broker %d has no log.cleaner.threads", id)
			return broker.Configs[at].MaybeValue() == want, broker.Configs[at].MaybeValue()
		})
	}
	one(2, kadm.SetConfig)
	shows(2, "2")
	shows(3, "1")
	listed, err := f.adm.ListConfigResources(ctx)
	ok(err, "config resources")
	ok(listed.Err, "config resources")
	check(slices.Contains(listed.Names(), "kadm"), "config resources: %v", listed.Names())
	one(2, kadm.DeleteConfig)
	shows(2, "1")
}

func at(listed kadm.ListedOffsets, err error, partition int32) kadm.ListedOffset {
	ok(err, "list offsets")
	ok(listed.Error(), "list offsets")
	found, there := listed.Lookup("kadm", partition)
	check(there, "partition %d is not listed", partition)
	return found
}

func (f *franz) offsets(ctx context.Context) {
	var all []record
	for i := range 100 {
		all = append(all, record{value: make([]byte, 100), time: timeOf(i)})
	}
	f.produce("kadm", "none", all)
	listed, err := f.adm.ListStartOffsets(ctx, "kadm")
	check(at(listed, err, 0).Offset == 0, "start: %v", listed)
	listed, err = f.adm.ListEndOffsets(ctx, "kadm")
	check(at(listed, err, 0).Offset == 100 && at(listed, err, 1).Offset == 0, "end: %v", listed)
	listed, err = f.adm.ListCommittedOffsets(ctx, "kadm")
	check(at(listed, err, 0).Offset == 100, "committed: %v", listed)
	listed, err = f.adm.ListOffsetsAfterMilli(ctx, timeOf(40).UnixMilli()-1, "kadm")
	found := at(listed, err, 0)
	check(found.Offset == 40 && found.Timestamp == timeOf(40).UnixMilli(), "by time: %v", found)
	check(at(listed, err, 1).Offset == 0, "by time in an empty partition: the end: %v", listed)
	listed, err = f.adm.ListMaxTimestampOffsets(ctx, "kadm")
	check(at(listed, err, 0).Offset == 99, "the greatest time: %v", listed)
	listed, err = f.adm.ListLocalLogStartOffsets(ctx, "kadm")
	check(at(listed, err, 0).Offset == 0, "the local start: %v", listed)

	epoch := f.topic(ctx, "kadm").Partitions[0].LeaderEpoch
	asked := kadm.OffsetForLeaderEpochRequest{}
	asked.Add("kadm", 0, epoch)
	epochs, err := f.adm.OffsetForLeaderEpoch(ctx, asked)
	ok(err, "the end of an epoch")
	end := epochs["kadm"][0]
	check(end.Err == nil && end.EndOffset == 100 && end.LeaderEpoch == epoch, "the end of epoch %d: %v", epoch, end)

	var set kadm.TopicsSet
	set.Add("kadm", 0)
	producers, err := f.adm.DescribeProducers(ctx, set)
	ok(err, "producers")
	several := producers.SortedProducers()
	check(len(several) == 1 && several[0].LastSequence == 99 && several[0].ProducerID >= 0, "producers: %v", several)

	before := func(offset int64) (kadm.DeleteRecordsResponse, error) {
		var offsets kadm.Offsets
		offsets.AddOffset("kadm", 0, offset, -1)
		rs, err := f.adm.DeleteRecords(ctx, offsets)
		ok(err, "delete records")
		one, there := rs.Lookup("kadm", 0)
		check(there, "delete records: %v", rs)
		return one, one.Err
	}
	one, err := before(30)
	ok(err, "delete records")
	check(one.LowWatermark == 30, "the low watermark: %v", one)
	_, err = before(101)
	refused(err, kerr.OffsetOutOfRange, "delete more than there is")
	listed, err = f.adm.ListStartOffsets(ctx, "kadm")
	check(at(listed, err, 0).Offset == 30, "start: %v", listed)
	r := f.open("kadm", 0, position{atStart, 0})
	check(next(r).offset == 30, "the first record is not where the log starts")
	r.close()

	dirs, err := f.adm.DescribeAllLogDirs(ctx, set)
	ok(err, "log dirs")
	check(len(dirs) == 3, "log dirs of %d brokers", len(dirs))
	for broker, each := range dirs {
		ok(each.Error(), "log dirs of %d", broker)
		found, there := each.LookupPartition("kadm", 0)
		check(there && found.Size > 10_000 && !found.IsFuture, "on broker %d: %v", broker, found)
	}
}

func (f *franz) moves(ctx context.Context) {
	before := f.topic(ctx, "kadm").Partitions[0]
	replicas := func() []int32 { return f.topic(ctx, "kadm").Partitions[0].Replicas }
	assign := func(to []int32) error {
		request := kadm.AlterPartitionAssignmentsReq{}
		if to == nil {
			request.CancelAssign("kadm", 0)
		} else {
			request.Assign("kadm", 0, to)
		}
		rs, err := f.adm.AlterPartitionAssignments(ctx, request)
		ok(err, "reassign")
		return rs["kadm"][0].Err
	}
	var set kadm.TopicsSet
	set.Add("kadm", 0)
	moved := func(to []int32) {
		waitFor("the partition moves", func() (bool, string) {
			under, err := f.adm.ListPartitionReassignments(ctx, set)
			ok(err, "reassignments")
			found := replicas()
			return len(under["kadm"]) == 0 && slices.Equal(found, to), fmt.Sprint(found, under)
		})
	}
	refused(assign(nil), kerr.NoReassignmentInProgress, "cancel nothing")
	refused(assign([]int32{1, 2, 9}), kerr.InvalidReplicaAssignment, "a broker that is not there")
	// The other order: the leader stays, until its election is asked for.
	slices.Reverse(before.Replicas)
	ok(assign(before.Replicas), "reorder")
	moved(before.Replicas)
	elected := func(how kadm.ElectLeadersHow) error {
		rs, err := f.adm.ElectLeaders(ctx, how, set)
		ok(err, "elect")
		return rs["kadm"][0].Err
	}
	if err := elected(kadm.ElectPreferredReplica); err != nil {
		// The cluster's own balance may have been faster.
		refused(err, kerr.ElectionNotNeeded, "elect")
	}
	waitFor("the preferred leader", func() (bool, string) {
		leader := f.topic(ctx, "kadm").Partitions[0].Leader
		return leader == before.Replicas[0], fmt.Sprint(leader)
	})
	refused(elected(kadm.ElectPreferredReplica), kerr.ElectionNotNeeded, "elect again")
	refused(elected(kadm.ElectLiveReplica), kerr.ElectionNotNeeded, "elect unclean")
	// Away from a broker, and back with all records.
	ok(assign(before.Replicas[:1]), "shrink")
	moved(before.Replicas[:1])
	ok(assign(before.Replicas[1:2]), "move")
	moved(before.Replicas[1:2])
	ok(assign(before.Replicas), "grow")
	moved(before.Replicas)
	f.settled(ctx, "kadm", 4)
	listed, err := f.adm.ListEndOffsets(ctx, "kadm")
	check(at(listed, err, 0).Offset == 100, "the end after the moves: %v", listed)
}

func (f *franz) groups(ctx context.Context) {
	// Without members, as by a tool.
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: "kadm", Partition: 0, At: 40, LeaderEpoch: -1, Metadata: "by hand"})
	offsets.AddOffset("kadm", 1, 0, -1)
	ok(f.adm.CommitAllOffsets(ctx, "kadm-simple", offsets), "commit")
	many := f.adm.FetchManyOffsets(ctx, "kadm-simple", "kadm-never")
	ok(many.Error(), "fetch")
	found, there := many["kadm-simple"].Fetched.Lookup("kadm", 0)
	check(there && found.At == 40 && found.Metadata == "by hand", "fetched: %v", found)
	check(len(many["kadm-never"].Fetched) == 0, "of a group that never was: %v", many["kadm-never"])
	id := f.topic(ctx, "kadm").ID
	var byID kadm.OffsetsByID
	byID.Add(kadm.Offset{TopicID: id, Partition: 0, At: 50, LeaderEpoch: -1})
	ok(f.adm.CommitAllOffsetsByID(ctx, "kadm-simple", byID), "commit by id")
	ids, err := f.adm.FetchOffsetsByID(ctx, "kadm-simple")
	ok(err, "fetch by id")
	check(ids[id][0].At == 50, "fetched by id: %v", ids)
	lags, err := f.adm.Lag(ctx, "kadm-simple")
	ok(err, "lag")
	ok(lags.Error(), "lag")
	check(lags["kadm-simple"].Lag.Total() == 50 && lags["kadm-simple"].State == "Empty", "lag: %v", lags)

	// With a static member.
	m := f.joinAs("kadm-live", "kadm", "cooperative-sticky", "kadm-id", kgo.InstanceID("kadm-instance"))
	describe := func(group string) kadm.DescribedGroup {
		described, err := f.adm.DescribeGroups(ctx, group)
		ok(err, "describe")
		return described[group]
	}
	waitFor("the group is stable", func() (bool, string) {
		found := describe("kadm-live")
		return found.State == "Stable" && len(m.share()) == 4, fmt.Sprint(found)
	})
	live := describe("kadm-live")
	check(live.Protocol == "cooperative-sticky" && live.ProtocolType == "consumer" && len(live.Members) == 1, "described: %v", live)
	one := live.Members[0]
	check(one.ClientID == "kadm-id" && one.InstanceID != nil && *one.InstanceID == "kadm-instance" && one.ClientHost != "", "a member: %v", one)
	assigned, there := one.Assigned.AsConsumer()
	check(there && len(assigned.Topics) == 1 && len(assigned.Topics[0].Partitions) == 4, "assigned: %v", assigned)
	listed, err := f.adm.ListGroups(ctx)
	ok(err, "list")
	check(listed["kadm-simple"].State == "Empty" && listed["kadm-live"].State == "Stable", "listed: %v", listed)
	check(listed["kadm-live"].ProtocolType == "consumer" && listed["kadm-live"].GroupType == "classic", "listed: %v", listed["kadm-live"])
	listed, err = f.adm.ListGroups(ctx, "Empty")
	ok(err, "list")
	check(listed["kadm-simple"].Group != "" && listed["kadm-live"].Group == "", "listed by state: %v", listed)
	listed, err = f.adm.ListGroupsByType(ctx, []string{"consumer"})
	ok(err, "list")
	check(len(listed) == 0, "listed by type: %v", listed)
	coordinators := f.adm.FindGroupCoordinators(ctx, "kadm-live", "kadm-simple")
	ok(coordinators.Error(), "coordinators")
	check(coordinators["kadm-live"].NodeID == live.Coordinator.NodeID, "coordinators: %v", coordinators)

	waitFor("the member has committed", func() (bool, string) {
		found, err := f.committed("kadm-live", "kadm")
		return err == nil && found[0] == 100, fmt.Sprint(found, err)
	})
	_, err = f.adm.DeleteGroup(ctx, "kadm-live")
	refused(err, kerr.NonEmptyGroup, "delete a group with members")
	var set kadm.TopicsSet
	set.Add("kadm", 0)
	deleted, err := f.adm.DeleteOffsets(ctx, "kadm-live", set)
	ok(err, "delete offsets")
	refused(deleted.Error(), kerr.GroupSubscribedToTopic, "delete offsets in use")
	deleted, err = f.adm.DeleteOffsets(ctx, "kadm-simple", set)
	ok(err, "delete offsets")
	ok(deleted.Error(), "delete offsets")
	rest, err := f.committed("kadm-simple", "kadm")
	ok(err, "fetch")
	_, there = rest[0]
	check(!there && rest[1] == 0, "what is left: %v", rest)

	// A static member stays when it ends, and goes when it is sent away.
	m.leave()
	check(len(describe("kadm-live").Members) == 1, "the static member has left by itself")
	left, err := f.adm.LeaveGroup(ctx, kadm.LeaveGroup("kadm-live").InstanceIDs("kadm-instance", "kadm-nobody").Reason("the test ends"))
	ok(err, "leave")
	ok(left["kadm-instance"].Err, "leave")
	refused(left["kadm-nobody"].Err, kerr.UnknownMemberID, "who is not there leaves")
	waitFor("the group is empty", func() (bool, string) {
		found := describe("kadm-live")
		return found.State == "Empty", found.State
	})
	gone, err := f.adm.DeleteGroups(ctx, "kadm-live", "kadm-simple", "kadm-never")
	ok(err, "delete groups")
	ok(gone["kadm-live"].Err, "delete kadm-live")
	ok(gone["kadm-simple"].Err, "delete kadm-simple")
	refused(gone["kadm-never"].Err, kerr.GroupIDNotFound, "delete what never was")
}

func (f *franz) features(ctx context.Context) {
	versions, err := f.adm.ApiVersions(ctx)
	ok(err, "versions")
	check(len(versions) == 3, "versions of %d brokers", len(versions))
	for _, each := range versions {
		ok(each.Err, "versions")
		most, there := each.KeyMaxVersion(kmsg.Produce.Int16())
		check(there && most >= 12, "Produce up to %d", most)
	}
	updated, err := f.adm.UpdateFeatures(ctx, true, kadm.FeatureUpdate{Feature: "no.such.version", MaxVersionLevel: 1, UpgradeType: 1})
	if err == nil {
		err = updated.Error()
	}
	check(err != nil, "a feature that is not there is updated")
	deleted, err := f.adm.DeleteTopics(ctx, "kadm")
	ok(err, "delete")
	ok(deleted.Error(), "delete")
}
