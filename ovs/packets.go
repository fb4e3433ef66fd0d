package ovs

import (
	"context"

	"github.com/vnet-go/vnet"
	of "github.com/vnet-go/vnet/internal/openflow"
)

// ControllerID is that of this handle's connection: what Controller actions
// of flows must say for [Switch.Packets] to have the packet.
const ControllerID uint16 = 1

// Packets delivers the packets that flows of a part send to [ControllerID],
// until ctx ends or the handle is closed; then the channel is closed. While
// the switch does not run there are none. More than a few hundred that nobody
// takes are lost.
func (s *Switch) Packets(ctx context.Context, part vnet.Part) <-chan *of.PacketIn {
	out := make(chan *of.PacketIn)
	want := s.partCookie(part)
	go func() {
		defer close(out)
		for {
			c, err := s.ready(ctx)
			if err != nil {
				return
			}
			in, err := c.PacketIns(ctx, of.PacketInFilter{Accept: func(p *of.PacketIn) bool { return p.Cookie&(cookieOwner|cookiePart) == want }})
			if err != nil {
				if ctx.Err() != nil {
					return
				}
				<-c.Done() // it is of no use any more, or will be
				continue
			}
			for p := range in {
				select {
				case out <- p:
				case <-ctx.Done():
				}
			}
		}
	}()
	return out
}

// Inject lets a frame begin at an action list, such as Goto(table) or Output,
// as if it had come in with these fields (InPort and registers).
func (s *Switch) Inject(ctx context.Context, fields []of.Cond, frame []byte, actions ...of.Action) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	c, err := s.ready(ctx)
	if err != nil {
		return err
	}
	p := of.PacketOut{Actions: actions, Packet: frame}
	for _, f := range fields {
		if f.Field == of.InPort {
			p.InPort = of.Port(f.Value.Lo)
		} else {
			p.Metadata = append(p.Metadata, f)
		}
	}
	return c.PacketOut(ctx, p)
}

// Learn adds flows of a part outside of all objects, as a learn action would:
// their cookies must come from [Switch.LearnCookie], and they should have
// time-outs.
func (s *Switch) Learn(ctx context.Context, flows ...of.Flow) error {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	c, err := s.ready(ctx)
	if err != nil {
		return err
	}
	var mods []of.FlowMod
	for _, f := range flows {
		mods = append(mods, of.Add(f))
	}
	return c.Bundle(ctx, mods)
}

// FlowStats reads the flows of an object with their counters.
func (s *Switch) FlowStats(ctx context.Context, part vnet.Part, kind, id string) ([]of.FlowStats, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	c, err := s.ready(ctx)
	if err != nil {
		return nil, err
	}
	return c.Flows(ctx, of.FlowFilter{Table: of.AllTables, Cookie: s.Cookie(part, kind, id), CookieMask: ^uint64(0)})
}
