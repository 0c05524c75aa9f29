package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	copies     = 3_000
	copyParts  = 4
	copiesEach = 20
)

// Consume, transform, produce, by franz-go's own session for it, in groups of either protocol. A second worker joins while the
// first one copies, and the broker that coordinates a worker's transactions dies and comes back.
func (f *franz) exactlyOnce() {
	protocols := map[string][]kgo.Opt{
		"classic":  {kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.HeartbeatInterval(200 * time.Millisecond)},
		"consumer": {kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer())},
	}
	for name, options := range protocols {
		f.copyAll(name, options)
	}
}

func (f *franz) copyAll(name string, options []kgo.Opt) {
	from, to := "franz-from-"+name, "franz-to-"+name
	f.createTopic(from, copyParts, 3, nil)
	f.createTopic(to, copyParts, 3, nil)
	ends := f.fill(from)

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var workers sync.WaitGroup
	var copied atomic.Int64
	start := func(number int) {
		id := fmt.Sprintf("franz-copies-%s-%d", name, number)
		session, err := kgo.NewGroupTransactSession(append([]kgo.Opt{
			kgo.SeedBrokers(f.client.OptValue(kgo.SeedBrokers).([]string)...),
			kgo.TransactionalID(id),
			kgo.TransactionTimeout(limit / 2),
			kgo.RecordPartitioner(kgo.ManualPartitioner()),
			kgo.FetchIsolationLevel(kgo.ReadCommitted()),
			kgo.FetchMaxWait(100 * time.Millisecond),
			kgo.MetadataMinAge(100 * time.Millisecond),
			kgo.RequireStableFetchOffsets(),
			kgo.ConsumerGroup("franz-copies-" + name),
			kgo.ConsumeTopics(from),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		}, options...)...)
		ok(err, "a session")
		workers.Go(func() {
			defer session.Close()
			for copySome(ctx, session, id, to, &copied) {
			}
		})
	}
	reached := func(count int64) {
		waitFor(fmt.Sprint(count, " copies"), func() (bool, string) { return copied.Load() >= count, fmt.Sprint(copied.Load()) })
	}
	start(0)
	reached(copies / 6)
	start(1)
	reached(copies / 3)
	broker := f.coordinatorOf("franz-copies-" + name + "-0")
	fmt.Println("BROKER kill", broker)
	reached(2 * copies / 3)
	fmt.Println("BROKER start", broker)
	// What a worker has committed it may not know, when the answer was lost: the group's offsets tell.
	waitFor("all is copied", func() (bool, string) {
		found, err := f.committed("franz-copies-"+name, from)
		all := err == nil
		for partition, end := range ends {
			all = all && found[int32(partition)] >= end
		}
		return all, fmt.Sprint(found, " of ", ends, err)
	})
	stop()
	workers.Wait()
	f.requireCopies(name, to)
}

// One transaction, of one poll; whether to go on.
func copySome(ctx context.Context, session *kgo.GroupTransactSession, id, to string, copied *atomic.Int64) bool {
	fetches := session.PollRecords(ctx, copiesEach)
	if ctx.Err() != nil {
		return false
	}
	if fetches.NumRecords() == 0 {
		return true
	}
	ok(session.Begin(), "%s: begin", id)
	fetches.EachRecord(func(r *kgo.Record) {
		session.Produce(context.Background(), &kgo.Record{Topic: to, Partition: r.Partition, Value: r.Value}, func(_ *kgo.Record, err error) {
			if err != nil {
				fmt.Println(id, "could not copy:", err)
			}
		})
	})
	committed, err := session.End(context.Background(), kgo.TryCommit)
	ok(err, "%s: end", id)
	if committed {
		copied.Add(int64(fetches.NumRecords()))
	} else {
		fmt.Println(id, "has aborted, and begins again")
	}
	return true
}

// The records to copy, in one transaction, after others that were aborted. Returns what is behind the last of each partition.
func (f *franz) fill(topic string) [copyParts]int64 {
	ctx, cancel := background()
	defer cancel()
	client := f.connect(kgo.TransactionalID(topic))
	defer client.Close()
	var ends [copyParts]int64
	for _, end := range []kgo.TransactionEndTry{kgo.TryAbort, kgo.TryCommit} {
		ok(client.BeginTransaction(), "begin")
		var records []*kgo.Record
		for n := range copies {
			value := strconv.Itoa(n)
			if end == kgo.TryAbort {
				value = "aborted"
			}
			records = append(records, &kgo.Record{Topic: topic, Partition: int32(n % copyParts), Value: []byte(value)})
		}
		ok(client.ProduceSync(ctx, records...).FirstErr(), "fill %s", topic)
		ok(client.EndTransaction(ctx, end), "end")
		for _, r := range records {
			ends[r.Partition] = r.Offset + 1
		}
	}
	return ends
}

func (f *franz) coordinatorOf(id string) int32 {
	ctx, cancel := background()
	defer cancel()
	found := f.adm.FindTxnCoordinators(ctx, id)[id]
	ok(found.Err, "the coordinator of %s", id)
	return found.NodeID
}

// Each record once, in the order of its partition, for who reads what is committed.
func (f *franz) requireCopies(name, topic string) {
	partitions := map[int32]kgo.Offset{}
	for partition := range int32(copyParts) {
		partitions[partition] = kgo.NewOffset().AtStart()
	}
	client := f.connect(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: partitions}),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	defer client.Close()
	ctx, cancel := background()
	defer cancel()
	next, count := map[int32]int{}, 0
	for count < copies {
		fetches := client.PollFetches(ctx)
		check(ctx.Err() == nil, "%s: %d of %d copies: %v", name, count, copies, next)
		fetches.EachRecord(func(r *kgo.Record) {
			want := strconv.Itoa(next[r.Partition]*copyParts + int(r.Partition))
			check(string(r.Value) == want, "%s: partition %d has %q at %d instead of %s", name, r.Partition, r.Value, r.Offset, want)
			next[r.Partition]++
			count++
		})
	}
	// Nothing may follow.
	patience, done := context.WithTimeout(context.Background(), 2*time.Second)
	defer done()
	for patience.Err() == nil {
		check(client.PollFetches(patience).NumRecords() == 0, "%s: more than %d copies", name, copies)
	}
}
