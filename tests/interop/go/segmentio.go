package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
)

// segmentio's kafka-go. It has no idempotent producer.
type segmentio struct {
	bootstrap string
	client    *kafka.Client
}

func newSegmentio(bootstrap string) client {
	return &segmentio{bootstrap, &kafka.Client{Addr: address(bootstrap), Transport: transport(), Timeout: limit}}
}

func address(bootstrap string) net.Addr { return kafka.TCP(strings.Split(bootstrap, ",")...) }

// Looks often where the leaders are.
func transport() *kafka.Transport { return &kafka.Transport{MetadataTTL: 200 * time.Millisecond} }

func (s *segmentio) name() string        { return "kafka-go" }
func (s *segmentio) balancers() []string { return []string{"range", "roundrobin", "rack-affinity"} }
func (s *segmentio) idempotent() bool    { return false }

func (s *segmentio) createTopic(topic string, partitions int32, replicas int16, configs map[string]string) {
	ctx, cancel := background()
	defer cancel()
	made := kafka.TopicConfig{Topic: topic, NumPartitions: int(partitions), ReplicationFactor: int(replicas)}
	for key, value := range configs {
		made.ConfigEntries = append(made.ConfigEntries, kafka.ConfigEntry{ConfigName: key, ConfigValue: value})
	}
	found, err := s.client.CreateTopics(ctx, &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{made}})
	ok(err, "create %s", topic)
	ok(found.Errors[topic], "create %s", topic)
	// A reader of a topic without a leader is told that it does not exist, and ends.
	waitFor("the leaders of "+topic, func() (bool, string) {
		found, err := s.client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{topic}})
		if err != nil {
			return false, err.Error()
		}
		for _, partition := range found.Topics[0].Partitions {
			if partition.Error != nil || partition.Leader.Host == "" {
				return false, fmt.Sprint(partition)
			}
		}
		return len(found.Topics[0].Partitions) == int(partitions), fmt.Sprint(found.Topics)
	})
}

var segmentioCodecs = map[string]kafka.Compression{
	"none":   0,
	"gzip":   kafka.Gzip,
	"snappy": kafka.Snappy,
	"lz4":    kafka.Lz4,
	"zstd":   kafka.Zstd,
}

// The partition is the one that the message was made for.
func writer(bootstrap, topic string) *kafka.Writer {
	return &kafka.Writer{
		Addr:            address(bootstrap),
		Topic:           topic,
		Transport:       transport(),
		RequiredAcks:    kafka.RequireAll,
		BatchTimeout:    2 * time.Millisecond,
		MaxAttempts:     300,
		WriteBackoffMax: 100 * time.Millisecond,
		Balancer: kafka.BalancerFunc(func(message kafka.Message, _ ...int) int {
			return message.WriterData.(made).partition
		}),
	}
}

type made struct {
	partition int
	done      func(int64, error)
}

func (s *segmentio) produce(topic, codec string, records []record) {
	ctx, cancel := background()
	defer cancel()
	w := writer(s.bootstrap, topic)
	w.Compression = segmentioCodecs[codec]
	var out []kafka.Message
	for _, r := range records {
		message := kafka.Message{Key: r.key, Value: r.value, Time: r.time, WriterData: made{partition: int(r.partition)}}
		for _, h := range r.headers {
			message.Headers = append(message.Headers, kafka.Header{Key: h.key, Value: h.value})
		}
		out = append(out, message)
	}
	ok(w.WriteMessages(ctx, out...), "produce to %s", topic)
	ok(w.Close(), "close the writer")
}

type segmentioReader struct {
	r *kafka.Reader
}

func (s *segmentio) open(topic string, partition int32, from position) reader {
	r := kafka.NewReader(kafka.ReaderConfig{
		Brokers:   strings.Split(s.bootstrap, ","),
		Topic:     topic,
		Partition: int(partition),
		MaxWait:   50 * time.Millisecond,
		MaxBytes:  1 << 20,
	})
	ctx, cancel := background()
	defer cancel()
	switch from.place {
	case atStart:
		ok(r.SetOffset(kafka.FirstOffset), "seek")
	case atEnd:
		ok(r.SetOffset(kafka.LastOffset), "seek")
	case atOffset:
		ok(r.SetOffset(from.value), "seek")
	case atTime:
		ok(r.SetOffsetAt(ctx, time.UnixMilli(from.value)), "seek to a time")
	}
	return &segmentioReader{r}
}

func (r *segmentioReader) next(patience time.Duration) (record, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	found, err := r.r.ReadMessage(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return record{}, false
	}
	ok(err, "read")
	out := record{partition: int32(found.Partition), offset: found.Offset, key: found.Key, value: found.Value, time: found.Time}
	for _, h := range found.Headers {
		out.headers = append(out.headers, header{h.Key, h.Value})
	}
	return out, true
}

func (r *segmentioReader) close() { ok(r.r.Close(), "close the reader") }

type segmentioMember struct {
	journal
	s                *segmentio
	r                *kafka.Reader
	group, topic, id string
	cancel           context.CancelFunc
	done             chan struct{}
}

func (s *segmentio) join(group, topic, balancer, id string) member {
	balancers := map[string]kafka.GroupBalancer{
		"range":         kafka.RangeGroupBalancer{},
		"roundrobin":    kafka.RoundRobinGroupBalancer{},
		"rack-affinity": kafka.RackAffinityGroupBalancer{},
	}
	r := kafka.NewReader(kafka.ReaderConfig{
		Brokers:           strings.Split(s.bootstrap, ","),
		GroupID:           group,
		Topic:             topic,
		Dialer:            &kafka.Dialer{ClientID: id, Timeout: limit},
		GroupBalancers:    []kafka.GroupBalancer{balancers[balancer]},
		StartOffset:       kafka.FirstOffset,
		HeartbeatInterval: 200 * time.Millisecond,
		JoinGroupBackoff:  100 * time.Millisecond,
		MaxWait:           100 * time.Millisecond,
		MaxBytes:          1 << 20,
	})
	ctx, cancel := context.WithCancel(context.Background())
	m := &segmentioMember{journal: newJournal(), s: s, r: r, group: group, topic: topic, id: id, cancel: cancel, done: make(chan struct{})}
	go m.consume(ctx)
	return m
}

// Commits whenever there is nothing more to read, and now and then.
func (m *segmentioMember) consume(ctx context.Context) {
	defer close(m.done)
	var pending []kafka.Message
	for ctx.Err() == nil {
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		found, err := m.r.FetchMessage(short)
		cancel()
		if err == nil {
			m.read(int32(found.Partition), found.Offset, found.Value)
			pending = append(pending, found)
		}
		if len(pending) > 0 && (err != nil || len(pending) >= 500) {
			// What could not be committed is read again, by whoever has the partition then.
			_ = m.r.CommitMessages(ctx, pending...)
			pending = nil
		}
	}
}

// The reader does not tell its partitions; the coordinator does.
func (m *segmentioMember) share() map[int32]bool {
	ctx, cancel := background()
	defer cancel()
	out := map[int32]bool{}
	found, err := m.s.client.DescribeGroups(ctx, &kafka.DescribeGroupsRequest{GroupIDs: []string{m.group}})
	if err != nil || found.Groups[0].Error != nil || found.Groups[0].GroupState != "Stable" {
		return out
	}
	for _, each := range found.Groups[0].Members {
		for _, topic := range each.MemberAssignments.Topics {
			for _, partition := range topic.Partitions {
				if each.ClientID == m.id && topic.Topic == m.topic {
					out[int32(partition)] = true
				}
			}
		}
	}
	return out
}

func (m *segmentioMember) leave() {
	m.cancel()
	<-m.done
	ok(m.r.Close(), "leave")
}

func (s *segmentio) committed(group, topic string) (map[int32]int64, error) {
	ctx, cancel := background()
	defer cancel()
	found, err := s.client.ConsumerOffsets(ctx, kafka.TopicAndGroup{Topic: topic, GroupId: group})
	out := map[int32]int64{}
	for partition, offset := range found {
		out[int32(partition)] = offset
	}
	return out, err
}

type segmentioSender struct {
	w *kafka.Writer
}

func (s *segmentio) sender(topic string) sender {
	w := writer(s.bootstrap, topic)
	w.Async = true
	w.Completion = func(messages []kafka.Message, err error) {
		for _, message := range messages {
			message.WriterData.(made).done(message.Offset, err)
		}
	}
	return &segmentioSender{w}
}

func (s *segmentioSender) send(partition int32, value []byte, done func(int64, error)) {
	ctx, cancel := background()
	defer cancel()
	ok(s.w.WriteMessages(ctx, kafka.Message{Value: value, WriterData: made{int(partition), done}}), "send")
}

func (s *segmentioSender) close() { ok(s.w.Close(), "close the writer") }
