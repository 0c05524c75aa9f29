package main

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// franz-go, whose producer is idempotent unless told otherwise, with its administration (kadm).
type franz struct {
	bootstrap string
	client    *kgo.Client
	adm       *kadm.Client
}

func newFranz(bootstrap string) client {
	f := &franz{bootstrap: bootstrap}
	f.client = f.connect()
	f.adm = kadm.NewClient(f.client)
	return f
}

func (f *franz) connect(options ...kgo.Opt) *kgo.Client {
	common := []kgo.Opt{
		kgo.SeedBrokers(strings.Split(f.bootstrap, ",")...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(2 * time.Millisecond),
		kgo.FetchMaxWait(100 * time.Millisecond),
		kgo.MetadataMinAge(100 * time.Millisecond),
	}
	client, err := kgo.NewClient(append(common, options...)...)
	ok(err, "a client")
	return client
}

func (f *franz) name() string { return "franz-go" }
func (f *franz) balancers() []string {
	return []string{"cooperative-sticky", "range", "roundrobin", "sticky"}
}
func (f *franz) idempotent() bool { return true }

func background() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), limit)
}

func (f *franz) createTopic(topic string, partitions int32, replicas int16, configs map[string]string) {
	ctx, cancel := background()
	defer cancel()
	settings := map[string]*string{}
	for key, value := range configs {
		settings[key] = &value
	}
	_, err := f.adm.CreateTopic(ctx, partitions, replicas, settings, topic)
	ok(err, "create %s", topic)
}

func (f *franz) produce(topic, codec string, records []record) {
	ctx, cancel := background()
	defer cancel()
	codecs := map[string]kgo.CompressionCodec{
		"none":   kgo.NoCompression(),
		"gzip":   kgo.GzipCompression(),
		"snappy": kgo.SnappyCompression(),
		"lz4":    kgo.Lz4Compression(),
		"zstd":   kgo.ZstdCompression(),
	}
	client := f.connect(kgo.ProducerBatchCompression(codecs[codec]))
	defer client.Close()
	var out []*kgo.Record
	for _, r := range records {
		made := &kgo.Record{Topic: topic, Partition: r.partition, Key: r.key, Value: r.value, Timestamp: r.time}
		for _, h := range r.headers {
			made.Headers = append(made.Headers, kgo.RecordHeader{Key: h.key, Value: h.value})
		}
		out = append(out, made)
	}
	ok(client.ProduceSync(ctx, out...).FirstErr(), "produce to %s", topic)
}

type franzReader struct {
	client *kgo.Client
	ready  []*kgo.Record
}

func (f *franz) open(topic string, partition int32, from position) reader {
	offset := map[place]kgo.Offset{
		atStart:  kgo.NewOffset().AtStart(),
		atEnd:    kgo.NewOffset().AtEnd(),
		atOffset: kgo.NewOffset().At(from.value),
		atTime:   kgo.NewOffset().AfterMilli(from.value),
	}[from.place]
	return &franzReader{client: f.connect(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: offset}}))}
}

func (r *franzReader) next(patience time.Duration) (record, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for len(r.ready) == 0 {
		fetches := r.client.PollFetches(ctx)
		r.ready = fetches.Records()
		if len(r.ready) == 0 && ctx.Err() != nil {
			return record{}, false
		}
		ok(fetches.Err0(), "fetch")
	}
	found := r.ready[0]
	r.ready = r.ready[1:]
	out := record{partition: found.Partition, offset: found.Offset, key: found.Key, value: found.Value, time: found.Timestamp}
	for _, h := range found.Headers {
		out.headers = append(out.headers, header{h.Key, h.Value})
	}
	out.codec = []string{"none", "gzip", "snappy", "lz4", "zstd"}[found.Attrs.CompressionType()]
	return out, true
}

func (r *franzReader) close() { r.client.Close() }

type franzMember struct {
	journal
	client *kgo.Client
	cancel context.CancelFunc
	done   chan struct{}
	owned  map[int32]bool
	held   sync.Mutex
}

func (f *franz) join(group, topic, balancer, id string) member {
	return f.joinAs(group, topic, balancer, id)
}

func (f *franz) joinAs(group, topic, balancer, id string, more ...kgo.Opt) *franzMember {
	balancers := map[string]kgo.GroupBalancer{
		"range":              kgo.RangeBalancer(),
		"roundrobin":         kgo.RoundRobinBalancer(),
		"sticky":             kgo.StickyBalancer(),
		"cooperative-sticky": kgo.CooperativeStickyBalancer(),
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &franzMember{journal: newJournal(), cancel: cancel, done: make(chan struct{}), owned: map[int32]bool{}}
	gone := func(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
		m.held.Lock()
		defer m.held.Unlock()
		for _, partition := range lost[topic] {
			delete(m.owned, partition)
		}
	}
	m.client = f.connect(append([]kgo.Opt{
		kgo.ClientID(id),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.Balancers(balancers[balancer]),
		kgo.HeartbeatInterval(200 * time.Millisecond),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, given map[string][]int32) {
			m.held.Lock()
			defer m.held.Unlock()
			for _, partition := range given[topic] {
				m.owned[partition] = true
			}
		}),
		kgo.OnPartitionsRevoked(gone),
		kgo.OnPartitionsLost(gone),
	}, more...)...)
	go m.consume(ctx)
	return m
}

func (m *franzMember) consume(ctx context.Context) {
	defer close(m.done)
	for ctx.Err() == nil {
		// A broker that was killed is an error of its own partitions, which go on elsewhere.
		fetches := m.client.PollFetches(ctx)
		fetches.EachRecord(func(r *kgo.Record) { m.read(r.Partition, r.Offset, r.Value) })
		for fetches.NumRecords() > 0 && ctx.Err() == nil && m.client.CommitUncommittedOffsets(ctx) != nil {
			time.Sleep(20 * time.Millisecond)
		}
		m.client.AllowRebalance()
	}
}

func (m *franzMember) share() map[int32]bool {
	m.held.Lock()
	defer m.held.Unlock()
	out := map[int32]bool{}
	for partition := range m.owned {
		out[partition] = true
	}
	return out
}

func (m *franzMember) leave() {
	m.cancel()
	<-m.done
	m.client.CloseAllowingRebalance()
}

func (f *franz) committed(group, topic string) (map[int32]int64, error) {
	ctx, cancel := background()
	defer cancel()
	found, err := f.adm.FetchOffsets(ctx, group)
	if err == nil {
		err = found.Error()
	}
	out := map[int32]int64{}
	for partition, each := range found[topic] {
		out[partition] = each.At
	}
	return out, err
}

type franzSender struct {
	client *kgo.Client
	topic  string
}

func (f *franz) sender(topic string) sender {
	return &franzSender{f.connect(), topic}
}

func (s *franzSender) send(partition int32, value []byte, done func(int64, error)) {
	s.client.Produce(context.Background(), &kgo.Record{Topic: s.topic, Partition: partition, Value: value},
		func(r *kgo.Record, err error) { done(r.Offset, err) })
}

func (s *franzSender) close() {
	ctx, cancel := background()
	defer cancel()
	ok(s.client.Flush(ctx), "flush")
	s.client.Close()
}
