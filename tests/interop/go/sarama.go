package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// sarama, with the idempotent producer.
type saramaClient struct {
	bootstrap string
	called    string
	version   sarama.KafkaVersion
	client    sarama.Client
	manager   sarama.ClusterAdmin
}

// It speaks the newest versions that it has.
func newSarama(bootstrap string) client {
	return openSarama(&saramaClient{bootstrap: bootstrap, called: "sarama", version: sarama.MaxVersion})
}

// It speaks what Kafka 2.1 did, as it is told to in applications that have not been touched for long.
func newSaramaOld(bootstrap string) client {
	return openSarama(&saramaClient{bootstrap: bootstrap, called: "sarama-2.1", version: sarama.V2_1_0_0})
}

func openSarama(s *saramaClient) client {
	var err error
	s.client, err = sarama.NewClient(s.addresses(), s.config())
	ok(err, "a client")
	s.manager, err = sarama.NewClusterAdminFromClient(s.client)
	ok(err, "an admin client")
	return s
}

func (s *saramaClient) addresses() []string { return strings.Split(s.bootstrap, ",") }

func (s *saramaClient) config() *sarama.Config {
	config := sarama.NewConfig()
	config.Version = s.version
	config.Metadata.Retry.Max = 100
	config.Metadata.Retry.Backoff = 100 * time.Millisecond
	config.Admin.Timeout = limit
	config.Net.MaxOpenRequests = 1
	config.Producer.Idempotent = true
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Retry.Max = 200
	config.Producer.Return.Successes = true
	config.Producer.Partitioner = sarama.NewManualPartitioner
	config.Producer.Flush.Frequency = 2 * time.Millisecond
	config.Consumer.MaxWaitTime = 50 * time.Millisecond
	config.Consumer.Retry.Backoff = 100 * time.Millisecond
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	config.Consumer.Offsets.AutoCommit.Interval = 50 * time.Millisecond
	config.Consumer.Group.Heartbeat.Interval = 200 * time.Millisecond
	config.Consumer.Group.Rebalance.Retry.Backoff = 100 * time.Millisecond
	config.Consumer.Group.Rebalance.Retry.Max = 200
	return config
}

func (s *saramaClient) name() string { return s.called }
func (s *saramaClient) balancers() []string {
	if !s.version.IsAtLeast(sarama.V2_4_0_0) {
		return []string{"range", "roundrobin", "sticky"}
	}
	return []string{"range", "roundrobin", "sticky", "cooperative-sticky"}
}

func (s *saramaClient) idempotent() bool { return true }

func (s *saramaClient) createTopic(topic string, partitions int32, replicas int16, configs map[string]string) {
	settings := map[string]*string{}
	for key, value := range configs {
		settings[key] = &value
	}
	detail := &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: replicas, ConfigEntries: settings}
	ok(s.manager.CreateTopic(topic, detail, false), "create %s", topic)
	// Its producers ask for the partitions once and retry too little for one that is made right now.
	waitFor("the leaders of "+topic, func() (bool, string) {
		if err := s.client.RefreshMetadata(topic); err != nil {
			return false, err.Error()
		}
		writable, err := s.client.WritablePartitions(topic)
		return err == nil && len(writable) == int(partitions), ""
	})
}

func encoded(bytes []byte) sarama.Encoder {
	if bytes == nil {
		return nil
	}
	return sarama.ByteEncoder(bytes)
}

func (s *saramaClient) produce(topic, codec string, records []record) {
	config := s.config()
	config.Producer.Compression = map[string]sarama.CompressionCodec{
		"none":   sarama.CompressionNone,
		"gzip":   sarama.CompressionGZIP,
		"snappy": sarama.CompressionSnappy,
		"lz4":    sarama.CompressionLZ4,
		"zstd":   sarama.CompressionZSTD,
	}[codec]
	producer, err := sarama.NewSyncProducer(s.addresses(), config)
	ok(err, "a producer")
	var out []*sarama.ProducerMessage
	for _, r := range records {
		made := &sarama.ProducerMessage{Topic: topic, Partition: r.partition, Key: encoded(r.key), Value: encoded(r.value), Timestamp: r.time}
		for _, h := range r.headers {
			made.Headers = append(made.Headers, sarama.RecordHeader{Key: []byte(h.key), Value: h.value})
		}
		out = append(out, made)
	}
	ok(producer.SendMessages(out), "produce to %s", topic)
	ok(producer.Close(), "close the producer")
}

type saramaReader struct {
	consumer  sarama.Consumer
	partition sarama.PartitionConsumer
}

func (s *saramaClient) open(topic string, partition int32, from position) reader {
	consumer, err := sarama.NewConsumer(s.addresses(), s.config())
	ok(err, "a consumer")
	r := &saramaReader{consumer: consumer}
	// It gives up where the leader is about to change, and leaves it to its user to ask again.
	waitFor("consume "+topic, func() (bool, string) {
		offset, err := from.value, error(nil)
		switch from.place {
		case atStart:
			offset = sarama.OffsetOldest
		case atEnd:
			offset = sarama.OffsetNewest
		case atTime:
			offset, err = s.client.GetOffset(topic, partition, from.value)
		case atOffset:
		}
		if err == nil {
			r.partition, err = consumer.ConsumePartition(topic, partition, offset)
		}
		return err == nil, fmt.Sprint(err)
	})
	return r
}

func (r *saramaReader) next(patience time.Duration) (record, bool) {
	select {
	case found := <-r.partition.Messages():
		out := record{partition: found.Partition, offset: found.Offset, key: found.Key, value: found.Value, time: found.Timestamp}
		for _, h := range found.Headers {
			out.headers = append(out.headers, header{string(h.Key), h.Value})
		}
		return out, true
	case <-time.After(patience):
		return record{}, false
	}
}

func (r *saramaReader) close() {
	ok(r.partition.Close(), "close the partition")
	ok(r.consumer.Close(), "close the consumer")
}

// It is also the handler of its sessions.
type saramaMember struct {
	journal
	group   sarama.ConsumerGroup
	topic   string
	cancel  context.CancelFunc
	done    chan struct{}
	held    sync.Mutex
	session sarama.ConsumerGroupSession
}

func (s *saramaClient) join(group, topic, balancer, id string) member {
	config := s.config()
	config.ClientID = id
	config.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{map[string]func() sarama.BalanceStrategy{
		"range":              sarama.NewBalanceStrategyRange,
		"roundrobin":         sarama.NewBalanceStrategyRoundRobin,
		"sticky":             sarama.NewBalanceStrategySticky,
		"cooperative-sticky": sarama.NewBalanceStrategyCooperativeSticky,
	}[balancer]()}
	joined, err := sarama.NewConsumerGroup(s.addresses(), group, config)
	ok(err, "a consumer group")
	ctx, cancel := context.WithCancel(context.Background())
	m := &saramaMember{journal: newJournal(), group: joined, topic: topic, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		for ctx.Err() == nil {
			// An error ends a session, as a rebalance does: the next one begins.
			if err := joined.Consume(ctx, []string{topic}, m); err != nil {
				fmt.Println(id, "in", group+":", err)
				time.Sleep(20 * time.Millisecond)
			}
		}
	}()
	return m
}

func (m *saramaMember) setSession(session sarama.ConsumerGroupSession) {
	m.held.Lock()
	defer m.held.Unlock()
	m.session = session
}

func (m *saramaMember) Setup(session sarama.ConsumerGroupSession) error {
	m.setSession(session)
	return nil
}

func (m *saramaMember) Cleanup(sarama.ConsumerGroupSession) error {
	m.setSession(nil)
	return nil
}

func (m *saramaMember) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for found := range claim.Messages() {
		m.read(found.Partition, found.Offset, found.Value)
		session.MarkMessage(found, "")
	}
	return nil
}

func (m *saramaMember) share() map[int32]bool {
	m.held.Lock()
	defer m.held.Unlock()
	out := map[int32]bool{}
	if m.session != nil {
		for _, partition := range m.session.Claims()[m.topic] {
			out[partition] = true
		}
	}
	return out
}

func (m *saramaMember) leave() {
	m.cancel()
	<-m.done
	ok(m.group.Close(), "leave")
}

func (s *saramaClient) committed(group, topic string) (map[int32]int64, error) {
	out := map[int32]int64{}
	found, err := s.manager.ListConsumerGroupOffsets(group, nil)
	if err != nil {
		return out, err
	}
	for partition, block := range found.Blocks[topic] {
		if block.Err != sarama.ErrNoError {
			return out, block.Err
		}
		out[partition] = block.Offset
	}
	return out, nil
}

type saramaSender struct {
	producer sarama.AsyncProducer
	topic    string
	done     sync.WaitGroup
}

func (s *saramaClient) sender(topic string) sender {
	producer, err := sarama.NewAsyncProducer(s.addresses(), s.config())
	ok(err, "a producer")
	out := &saramaSender{producer: producer, topic: topic}
	type told = func(int64, error)
	out.done.Go(func() {
		for message := range producer.Successes() {
			message.Metadata.(told)(message.Offset, nil)
		}
	})
	out.done.Go(func() {
		for failed := range producer.Errors() {
			failed.Msg.Metadata.(told)(-1, failed.Err)
		}
	})
	return out
}

func (s *saramaSender) send(partition int32, value []byte, done func(int64, error)) {
	s.producer.Input() <- &sarama.ProducerMessage{Topic: s.topic, Partition: partition, Value: sarama.ByteEncoder(value), Metadata: done}
}

func (s *saramaSender) close() {
	s.producer.AsyncClose()
	s.done.Wait()
}
