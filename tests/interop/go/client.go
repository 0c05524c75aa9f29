package main

import (
	"sync"
	"time"
)

type header struct {
	key   string
	value []byte
}

// A nil value is a tombstone.
type record struct {
	partition int32
	offset    int64
	key       []byte
	value     []byte
	headers   []header
	time      time.Time
	// The codec of its batch, where the client tells it.
	codec string
}

type place int

const (
	atStart place = iota
	atEnd
	// At an offset.
	atOffset
	// At the first record of that time (ms) or later.
	atTime
)

type position struct {
	place place
	value int64
}

// What the scenarios need of a client. Whatever fails panics.
type client interface {
	name() string
	balancers() []string
	// Whether its producer promises each record once, and in order, and tells the offset of each.
	idempotent() bool
	createTopic(topic string, partitions int32, replicas int16, configs map[string]string)
	// Produces in order with acks=all.
	produce(topic, codec string, records []record)
	// Reads a partition without a group.
	open(topic string, partition int32, from position) reader
	// Consumes in a group from the first offset where nothing is committed, and commits what it has read.
	join(group, topic, balancer, id string) member
	committed(group, topic string) (map[int32]int64, error)
	sender(topic string) sender
	// Creates, describes, changes and deletes by the client's own functions.
	admin()
}

type reader interface {
	// The next record, or false when there was none in this time.
	next(patience time.Duration) (record, bool)
	close()
}

type sender interface {
	send(partition int32, value []byte, done func(offset int64, err error))
	// Sends what is left.
	close()
}

type member interface {
	// The partitions that are its own now.
	share() map[int32]bool
	// By partition, the offsets that it has read.
	seen() map[int32]map[int64]bool
	// The values that it has read.
	values() map[string]bool
	leave()
}

// What a member has read. Shared by its goroutines and those who ask.
type journal struct {
	lock    sync.Mutex
	offsets map[int32]map[int64]bool
	texts   map[string]bool
}

func newJournal() journal {
	return journal{offsets: map[int32]map[int64]bool{}, texts: map[string]bool{}}
}

func (j *journal) read(partition int32, offset int64, value []byte) {
	j.lock.Lock()
	defer j.lock.Unlock()
	if j.offsets[partition] == nil {
		j.offsets[partition] = map[int64]bool{}
	}
	j.offsets[partition][offset] = true
	j.texts[string(value)] = true
}

func (j *journal) seen() map[int32]map[int64]bool {
	j.lock.Lock()
	defer j.lock.Unlock()
	out := map[int32]map[int64]bool{}
	for partition, offsets := range j.offsets {
		out[partition] = map[int64]bool{}
		for offset := range offsets {
			out[partition][offset] = true
		}
	}
	return out
}

func (j *journal) values() map[string]bool {
	j.lock.Lock()
	defer j.lock.Unlock()
	out := make(map[string]bool, len(j.texts))
	for text := range j.texts {
		out[text] = true
	}
	return out
}
