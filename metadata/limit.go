package metadata

import (
	"container/list"
	"sync"
	"time"
)

// limiter bounds what one asker may do: a token bucket of requests, requests
// at a time, and connections. It remembers a bounded number of askers; the
// one that was quiet longest is forgotten first.
type limiter struct {
	rate     float64 // requests a second; not positive: no limit
	burst    float64
	inFlight int
	conns    int
	max      int
	now      func() time.Time

	mu    sync.Mutex
	m     map[Asker]*list.Element
	order list.List // of *quota, latest first
}

type quota struct {
	who            Asker
	tokens         float64
	at             time.Time
	flights, conns int
}

// get is called with mu held; nil when all that may be remembered are busy.
func (l *limiter) get(a Asker) *quota {
	now := l.now()
	if e, ok := l.m[a]; ok {
		q := e.Value.(*quota)
		l.order.MoveToFront(e)
		if d := now.Sub(q.at).Seconds(); d > 0 {
			q.tokens = min(l.burst, q.tokens+d*l.rate)
		}
		q.at = now
		return q
	}
	if l.m == nil {
		l.m = map[Asker]*list.Element{}
	}
	if len(l.m) >= l.max {
		e := l.order.Back()
		for e != nil && (e.Value.(*quota).flights > 0 || e.Value.(*quota).conns > 0) {
			e = e.Prev()
		}
		if e == nil {
			return nil
		}
		delete(l.m, e.Value.(*quota).who)
		l.order.Remove(e)
	}
	q := &quota{who: a, tokens: l.burst, at: now}
	l.m[a] = l.order.PushFront(q)
	return q
}

// request takes one request from a's quota; done gives its place back. When
// ok is false there is no done.
func (l *limiter) request(a Asker) (done func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.get(a)
	if q == nil || q.flights >= l.inFlight || l.rate > 0 && q.tokens < 1 {
		return nil, false
	}
	if l.rate > 0 {
		q.tokens--
	}
	q.flights++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		q.flights--
	}, true
}

// connect counts a connection; done when it closes.
func (l *limiter) connect(a Asker) (done func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	q := l.get(a)
	if q == nil || q.conns >= l.conns {
		return nil, false
	}
	q.conns++
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		q.conns--
	}), true
}
