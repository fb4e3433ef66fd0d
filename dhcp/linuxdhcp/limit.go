package linuxdhcp

import (
	"time"

	"github.com/vnet-go/vnet"
)

// maxClients is how many clients of one network have a bucket of their own at
// a time; more share one, so a flood of invented MACs is held to one client's
// rate and cannot fill the memory.
const maxClients = 8192

// limiter is a token bucket for each client of one network. It is used by one
// goroutine.
type limiter struct {
	rate, burst float64 // tokens a second, tokens
	// Buckets not used for a whole period are full again, so they are dropped
	// by generations: what is used moves to now, old goes at the end of a period.
	now, old map[vnet.MAC]*bucket
	rest     bucket
	turn     time.Time
	period   time.Duration
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newLimiter(rate float64, burst int) *limiter {
	return &limiter{
		rate: rate, burst: float64(burst), now: map[vnet.MAC]*bucket{}, old: map[vnet.MAC]*bucket{},
		rest: bucket{tokens: float64(burst)}, period: time.Duration(float64(burst)/rate*float64(time.Second)) + time.Second,
	}
}

// allow takes a token from the client's bucket, and says whether there was one.
func (l *limiter) allow(mac vnet.MAC, at time.Time) bool {
	if at.Sub(l.turn) > l.period {
		l.now, l.old, l.turn = map[vnet.MAC]*bucket{}, l.now, at
	}
	b := l.now[mac]
	if b == nil {
		if b = l.old[mac]; b == nil {
			b = &bucket{tokens: l.burst, at: at}
		}
		if len(l.now) < maxClients {
			l.now[mac] = b
		} else {
			b = &l.rest
		}
	}
	if d := at.Sub(b.at).Seconds(); d > 0 {
		b.tokens = min(l.burst, b.tokens+d*l.rate)
	}
	b.at = at
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
