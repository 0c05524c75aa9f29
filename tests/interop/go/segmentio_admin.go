package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/segmentio/kafka-go"
)

func (s *segmentio) admin() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	versions, err := s.client.ApiVersions(ctx, &kafka.ApiVersionsRequest{})
	ok(err, "versions")
	check(versions.Error == nil && len(versions.ApiKeys) > 30, "versions: %v", versions)
	s.topics(ctx)
	s.configs(ctx)
	s.offsets(ctx)
	s.moves(ctx)
	s.groups(ctx)
	deleted, err := s.client.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: []string{"segment", "segment-never"}})
	ok(err, "delete")
	ok(deleted.Errors["segment"], "delete")
	refused(deleted.Errors["segment-never"], kafka.UnknownTopicOrPartition, "delete what never was")
}

func (s *segmentio) topic(ctx context.Context) kafka.Topic {
	found, err := s.client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{"segment"}})
	ok(err, "metadata")
	check(len(found.Brokers) == 3 && found.ClusterID != "", "metadata: %v", found)
	return found.Topics[0]
}

func (s *segmentio) topics(ctx context.Context) {
	s.createTopic("segment", 2, 3, map[string]string{"retention.ms": "3600000"})
	again := kafka.TopicConfig{Topic: "segment", NumPartitions: 2, ReplicationFactor: 3}
	created, err := s.client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{again}})
	ok(err, "create")
	refused(created.Errors["segment"], kafka.TopicAlreadyExists, "created twice")
	grow := func(to int32) error {
		found, err := s.client.CreatePartitions(ctx, &kafka.CreatePartitionsRequest{Topics: []kafka.TopicPartitionsConfig{{Name: "segment", Count: to}}})
		ok(err, "partitions")
		return found.Errors["segment"]
	}
	ok(grow(3), "add a partition")
	refused(grow(2), kafka.InvalidPartitionNumber, "fewer partitions")
	waitFor("three partitions", func() (bool, string) {
		found := s.topic(ctx)
		full := len(found.Partitions) == 3
		for _, partition := range found.Partitions {
			full = full && len(partition.Isr) == 3
		}
		return full, fmt.Sprint(found)
	})
}

func (s *segmentio) configs(ctx context.Context) {
	is := func(name, value string) {
		waitFor(name+"="+value, func() (bool, string) {
			asked := kafka.DescribeConfigRequestResource{ResourceType: kafka.ResourceTypeTopic, ResourceName: "segment", ConfigNames: []string{name}}
			found, err := s.client.DescribeConfigs(ctx, &kafka.DescribeConfigsRequest{Resources: []kafka.DescribeConfigRequestResource{asked}, IncludeSynonyms: true})
			ok(err, "describe configs")
			check(found.Resources[0].Error == nil && len(found.Resources[0].ConfigEntries) == 1, "described: %v", found)
			return found.Resources[0].ConfigEntries[0].ConfigValue == value, fmt.Sprint(found.Resources)
		})
	}
	is("retention.ms", "3600000")
	set := func(name, value string, operation kafka.ConfigOperation) error {
		found, err := s.client.IncrementalAlterConfigs(ctx, &kafka.IncrementalAlterConfigsRequest{Resources: []kafka.IncrementalAlterConfigsRequestResource{{
			ResourceType: kafka.ResourceTypeTopic,
			ResourceName: "segment",
			Configs:      []kafka.IncrementalAlterConfigsRequestConfig{{Name: name, Value: value, ConfigOperation: operation}},
		}}})
		ok(err, "alter")
		return found.Resources[0].Error
	}
	ok(set("retention.ms", "7200000", kafka.ConfigOperationSet), "set")
	is("retention.ms", "7200000")
	refused(set("retention.ms", "soon", kafka.ConfigOperationSet), kafka.InvalidConfiguration, "retention.ms=soon")
	_, err := s.client.AlterConfigs(ctx, &kafka.AlterConfigsRequest{Resources: []kafka.AlterConfigRequestResource{{
		ResourceType: kafka.ResourceTypeTopic,
		ResourceName: "segment",
		Configs:      []kafka.AlterConfigRequestConfig{{Name: "max.message.bytes", Value: "100000"}},
	}}})
	ok(err, "alter")
	is("max.message.bytes", "100000")
	is("retention.ms", "604800000")
}

func (s *segmentio) offsets(ctx context.Context) {
	var all []record
	for i := range 100 {
		all = append(all, record{value: make([]byte, 100), time: timeOf(i)})
	}
	s.produce("segment", "none", all)
	found, err := s.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{
		"segment": {kafka.FirstOffsetOf(0), kafka.LastOffsetOf(0), kafka.TimeOffsetOf(0, timeOf(40))},
	}})
	ok(err, "list offsets")
	one := found.Topics["segment"][0]
	_, there := one.Offsets[40]
	check(one.Error == nil && one.FirstOffset == 0 && one.LastOffset == 100 && there, "listed: %v", one)
}

func (s *segmentio) moves(ctx context.Context) {
	ids := func(brokers []kafka.Broker) []int {
		var out []int
		for _, broker := range brokers {
			out = append(out, broker.ID)
		}
		return out
	}
	partition := func() kafka.Partition {
		found := s.topic(ctx)
		at := slices.IndexFunc(found.Partitions, func(p kafka.Partition) bool { return p.ID == 0 })
		return found.Partitions[at]
	}
	all := ids(partition().Replicas)
	slices.Reverse(all)
	for _, to := range [][]int{all[:1], all} {
		moved, err := s.client.AlterPartitionReassignments(ctx, &kafka.AlterPartitionReassignmentsRequest{
			Topic:       "segment",
			Assignments: []kafka.AlterPartitionReassignmentsRequestAssignment{{PartitionID: 0, BrokerIDs: to}},
			Timeout:     limit,
		})
		ok(err, "reassign")
		ok(moved.Error, "reassign")
		ok(moved.PartitionResults[0].Error, "reassign")
		waitFor("the partition moves", func() (bool, string) {
			under, err := s.client.ListPartitionReassignments(ctx, &kafka.ListPartitionReassignmentsRequest{
				Topics:  map[string]kafka.ListPartitionReassignmentsRequestTopic{"segment": {PartitionIndexes: []int{0}}},
				Timeout: limit,
			})
			ok(err, "reassignments")
			ok(under.Error, "reassignments")
			found := partition()
			return len(under.Topics) == 0 && slices.Equal(ids(found.Replicas), to) && len(found.Isr) == len(to), fmt.Sprint(found, under)
		})
	}
	elected, err := s.client.ElectLeaders(ctx, &kafka.ElectLeadersRequest{Topic: "segment", Partitions: []int{0}, Timeout: limit})
	ok(err, "elect")
	for _, result := range elected.PartitionResults {
		refused(result.Error, kafka.ElectionNotNeeded, "elect who leads already")
	}
	check(partition().Leader.ID == all[0], "the leader is %v", partition().Leader)
}

func (s *segmentio) groups(ctx context.Context) {
	committed, err := s.client.OffsetCommit(ctx, &kafka.OffsetCommitRequest{
		GroupID:      "segment-simple",
		GenerationID: -1,
		Topics:       map[string][]kafka.OffsetCommit{"segment": {{Partition: 0, Offset: 40, Metadata: "by hand"}, {Partition: 1, Offset: 0}}},
	})
	ok(err, "commit")
	for _, each := range committed.Topics["segment"] {
		ok(each.Error, "commit")
	}
	fetch := func() []kafka.OffsetFetchPartition {
		fetched, err := s.client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: "segment-simple", Topics: map[string][]int{"segment": {0}}})
		ok(err, "fetch")
		ok(fetched.Error, "fetch")
		return fetched.Topics["segment"]
	}
	check(fetch()[0].CommittedOffset == 40 && fetch()[0].Metadata == "by hand", "fetched: %v", fetch())
	m := s.join("segment-live", "segment", "roundrobin", "segment-id")
	waitFor("the group is stable", func() (bool, string) {
		share := m.share()
		return len(share) == 3, fmt.Sprint(share)
	})
	// Of all brokers: the coordinator is one of them.
	names := []string{}
	found, err := s.client.ListGroups(ctx, &kafka.ListGroupsRequest{})
	ok(err, "list")
	ok(found.Error, "list")
	for _, group := range found.Groups {
		names = append(names, group.GroupID)
	}
	check(slices.Contains(names, "segment-live") && slices.Contains(names, "segment-simple"), "listed: %v", names)
	remove := func(group string) error {
		found, err := s.client.DeleteGroups(ctx, &kafka.DeleteGroupsRequest{GroupIDs: []string{group}})
		ok(err, "delete")
		return found.Errors[group]
	}
	refused(remove("segment-live"), kafka.NonEmptyGroup, "delete a group with members")
	m.leave()
	deleted, err := s.client.OffsetDelete(ctx, &kafka.OffsetDeleteRequest{GroupID: "segment-simple", Topics: map[string][]int{"segment": {0}}})
	ok(err, "delete an offset")
	ok(deleted.Error, "delete an offset")
	check(fetch()[0].CommittedOffset == -1, "what is left: %v", fetch())
	ok(remove("segment-simple"), "delete")
	refused(remove("segment-simple"), kafka.GroupIdNotFound, "delete twice")
	waitFor("the group can be deleted", func() (bool, string) {
		err := remove("segment-live")
		return err == nil, fmt.Sprint(err)
	})
}
