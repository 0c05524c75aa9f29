package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// ---------------------------------------------------------------- records

const count = 500

var start = time.UnixMilli(1_700_000_000_000)

func timeOf(index int) time.Time {
	return start.Add(time.Duration(index) * 10 * time.Millisecond)
}

// The records of a topic; the last is a tombstone.
func records(codec string) []record {
	var out []record
	for i := range count {
		headers := []header{{"codec", []byte(codec)}, {"codec", []byte("again")}, {"number", []byte{0, byte(i), 255}}}
		value := []byte(strings.Repeat(fmt.Sprintf("value-%d-", i), 20))
		out = append(out, record{key: fmt.Appendf(nil, "key-%d", i), value: value, headers: headers, time: timeOf(i)})
	}
	return append(out, record{key: []byte("gone"), time: timeOf(count)})
}

func next(r reader) record {
	found, there := r.next(limit)
	check(there, "no record within %s", limit)
	return found
}

// What one client writes is read by itself and by another.
func roundtrip(c, other client) {
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		topic := c.name() + "-" + codec
		c.createTopic(topic, 1, 3, nil)
		sent := records(codec)
		c.produce(topic, codec, sent)
		for _, by := range []client{c, other} {
			r := by.open(topic, 0, position{atStart, 0})
			for i, want := range sent {
				same(fmt.Sprintf("%s, %d, read by %s", codec, i, by.name()), next(r), want, int64(i), codec)
			}
			r.close()
		}
		seeks(c, topic, codec)
	}
}

func same(what string, found, want record, offset int64, codec string) {
	check(found.offset == offset, "%s: offset %d, not %d", what, found.offset, offset)
	check(bytes.Equal(found.key, want.key), "%s: key %q", what, found.key)
	check(bytes.Equal(found.value, want.value) && (found.value == nil) == (want.value == nil), "%s: value %q", what, found.value)
	check(found.time.Equal(want.time), "%s: time %s, not %s", what, found.time, want.time)
	check(len(found.headers) == len(want.headers), "%s: %d headers", what, len(found.headers))
	for i, header := range want.headers {
		check(found.headers[i].key == header.key && bytes.Equal(found.headers[i].value, header.value), "%s: header %d: %v", what, i, found.headers[i])
	}
	check(found.codec == "" || found.codec == codec, "%s: the batch is stored with %s", what, found.codec)
}

func seeks(c client, topic, codec string) {
	table := []struct {
		from position
		want int64
	}{
		{position{atOffset, 0}, 0},
		{position{atOffset, 321}, 321},
		{position{atTime, start.UnixMilli() - 1}, 0},
		{position{atTime, timeOf(250).UnixMilli()}, 250},
		{position{atTime, timeOf(250).UnixMilli() + 1}, 251},
		{position{atTime, timeOf(count).UnixMilli()}, count},
	}
	for _, line := range table {
		r := c.open(topic, 0, line.from)
		found := next(r)
		check(found.offset == line.want, "%s: %v is at %d, not %d", codec, line.from, found.offset, line.want)
		r.close()
	}
	// A client may ask where the end is after it was told to start there: so until something comes.
	r := c.open(topic, 0, position{atEnd, 0})
	defer r.close()
	waitFor("the end is read", func() (bool, string) {
		c.produce(topic, codec, []record{{key: []byte("end"), value: []byte("end"), time: timeOf(count + 1)}})
		found, there := r.next(250 * time.Millisecond)
		check(!there || found.offset > count, "%s: the end is at %d", codec, found.offset)
		return there, "nothing"
	})
}

// ---------------------------------------------------------------- groups

const shared = 6

// Whether the members have all partitions among them, each as many.
func split(members []member) (bool, string) {
	var shares []map[int32]bool
	all := map[int32]bool{}
	equal := true
	for _, member := range members {
		share := member.share()
		shares = append(shares, share)
		equal = equal && len(share)*len(members) == shared
		for partition := range share {
			all[partition] = true
		}
	}
	return equal && len(all) == shared, fmt.Sprint(shares)
}

func groups(c client) {
	for _, balancer := range c.balancers() {
		topic, group := c.name()+"-"+balancer, c.name()+"-group-"+balancer
		c.createTopic(topic, shared, 3, nil)
		rounds := 0
		produce := func() {
			var round []record
			for partition := range int32(shared) {
				round = append(round, record{partition: partition, value: fmt.Appendf(nil, "%d-%d", rounds, partition)})
			}
			c.produce(topic, "none", round)
			rounds++
		}
		var members []member
		// What is written now is read by whoever has the partition now.
		settle := func(what string) {
			waitFor(balancer+": "+what, func() (bool, string) { return split(members) })
			produce()
			waitFor(balancer+": "+what+" and reads", func() (bool, string) {
				var seen []map[int32]map[int64]bool
				for _, member := range members {
					seen = append(seen, member.seen())
				}
				for i, member := range members {
					for partition := range member.share() {
						if !seen[i][partition][int64(rounds-1)] {
							return false, fmt.Sprint(partition, " of ", seen)
						}
					}
				}
				return true, ""
			})
		}
		join := func(id string) { members = append(members, c.join(group, topic, balancer, id)) }
		join("first")
		settle("the first has all")
		join("second")
		settle("two share")
		join("third")
		settle("three share")
		members[0].leave()
		members = members[1:]
		settle("two are left")
		committed(c, group, topic, rounds)
		for _, member := range members {
			member.leave()
		}
		// A group that comes back goes on where it was.
		produce()
		members = nil
		join("fourth")
		settle("the fourth has all")
		for partition, offsets := range members[0].seen() {
			check(len(offsets) == 2 && offsets[4] && offsets[5], "%s: resumed partition %d with %v", balancer, partition, offsets)
		}
		committed(c, group, topic, rounds)
		members[0].leave()
	}
}

func committed(c client, group, topic string, offset int) {
	waitFor("all is committed", func() (bool, string) {
		found, err := c.committed(group, topic)
		if err != nil {
			return false, err.Error()
		}
		for partition := range int32(shared) {
			if found[partition] != int64(offset) {
				return false, fmt.Sprint(found)
			}
		}
		return true, ""
	})
}

// ---------------------------------------------------------------- a broker is killed

const (
	parts = 3
	// Records under way at a time.
	window = 500
)

// The offset of each acknowledged record, plus one; by its number.
type promises struct {
	offsets [2_000_000]atomic.Int64
	count   atomic.Int64
}

func survive(c client, file string) {
	topic, group := c.name()+"-survive", c.name()+"-survivors"
	c.createTopic(topic, parts, 3, map[string]string{"min.insync.replicas": "2"})
	members := []member{c.join(group, topic, c.balancers()[0], "one"), c.join(group, topic, c.balancers()[0], "two")}
	acknowledged := &promises{}
	go func() {
		const step = 500
		for told := int64(0); ; time.Sleep(5 * time.Millisecond) {
			if told == 0 {
				if acknowledged.count.Load() < step || len(members[0].values()) == 0 || len(members[1].values()) == 0 {
					continue
				}
				fmt.Println("STARTED")
			}
			for ; told+step <= acknowledged.count.Load(); told += step {
				fmt.Println("ACKED", told+step)
			}
		}
	}()
	sent := send(c, topic, acknowledged, func() bool {
		_, err := os.Stat(file)
		return err == nil
	})
	check(acknowledged.count.Load() == int64(sent), "%d of %d are acknowledged", acknowledged.count.Load(), sent)
	ends := readBack(c, topic, sent, acknowledged)
	waitFor("the group has read all", func() (bool, string) {
		read := map[string]bool{}
		for _, member := range members {
			for value := range member.values() {
				read[value] = true
			}
		}
		return len(read) == sent, fmt.Sprint(len(read), " of ", sent)
	})
	waitFor("the group has committed all", func() (bool, string) {
		found, err := c.committed(group, topic)
		if err != nil {
			return false, err.Error()
		}
		for partition, end := range ends {
			if found[int32(partition)] != end {
				return false, fmt.Sprint(found, " of ", ends)
			}
		}
		return true, ""
	})
	for _, member := range members {
		member.leave()
	}
	fmt.Printf("{\"run\":%q,\"acked\":%d,\"stored\":%v}\n", c.name(), sent, ends)
}

// Sends numbers, one partition after the other, until it is told to stop. Returns how many.
func send(c client, topic string, acknowledged *promises, stopped func() bool) int {
	s := c.sender(topic)
	room := make(chan struct{}, window)
	sent := 0
	// A pace that neither fills the disk nor lets the members fall behind.
	pace := time.NewTicker(2 * time.Millisecond)
	defer pace.Stop()
	for !stopped() {
		<-pace.C
		for range 2 * parts {
			room <- struct{}{}
			number := sent
			sent++
			check(sent < len(acknowledged.offsets), "nobody said to stop")
			s.send(int32(number%parts), []byte(strconv.Itoa(number)), func(offset int64, err error) {
				ok(err, "record %d is refused", number)
				acknowledged.offsets[number].Store(offset + 1)
				acknowledged.count.Add(1)
				<-room
			})
		}
	}
	s.close()
	return sent
}

// Compares what is stored with what was promised. Returns the end of each partition.
func readBack(c client, topic string, sent int, acknowledged *promises) []int64 {
	ends := make([]int64, parts)
	for partition := range int32(parts) {
		r := c.open(topic, partition, position{atStart, 0})
		last := (sent-1-int(partition))/parts*parts + int(partition)
		want := int(partition)
		for want <= last {
			found := next(r)
			number, err := strconv.Atoi(string(found.value))
			ok(err, "a number")
			check(found.offset == ends[partition], "partition %d: offset %d follows %d", partition, found.offset, ends[partition]-1)
			ends[partition]++
			if number != want && !c.idempotent() {
				// What was sent again after it had been stored.
				check(number < want, "partition %d: %d at %d instead of %d: records are lost", partition, number, found.offset, want)
				continue
			}
			check(number == want, "partition %d: %d at %d instead of %d", partition, number, found.offset, want)
			promised := acknowledged.offsets[number].Load() - 1
			// -1: the client does not know the offset of a batch that was answered as a duplicate.
			check(!c.idempotent() || promised == found.offset || promised == -1, "%d is at %d, not %d", number, found.offset, promised)
			want += parts
		}
		// Only repeated records may follow.
		for {
			found, there := r.next(500 * time.Millisecond)
			if !there {
				break
			}
			check(!c.idempotent(), "partition %d: %q follows the last", partition, found.value)
			ends[partition]++
		}
		r.close()
	}
	return ends
}
