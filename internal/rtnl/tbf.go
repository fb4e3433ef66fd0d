package rtnl

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnet-go/vnet"
)

// Ifb is a device that what comes by another can be redirected to, to be
// queued.
type Ifb = netlink.Ifb

// TBF is a token bucket (tc-tbf(8)).
type TBF struct {
	Rate  uint64 // bit/s
	Burst uint32 // bytes that may pass at once
	Queue uint32 // bytes that may wait; more is dropped
}

// ticks is Burst as the kernel keeps it.
func (t TBF) ticks() uint32 { return netlink.Xmittime(max(t.Rate/8, 1), t.Burst) }

// Count is what a queue has let pass and dropped.
type Count struct {
	Packets, Bytes uint64
	Dropped        uint64 // packets
}

// queue is the root or ingress qdisc of a device.
type queue struct {
	kind  string
	major uint16
	tbf   netlink.Tbf
	count Count
}

// queue asks for one qdisc of a device, by its parent; kind is empty when the
// device has none but the kernel's own.
func (c *Conn) queue(index int, parent uint32) (queue, error) {
	var q queue
	// Of the kernel's own noqueue it only acknowledges, and of others it tells who asked by an echo.
	msgs, err := c.request(unix.NETLINK_ROUTE, unix.RTM_GETQDISC, unix.NLM_F_ACK|unix.NLM_F_ECHO, unix.RTM_NEWQDISC, &nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(index), Parent: parent})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EINVAL):
		return q, nil
	case err != nil:
		return q, err
	}
	for _, m := range msgs {
		t := nl.DeserializeTcMsg(m)
		if int(t.Ifindex) != index || t.Parent != parent {
			continue
		}
		attrs, err := nl.ParseRouteAttr(m[t.Len():])
		if err != nil {
			return q, err
		}
		q.major = uint16(t.Handle >> 16)
		for _, a := range attrs {
			switch a.Attr.Type {
			case nl.TCA_KIND:
				q.kind = strings.TrimRight(string(a.Value), "\x00")
			case nl.TCA_STATS2:
				if err := q.counts(a.Value); err != nil {
					return q, err
				}
			case nl.TCA_OPTIONS:
				if q.kind == "tbf" {
					if err := q.options(a.Value); err != nil {
						return q, err
					}
				}
			}
		}
	}
	if q.major == 0 { // the kernel's own
		q.kind = ""
	}
	return q, nil
}

// counts reads TCA_STATS2 (linux/gen_stats.h).
func (q *queue) counts(b []byte) error {
	const basic, queued, packets64 = 1, 3, 8
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		return err
	}
	native := nl.NativeEndian()
	for _, a := range attrs {
		switch {
		case a.Attr.Type == basic && len(a.Value) >= 12:
			q.count.Bytes = native.Uint64(a.Value)
			q.count.Packets = max(q.count.Packets, uint64(native.Uint32(a.Value[8:])))
		case a.Attr.Type == packets64 && len(a.Value) >= 8:
			q.count.Packets = native.Uint64(a.Value)
		case a.Attr.Type == queued && len(a.Value) >= 20:
			q.count.Dropped = uint64(native.Uint32(a.Value[8:]))
		}
	}
	return nil
}

func (q *queue) options(b []byte) error {
	attrs, err := nl.ParseRouteAttr(b)
	if err != nil {
		return err
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case nl.TCA_TBF_PARMS:
			o := nl.DeserializeTcTbfQopt(a.Value)
			q.tbf.Rate, q.tbf.Limit, q.tbf.Buffer = max(q.tbf.Rate, uint64(o.Rate.Rate)), o.Limit, o.Buffer
		case nl.TCA_TBF_RATE64:
			q.tbf.Rate = nl.NativeEndian().Uint64(a.Value)
		}
	}
	return nil
}

// near allows for the kernel's rounding of bursts.
func near(a, b uint32) bool { return max(a, b)-min(a, b) <= 2+max(a, b)/1024 }

func (q queue) is(t TBF) bool {
	return q.kind == "tbf" && q.tbf.Rate == t.Rate/8 && q.tbf.Limit == t.Queue && near(q.tbf.Buffer, t.ticks())
}

// SetTBF makes the root qdisc of a device a token bucket with that major
// number, or changes it in place, which loses nothing of what waits. Nothing is
// sent when it is so. A root qdisc of somebody else is [vnet.ErrConflict].
func (c *Conn) SetTBF(dev string, major uint16, t TBF) error {
	l, err := c.Link(dev)
	if err != nil {
		return named("limit", dev, err)
	}
	q, err := c.queue(l.Index, netlink.HANDLE_ROOT)
	if err != nil || q.major == major && q.is(t) {
		return named("limit", dev, err)
	}
	x := &netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(major, 0)},
		Rate: t.Rate / 8, Limit: t.Queue, Buffer: t.ticks()}
	do := (*netlink.Handle).QdiscAdd
	switch {
	case q.kind == "tbf" && q.major == major:
		do = (*netlink.Handle).QdiscChange
	case q.kind != "":
		return fmt.Errorf("limit %s: it has a root qdisc %s %x: of somebody else: %w", dev, q.kind, q.major, vnet.ErrConflict)
	}
	return named("limit", dev, c.write(func(h *netlink.Handle) error { return do(h, x) }))
}

// TBF returns the token bucket of a device with that major number, and what it
// has counted; [vnet.ErrNotFound] when there is none.
func (c *Conn) TBF(dev string, major uint16) (TBF, Count, error) {
	l, err := c.Link(dev)
	if err != nil {
		return TBF{}, Count{}, err
	}
	q, err := c.queue(l.Index, netlink.HANDLE_ROOT)
	if err == nil && (q.kind != "tbf" || q.major != major) {
		err = vnet.ErrNotFound
	}
	if err != nil {
		return TBF{}, Count{}, named("read limit of", dev, err)
	}
	t := TBF{Rate: 8 * q.tbf.Rate, Queue: q.tbf.Limit}
	t.Burst = uint32(float64(q.tbf.Buffer) / netlink.TickInUsec() / 1e6 * float64(q.tbf.Rate))
	return t, q.count, nil
}

// DelTBF takes a token bucket with that major number away; one that is gone is
// no error.
func (c *Conn) DelTBF(dev string, major uint16) error {
	l, err := c.Link(dev)
	if err != nil {
		return gone(err)
	}
	q, err := c.queue(l.Index, netlink.HANDLE_ROOT)
	if err != nil || q.kind != "tbf" || q.major != major {
		return named("remove limit of", dev, err)
	}
	x := &netlink.Tbf{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(major, 0)}}
	return gone(named("remove limit of", dev, c.write(func(h *netlink.Handle) error { return h.QdiscDel(x) })))
}

// Intake is what is done with all that comes by a device: it is redirected to
// another one, or held to a rate.
type Intake struct {
	Redirect string // name of an ifb; or
	Police   TBF    // Queue is not used
}

// intakePref is the preference of our filter.
const intakePref = 0x7e51

// SetIntake makes it so with one filter of the device's ingress qdisc, which
// it makes if there is none. An ingress qdisc of somebody else, which has other
// filters, is [vnet.ErrConflict].
func (c *Conn) SetIntake(dev string, in Intake) error {
	err := c.set("redirect", dev, nil, func(h *netlink.Handle, l netlink.Link) error {
		index := l.Attrs().Index
		q, err := c.queue(index, netlink.HANDLE_INGRESS)
		if err != nil {
			return err
		}
		attrs := netlink.FilterAttrs{LinkIndex: index, Parent: netlink.MakeHandle(0xffff, 0), Priority: intakePref, Protocol: unix.ETH_P_ALL}
		var filter netlink.Filter
		if in.Redirect != "" {
			to, err := c.Link(in.Redirect)
			if err != nil {
				return err
			}
			// A filter without a match takes all; u32 is what every kernel has.
			filter = &netlink.U32{FilterAttrs: attrs, Actions: []netlink.Action{netlink.NewMirredAction(to.Index)}}
		} else {
			p := netlink.NewPoliceAction()
			p.Rate, p.Burst, p.Mtu = uint32(min(in.Police.Rate/8, 1<<32-1)), in.Police.Burst, 1<<16-1
			p.ExceedAction, p.NotExceedAction = netlink.TC_POLICE_SHOT, netlink.TC_POLICE_UNSPEC
			filter = &netlink.MatchAll{FilterAttrs: attrs, Actions: []netlink.Action{p}}
		}
		switch {
		case q.kind == "":
			i := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0)}}
			if err := h.QdiscAdd(i); err != nil {
				return err
			}
		default:
			list, err := h.FilterList(l, netlink.MakeHandle(0xffff, 0))
			if err != nil {
				return err
			}
			for _, f := range list {
				if f.Attrs().Priority != intakePref {
					return fmt.Errorf("its ingress qdisc has a filter of somebody else, of preference %d: %w", f.Attrs().Priority, vnet.ErrConflict)
				}
			}
			// matchall knows no change; between the two what comes passes.
			if len(list) > 0 {
				if err := h.FilterDel(list[0]); err != nil {
					return err
				}
			}
		}
		return h.FilterAdd(filter)
	})
	return err
}

// Redirected reports whether all that comes by a device goes to another.
func (c *Conn) Redirected(dev, to string) (bool, error) {
	l, err := c.Link(dev)
	if err != nil {
		return false, err
	}
	t, err := c.Link(to)
	if err != nil {
		return false, gone(err)
	}
	var list []netlink.Filter
	err = c.read(func(h *netlink.Handle) (err error) {
		list, err = h.FilterList(device(l), netlink.MakeHandle(0xffff, 0))
		return err
	})
	if err != nil {
		return false, gone(named("read filters of", dev, err))
	}
	for _, f := range list {
		if u, is := f.(*netlink.U32); is && u.Attrs().Priority == intakePref {
			for _, a := range u.Actions {
				if m, is := a.(*netlink.MirredAction); is && m.Ifindex == t.Index {
					return true, nil
				}
			}
		}
	}
	return false, nil
}

// Policed returns at what a device's policer stands and what it has counted;
// [vnet.ErrNotFound] when it has none.
func (c *Conn) Policed(dev string) (TBF, Count, error) {
	l, err := c.Link(dev)
	if err != nil {
		return TBF{}, Count{}, err
	}
	var list []netlink.Filter
	err = c.read(func(h *netlink.Handle) (err error) {
		list, err = h.FilterList(device(l), netlink.MakeHandle(0xffff, 0))
		return err
	})
	if err != nil {
		return TBF{}, Count{}, named("read filters of", dev, err)
	}
	for _, f := range list {
		m, is := f.(*netlink.MatchAll)
		if !is || m.Attrs().Priority != intakePref {
			continue
		}
		for _, a := range m.Actions {
			p, is := a.(*netlink.PoliceAction)
			if !is {
				continue
			}
			t, n := TBF{Rate: 8 * uint64(p.Rate), Burst: p.Burst}, Count{}
			if s := p.Statistics; s != nil && s.Basic != nil && s.Queue != nil {
				n = Count{Packets: uint64(s.Basic.Packets), Bytes: s.Basic.Bytes, Dropped: uint64(s.Queue.Drops)}
			}
			return t, n, nil
		}
	}
	return TBF{}, Count{}, fmt.Errorf("policer of %s: %w", dev, vnet.ErrNotFound)
}

// DelIntake takes our filter away, and the ingress qdisc if it has no other.
func (c *Conn) DelIntake(dev string) error {
	err := c.set("redirect no longer", dev, nil, func(h *netlink.Handle, l netlink.Link) error {
		q, err := c.queue(l.Attrs().Index, netlink.HANDLE_INGRESS)
		if err != nil || q.kind == "" {
			return err
		}
		list, err := h.FilterList(l, netlink.MakeHandle(0xffff, 0))
		if err != nil {
			return err
		}
		ours, others := false, false
		for _, f := range list {
			if f.Attrs().Priority == intakePref {
				ours = true
			} else {
				others = true
			}
		}
		switch {
		case !ours:
			return nil
		case others:
			for _, f := range list {
				if f.Attrs().Priority == intakePref {
					return h.FilterDel(f)
				}
			}
		}
		return h.QdiscDel(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0)}})
	})
	return gone(err)
}
