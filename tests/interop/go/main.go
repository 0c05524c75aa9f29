// What a Go application does with a cluster, with each of three clients: franz-go, sarama and segmentio's kafka-go.
//
//	interop CLIENT roundtrip BOOTSTRAP     every codec, headers, times, a tombstone, seeks of every kind
//	interop CLIENT groups BOOTSTRAP        members join and leave under every balancer of the client, commit and resume
//	interop CLIENT admin BOOTSTRAP         the client's administration, its errors included
//	interop CLIENT survive BOOTSTRAP FILE  produces with acks=all and consumes in a group; prints STARTED when both run
//	                                       and `ACKED n` as it goes on; ends when FILE is there, and compares
//	interop franz-go exactly-once BOOTSTRAP
//	                                       copies by transactional sessions; prints `BROKER kill ID` and `BROKER start ID`
//	                                       for whoever runs it to do so
//
// Each prints OK at its end. Whatever does not hold panics with what was seen.
package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"time"
)

// For whatever is waited for.
const limit = 60 * time.Second

func main() {
	debug.SetTraceback("all")
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "interop CLIENT roundtrip|groups|admin|survive|exactly-once BOOTSTRAP [FILE]")
		os.Exit(2)
	}
	name, scenario, bootstrap := os.Args[1], os.Args[2], os.Args[3]
	clients := map[string]func(string) client{
		"franz-go":   newFranz,
		"sarama":     newSarama,
		"sarama-2.1": newSaramaOld,
		"kafka-go":   newSegmentio,
	}
	open := clients[name]
	check(open != nil, "there is no client %s", name)
	c := open(bootstrap)
	switch scenario {
	case "roundtrip":
		roundtrip(c, newFranz(bootstrap))
	case "groups":
		groups(c)
	case "admin":
		c.admin()
	case "survive":
		check(len(os.Args) == 5, "survive needs a file")
		survive(c, os.Args[4])
	case "exactly-once":
		f, able := c.(*franz)
		check(able, "%s has no transactional sessions", name)
		f.exactlyOnce()
	default:
		check(false, "there is no scenario %s", scenario)
	}
	fmt.Println("OK")
}

func check(holds bool, format string, arguments ...any) {
	if !holds {
		panic(fmt.Sprintf(format, arguments...))
	}
}

func ok(err error, format string, arguments ...any) {
	check(err == nil, "%s: %v", fmt.Sprintf(format, arguments...), err)
}

// Asks until it holds; what was seen last is told when it never does.
func waitFor(what string, attempt func() (bool, string)) {
	deadline := time.Now().Add(limit)
	for {
		holds, seen := attempt()
		if holds {
			return
		}
		check(time.Now().Before(deadline), "%s: not within %s; last seen: %s", what, limit, seen)
		time.Sleep(10 * time.Millisecond)
	}
}
