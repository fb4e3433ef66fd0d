package vm

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// Measure is how much a machine gets through to another.
type Measure struct {
	// Probe says where to: with TCP one connection sends as much as it can, with
	// ICMP echo requests go out at Offer a second.
	Probe Probe `json:"probe"`
	Offer int   `json:"offer,omitempty"`
	// Warm is how long sending goes on before For is measured: what may pass at
	// once has passed then.
	Warm time.Duration `json:"warm"`
	For  time.Duration `json:"for"`
}

// Measured is what came through.
type Measured struct {
	Kbps float64 `json:"kbps,omitempty"` // of Ethernet frames, without what was sent twice
	PPS  float64 `json:"pps,omitempty"`  // echo requests that were answered
	Note string  `json:"note,omitempty"` // why there is nothing
}

// frameOverhead is what TCP with timestamps, IP and Ethernet add to a segment.
func frameOverhead(a netip.Addr) int {
	if a.Is6() {
		return 14 + 40 + 32
	}
	return 14 + 20 + 32
}

// measure sends as m says.
func measure(ctx context.Context, m Measure) Measured {
	ctx, cancel := context.WithTimeout(ctx, m.Warm+m.For+answerTime)
	defer cancel()
	f := stream
	if m.Probe.Proto == "icmp" {
		f = echoes
	}
	out, err := f(ctx, m)
	if err != nil {
		out.Note = short(err)
	}
	return out
}

// stream writes into one connection and asks the kernel what was acknowledged.
func stream(ctx context.Context, m Measure) (Measured, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(m.Probe.Dst, m.Probe.Port).String())
	if err != nil {
		return Measured{}, err
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return Measured{}, err
	}
	info := func() (i *unix.TCPInfo, err error) {
		e := raw.Control(func(fd uintptr) { i, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		if e != nil {
			err = e
		}
		return i, err
	}
	end, _ := ctx.Deadline()
	c.SetDeadline(end)
	go func() {
		for b := make([]byte, 1<<16); ; {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}()
	if err := wait(ctx, m.Warm); err != nil {
		return Measured{}, err
	}
	a, err := info()
	if err != nil {
		return Measured{}, err
	}
	begin := time.Now()
	if err := wait(ctx, m.For); err != nil {
		return Measured{}, err
	}
	b, err := info()
	if err != nil {
		return Measured{}, err
	}
	payload, mss := float64(b.Bytes_acked-a.Bytes_acked), float64(max(b.Snd_mss, 1))
	return Measured{Kbps: payload * (mss + float64(frameOverhead(m.Probe.Dst))) / mss * 8 / 1000 / time.Since(begin).Seconds()}, nil
}

// echoes sends echo requests and counts answers.
func echoes(ctx context.Context, m Measure) (Measured, error) {
	network, proto, listen := "ip4:icmp", 1, "0.0.0.0"
	msg := icmp.Message{Type: ipv4.ICMPTypeEcho}
	if m.Probe.Dst.Is6() {
		network, proto, listen, msg.Type = "ip6:ipv6-icmp", 58, "::", ipv6.ICMPTypeEchoRequest
	}
	c, err := icmp.ListenPacket(network, listen)
	if err != nil {
		return Measured{}, err
	}
	defer c.Close()
	// One id for each that measures at the same time; probes have others.
	id := int(time.Now().UnixNano()>>10) & 0xffff
	begin := time.Now()
	from, until := begin.Add(m.Warm), begin.Add(m.Warm+m.For)
	go func() {
		to := &net.IPAddr{IP: m.Probe.Dst.AsSlice()}
		for sent := 0; time.Now().Before(until); time.Sleep(2 * time.Millisecond) {
			for due := int(time.Since(begin).Seconds() * float64(m.Offer)); sent < due; sent++ {
				msg.Body = &icmp.Echo{ID: id, Seq: sent & 0xffff}
				if b, err := msg.Marshal(nil); err == nil {
					c.WriteTo(b, to)
				}
			}
		}
	}()
	n := 0
	c.SetReadDeadline(until)
	for buf := make([]byte, 2048); ; {
		k, who, err := c.ReadFrom(buf)
		if err != nil {
			break
		}
		got, err := icmp.ParseMessage(proto, buf[:k])
		if err != nil || got.Type != ipv4.ICMPTypeEchoReply && got.Type != ipv6.ICMPTypeEchoReply {
			continue
		}
		if e, ok := got.Body.(*icmp.Echo); ok && e.ID == id && who.String() == m.Probe.Dst.String() && time.Now().After(from) {
			n++
		}
	}
	return Measured{PPS: float64(n) / m.For.Seconds()}, nil
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// takeIn reads what somebody sends who measures, once he has heard who is here.
func takeIn(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok && t.CloseWrite() == nil {
		c.SetDeadline(time.Now().Add(time.Minute))
		io.Copy(io.Discard, c)
	}
}

func serveMeasure(w http.ResponseWriter, r *http.Request) {
	var m Measure
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if m.For <= 0 || m.For > 30*time.Second || m.Warm < 0 || m.Warm > 30*time.Second {
		http.Error(w, fmt.Sprintf("measuring for %v after %v is not within 30 s", m.For, m.Warm), http.StatusBadRequest)
		return
	}
	json.NewEncoder(w).Encode(measure(r.Context(), m))
}
