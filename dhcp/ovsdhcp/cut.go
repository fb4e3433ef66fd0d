package ovsdhcp

import (
	"context"
	"strconv"
	"time"

	"github.com/vnet-go/vnet"
)

// cuts are the ports that are to be cut off. More than it holds are not, now.
type cuts chan [2]uint16

func (c cuts) add(net, port uint16) {
	select {
	case c <- [2]uint16{net, port}:
	default:
	}
}

// cut makes ports deaf for a while, until cuts is closed. The flows end by
// themselves.
func (e *packets) cut(ctx context.Context, c cuts) {
	until := map[uint16]time.Time{}
	for x := range c {
		net, port := x[0], x[1]
		if time.Now().Before(until[port]) {
			continue // it was on its way
		}
		e.mu.RLock()
		n := e.byNumber[net]
		e.mu.RUnlock()
		if n == nil {
			continue
		}
		flows := e.deaf(n.id, net, port)
		for i := range flows {
			flows[i].Cookie = e.sw.LearnCookie(vnet.PartDHCP, "cut", strconv.Itoa(int(port)))
		}
		until[port] = time.Now().Add(cutFor)
		if err := e.sw.Learn(ctx, flows...); err != nil && ctx.Err() == nil {
			e.o.Log.Warn("dhcp: a port that sends too much cannot be cut off", "network", n.id, "port", port, "error", err)
			continue
		}
		e.o.Log.Info("dhcp: a port sends too much and is cut off for a while", "network", n.id, "port", port)
	}
}
