package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/IBM/sarama"
)

func (s *saramaClient) detail(topic string) *sarama.TopicMetadata {
	found, err := s.manager.DescribeTopics([]string{topic})
	ok(err, "describe %s", topic)
	return found[0]
}

func (s *saramaClient) admin() {
	brokers, controller, err := s.manager.DescribeCluster()
	ok(err, "describe the cluster")
	check(len(brokers) == 3 && controller > 0, "%d brokers, controller %d", len(brokers), controller)
	s.topics()
	s.configs()
	s.offsets()
	s.moves()
	s.groups()
	ok(s.manager.DeleteTopic("admin"), "delete")
	refused(s.manager.DeleteTopic("admin-never"), sarama.ErrUnknownTopicOrPartition, "delete what never was")
	waitFor("the topic is gone", func() (bool, string) {
		found, err := s.manager.ListTopics()
		ok(err, "list")
		_, there := found["admin"]
		return !there, "it is listed"
	})
}

func (s *saramaClient) topics() {
	detail := &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 3}
	ok(s.manager.CreateTopic("admin", detail, true), "validate")
	s.createTopic("admin", 2, 3, map[string]string{"retention.ms": "3600000"})
	refused(s.manager.CreateTopic("admin", detail, false), sarama.ErrTopicAlreadyExists, "created twice")
	ok(s.manager.CreatePartitions("admin", 3, nil, true), "validate partitions")
	ok(s.manager.CreatePartitions("admin", 3, [][]int32{{2, 3, 1}}, false), "add a partition")
	refused(s.manager.CreatePartitions("admin", 2, nil, false), sarama.ErrInvalidPartitions, "fewer partitions")
	waitFor("three partitions", func() (bool, string) {
		found := s.detail("admin")
		full := len(found.Partitions) == 3
		for _, partition := range found.Partitions {
			full = full && len(partition.Isr) == 3
			full = full && (partition.ID != 2 || slices.Equal(partition.Replicas, []int32{2, 3, 1}))
		}
		return full, fmt.Sprint(found)
	})
	listed, err := s.manager.ListTopics()
	ok(err, "list")
	found := listed["admin"]
	check(found.NumPartitions == 3 && found.ReplicationFactor == 3, "listed: %v", found)
	value := found.ConfigEntries["retention.ms"]
	check(value != nil && *value == "3600000", "listed with %v", found.ConfigEntries)
}

func (s *saramaClient) configs() {
	is := func(name, value string, byDefault bool) {
		waitFor(name+"="+value, func() (bool, string) {
			found, err := s.manager.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: "admin", ConfigNames: []string{name}})
			ok(err, "describe configs")
			check(len(found) == 1, "%d configs named %s", len(found), name)
			return found[0].Value == value && (found[0].Source == sarama.SourceDefault) == byDefault, fmt.Sprint(found[0])
		})
	}
	is("retention.ms", "3600000", false)
	value := "7200000"
	set := map[string]sarama.IncrementalAlterConfigsEntry{"retention.ms": {Operation: sarama.IncrementalAlterConfigsOperationSet, Value: &value}}
	ok(s.manager.IncrementalAlterConfig(sarama.TopicResource, "admin", set, false), "set")
	is("retention.ms", "7200000", false)
	unset := map[string]sarama.IncrementalAlterConfigsEntry{"retention.ms": {Operation: sarama.IncrementalAlterConfigsOperationDelete}}
	ok(s.manager.IncrementalAlterConfig(sarama.TopicResource, "admin", unset, false), "delete")
	is("retention.ms", "604800000", true)
	bytes := "100000"
	ok(s.manager.AlterConfig(sarama.TopicResource, "admin", map[string]*string{"max.message.bytes": &bytes}, false), "alter")
	is("max.message.bytes", "100000", false)
	bytes = "many"
	refused(s.manager.AlterConfig(sarama.TopicResource, "admin", map[string]*string{"max.message.bytes": &bytes}, false), sarama.ErrInvalidConfig, "max.message.bytes=many")
	found, err := s.manager.DescribeConfig(sarama.ConfigResource{Type: sarama.BrokerResource, Name: "2", ConfigNames: []string{"node.id"}})
	ok(err, "describe a broker")
	check(len(found) == 1 && found[0].Value == "2" && found[0].ReadOnly, "a broker: %v", found)
}

func (s *saramaClient) offsets() {
	var all []record
	for i := range 100 {
		all = append(all, record{value: make([]byte, 100), time: timeOf(i)})
	}
	s.produce("admin", "none", all)
	listed, err := s.manager.ListOffsets(map[string]map[int32]int64{"admin": {0: sarama.OffsetNewest, 1: sarama.OffsetOldest}}, nil)
	ok(err, "list offsets")
	check(listed["admin"][0].Offset == 100 && listed["admin"][1].Offset == 0, "listed: %v", listed)
	ok(s.manager.DeleteRecords("admin", map[int32]int64{0: 30}), "delete records")
	oldest, err := s.client.GetOffset("admin", 0, sarama.OffsetOldest)
	ok(err, "the oldest")
	check(oldest == 30, "the oldest is %d", oldest)
	check(s.manager.DeleteRecords("admin", map[int32]int64{0: 101}) != nil, "more records are deleted than there are")
	dirs, err := s.manager.DescribeLogDirs([]int32{1, 2, 3})
	ok(err, "log dirs")
	for broker := range int32(3) {
		bytes := int64(0)
		for _, dir := range dirs[broker+1] {
			check(dir.ErrorCode == sarama.ErrNoError && dir.TotalBytes > 0, "a log dir: %v", dir)
			for _, topic := range dir.Topics {
				for _, partition := range topic.Partitions {
					if topic.Topic == "admin" {
						bytes += partition.Size
					}
				}
			}
		}
		check(bytes > 10_000, "%d bytes on broker %d", bytes, broker+1)
	}
}

func (s *saramaClient) moves() {
	replicas := func() []int32 {
		for _, partition := range s.detail("admin").Partitions {
			if partition.ID == 2 {
				return partition.Replicas
			}
		}
		return nil
	}
	move := func(to []int32) {
		// The others stay where they are.
		assignment := [][]int32{nil, nil, to}
		for _, partition := range s.detail("admin").Partitions {
			if partition.ID < 2 {
				assignment[partition.ID] = partition.Replicas
			}
		}
		ok(s.manager.AlterPartitionReassignments("admin", assignment), "reassign")
		waitFor("the partition moves", func() (bool, string) {
			under, err := s.manager.ListPartitionReassignments("admin", []int32{0, 1, 2})
			ok(err, "reassignments")
			found := replicas()
			return len(under["admin"]) == 0 && slices.Equal(found, to), fmt.Sprint(found, under)
		})
	}
	move([]int32{3, 1})
	move([]int32{3, 1, 2})
	results, err := s.manager.ElectLeaders(sarama.PreferredElection, map[string][]int32{"admin": {2}})
	ok(err, "elect")
	result := results["admin"][2].ErrorCode
	check(result == sarama.ErrNoError || result == sarama.ErrElectionNotNeeded, "elect: %v", result)
	waitFor("the preferred leader", func() (bool, string) {
		ok(s.client.RefreshMetadata("admin"), "metadata")
		leader, err := s.client.Leader("admin", 2)
		return err == nil && leader.ID() == 3, fmt.Sprint(leader, err)
	})
}

func (s *saramaClient) groups() {
	offsets := map[string]map[int32]sarama.OffsetAndMetadata{"admin": {0: {Offset: 40, Metadata: "by hand", LeaderEpoch: -1}, 1: {Offset: 0, LeaderEpoch: -1}}}
	_, err := s.manager.AlterConsumerGroupOffsets("admin-simple", offsets, nil)
	ok(err, "commit")
	found, err := s.manager.ListConsumerGroupOffsets("admin-simple", map[string][]int32{"admin": {0, 1, 2}})
	ok(err, "fetch")
	check(found.GetBlock("admin", 0).Offset == 40 && found.GetBlock("admin", 0).Metadata == "by hand", "fetched: %v", found.Blocks)
	check(found.GetBlock("admin", 2).Offset == -1, "fetched: %v", found.Blocks)
	m := s.join("admin-live", "admin", "range", "admin-id")
	describe := func() *sarama.GroupDescription {
		found, err := s.manager.DescribeConsumerGroups([]string{"admin-live"})
		ok(err, "describe")
		return found[0]
	}
	waitFor("the group is stable", func() (bool, string) {
		return describe().State == "Stable" && len(m.share()) == 3, describe().State
	})
	live := describe()
	check(live.Protocol == "range" && live.ProtocolType == "consumer" && len(live.Members) == 1, "described: %v", live)
	for _, one := range live.Members {
		assigned, err := one.GetMemberAssignment()
		ok(err, "an assignment")
		check(one.ClientId == "admin-id" && len(assigned.Topics["admin"]) == 3, "a member: %v", one)
	}
	listed, err := s.manager.ListConsumerGroups()
	ok(err, "list")
	check(listed["admin-live"] == "consumer", "listed: %v", listed)
	_, there := listed["admin-simple"]
	check(there, "listed: %v", listed)
	coordinator, err := s.manager.Coordinator("admin-live")
	ok(err, "a coordinator")
	check(coordinator.ID() > 0, "coordinator %d", coordinator.ID())
	refused(s.manager.DeleteConsumerGroup("admin-live"), sarama.ErrNonEmptyGroup, "delete a group with members")
	m.leave()
	waitFor("the group is empty", func() (bool, string) { return describe().State == "Empty", describe().State })
	ok(s.manager.DeleteConsumerGroupOffset("admin-simple", "admin", 0), "delete an offset")
	rest, err := s.committed("admin-simple", "admin")
	ok(err, "fetch")
	_, there = rest[0]
	check(!there && rest[1] == 0, "what is left: %v", rest)
	s.static()
	ok(s.manager.DeleteConsumerGroup("admin-live"), "delete")
	ok(s.manager.DeleteConsumerGroup("admin-simple"), "delete")
	refused(s.manager.DeleteConsumerGroup("admin-never"), sarama.ErrGroupIDNotFound, "delete what never was")
}

type nothing struct{ joined chan struct{} }

func (n nothing) Setup(sarama.ConsumerGroupSession) error {
	close(n.joined)
	return nil
}

func (nothing) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (nothing) ConsumeClaim(session sarama.ConsumerGroupSession, _ sarama.ConsumerGroupClaim) error {
	<-session.Context().Done()
	return nil
}

// A static member stays when it ends, and goes when it is sent away.
func (s *saramaClient) static() {
	config := s.config()
	config.Consumer.Group.InstanceId = "admin-instance"
	group, err := sarama.NewConsumerGroup(s.addresses(), "admin-live", config)
	ok(err, "a static member")
	ctx, cancel := context.WithCancel(context.Background())
	handler := nothing{make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- group.Consume(ctx, []string{"admin"}, handler) }()
	<-handler.joined
	cancel()
	err = <-ended
	check(err == nil || errors.Is(err, context.Canceled), "consume: %v", err)
	ok(group.Close(), "end")
	described, err := s.manager.DescribeConsumerGroups([]string{"admin-live"})
	ok(err, "describe")
	check(len(described[0].Members) == 1, "the static member has left by itself")
	left, err := s.manager.RemoveMemberFromConsumerGroup("admin-live", []string{"admin-instance"})
	ok(err, "remove")
	check(left.Err == sarama.ErrNoError && len(left.Members) == 1 && left.Members[0].Err == sarama.ErrNoError, "removed: %v", left)
}
