package engine

import "time"

// maxClients is how many clients of one network have a bucket of their own at
// a time. On the network itself more of them share one, so a flood of invented
// MACs is held to one client's rate and cannot fill the memory. A relay is
// trusted not to invent: more of its clients are let pass.
const maxClients = 16384

// Limiter is a token bucket for each of many clients. It is used by one
// goroutine.
type Limiter[K comparable] struct {
	rate, burst float64 // tokens a second, tokens
	// Buckets not used for a whole period are full again, so they are dropped
	// by generations: what is used moves to now, old goes at the end of a period.
	now, old map[K]bucket
	rest     bucket
	turn     time.Time
	period   time.Duration
}

type bucket struct {
	tokens float64
	at     int64 // nanoseconds; no pointer in it, so that the collector does not look at buckets
}

// NewLimiter returns one that gives each rate tokens a second, and keeps burst.
func NewLimiter[K comparable](rate float64, burst int) *Limiter[K] {
	return &Limiter[K]{
		rate: rate, burst: float64(burst), now: map[K]bucket{}, old: map[K]bucket{},
		rest: bucket{tokens: float64(burst)}, period: time.Duration(float64(burst)/rate*float64(time.Second)) + time.Second,
	}
}

// Allow takes a token from the client's bucket, and says whether there was one.
// Of trusted clients any number may be new.
func (l *Limiter[K]) Allow(client K, at time.Time, trusted bool) bool {
	if at.Sub(l.turn) > l.period {
		l.now, l.old, l.turn = l.old, l.now, at
		clear(l.now)
	}
	b, ok := l.now[client]
	if !ok {
		if b, ok = l.old[client]; !ok {
			b = bucket{tokens: l.burst, at: at.UnixNano()}
		}
		if len(l.now) >= maxClients {
			return trusted || l.take(&l.rest, at)
		}
	}
	ok = l.take(&b, at)
	l.now[client] = b
	return ok
}

func (l *Limiter[K]) take(b *bucket, at time.Time) bool {
	now := at.UnixNano()
	if d := now - b.at; d > 0 {
		b.tokens = min(l.burst, b.tokens+float64(d)/1e9*l.rate)
	}
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
