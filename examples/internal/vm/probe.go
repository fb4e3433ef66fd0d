package vm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Probe is one packet sent to see whether an answer comes.
type Probe struct {
	Proto string     `json:"proto"` // "icmp", "tcp" or "udp"
	Dst   netip.Addr `json:"dst"`
	Port  uint16     `json:"port,omitempty"`
}

func (p Probe) String() string {
	if p.Proto == "icmp" {
		return "icmp to " + p.Dst.String()
	}
	return p.Proto + " to " + netip.AddrPortFrom(p.Dst, p.Port).String()
}

// Answer is what came of a probe.
type Answer struct {
	OK   bool   `json:"ok"`
	Who  string `json:"who,omitempty"` // the machine that answered, for tcp and udp
	Note string `json:"note,omitempty"`
	// Seconds is how long it took, or was waited for.
	Seconds float64 `json:"seconds"`
}

// answerTime is how long an answer is waited for: longer than the first
// retransmission of a SYN.
const answerTime = 1300 * time.Millisecond

// resend are the times after the first at which an unanswered probe is sent again.
var resend = []time.Duration{200 * time.Millisecond, 600 * time.Millisecond, time.Second}

// prober sends the probes of one machine.
type prober struct {
	mu    sync.Mutex
	echo  map[uint32]echoWait // id and sequence number -> who waits
	next  atomic.Uint32
	conn4 *icmp.PacketConn
	conn6 *icmp.PacketConn
}

type echoWait struct {
	dst netip.Addr
	got chan struct{}
}

func newProber() (*prober, error) {
	p := &prober{echo: map[uint32]echoWait{}}
	p.next.Store(uint32(os.Getpid()) << 16)
	var err error
	if p.conn4, err = icmp.ListenPacket("ip4:icmp", "0.0.0.0"); err != nil {
		return nil, err
	}
	if p.conn6, err = icmp.ListenPacket("ip6:ipv6-icmp", "::"); err != nil {
		return nil, err
	}
	// Only echo replies: the machine hears much else, ND above all.
	var f ipv6.ICMPFilter
	f.SetAll(true)
	f.Accept(ipv6.ICMPTypeEchoReply)
	if err := p.conn6.IPv6PacketConn().SetICMPFilter(&f); err != nil {
		return nil, err
	}
	go p.listen(p.conn4, 1)
	go p.listen(p.conn6, 58)
	return p, nil
}

func (p *prober) listen(c *icmp.PacketConn, proto int) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		m, err := icmp.ParseMessage(proto, buf[:n])
		if err != nil || m.Type != ipv4.ICMPTypeEchoReply && m.Type != ipv6.ICMPTypeEchoReply {
			continue
		}
		e, ok := m.Body.(*icmp.Echo)
		if !ok {
			continue
		}
		src, _ := netip.ParseAddr(from.String())
		key := uint32(e.ID)<<16 | uint32(e.Seq)
		p.mu.Lock()
		if w, ok := p.echo[key]; ok && w.dst == src.Unmap().WithZone("") {
			delete(p.echo, key)
			close(w.got)
		}
		p.mu.Unlock()
	}
}

// run sends all probes, many at a time, and returns their answers in order.
func (p *prober) run(ctx context.Context, probes []Probe) []Answer {
	out := make([]Answer, len(probes))
	slots := make(chan struct{}, 128)
	var wg sync.WaitGroup
	for i, pr := range probes {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, answerTime)
			defer cancel()
			begin := time.Now()
			defer func() { out[i].Seconds = time.Since(begin).Seconds() }()
			switch pr.Proto {
			case "icmp":
				out[i] = p.ping(ctx, pr)
			case "tcp":
				out[i] = dial(ctx, pr)
			case "udp":
				out[i] = ask(ctx, pr)
			}
		})
	}
	wg.Wait()
	return out
}

func (p *prober) ping(ctx context.Context, pr Probe) Answer {
	key := p.next.Add(1)
	w := echoWait{pr.Dst, make(chan struct{})}
	p.mu.Lock()
	p.echo[key] = w
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.echo, key)
		p.mu.Unlock()
	}()
	m := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(key >> 16), Seq: int(key & 0xffff), Data: []byte("vnet")}}
	conn := p.conn4
	if pr.Dst.Is6() {
		m.Type, conn = ipv6.ICMPTypeEchoRequest, p.conn6
	}
	b, err := m.Marshal(nil)
	if err != nil {
		return Answer{Note: err.Error()}
	}
	var note string
	for k := 0; ; k++ {
		if _, err := conn.WriteTo(b, &net.IPAddr{IP: pr.Dst.AsSlice()}); err != nil {
			note = short(err)
		}
		wait := answerTime
		if k < len(resend) {
			wait = resend[k]
			if k > 0 {
				wait -= resend[k-1]
			}
		}
		select {
		case <-w.got:
			return Answer{OK: true}
		case <-ctx.Done():
			return Answer{Note: note}
		case <-time.After(wait):
		}
	}
}

func dial(ctx context.Context, pr Probe) Answer {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(pr.Dst, pr.Port).String())
	if err != nil {
		return Answer{Note: short(err)}
	}
	defer c.Close()
	if t, ok := ctx.Deadline(); ok {
		c.SetDeadline(t.Add(answerTime))
	}
	who, err := io.ReadAll(io.LimitReader(c, 64))
	if err != nil || len(who) == 0 {
		return Answer{Note: "connected, but nothing was said"}
	}
	return Answer{OK: true, Who: string(who)}
}

func ask(ctx context.Context, pr Probe) Answer {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(pr.Dst, pr.Port)))
	if err != nil {
		return Answer{Note: short(err)}
	}
	defer c.Close()
	end, _ := ctx.Deadline()
	var note string
	buf := make([]byte, 64)
	for k := 0; ctx.Err() == nil; k++ {
		until := end
		if k < len(resend) {
			until = time.Now().Add(resend[0])
		}
		// Writing waits too, while the next hop is looked for.
		c.SetDeadline(until)
		if _, err := c.Write([]byte("who")); err != nil {
			note = short(err)
		}
		n, err := c.Read(buf)
		if err == nil && n > 0 {
			return Answer{OK: true, Who: string(buf[:n])}
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			note = short(err)
			select {
			case <-ctx.Done():
			case <-time.After(resend[0]):
			}
		}
	}
	return Answer{Note: note}
}

// short leaves of an error what a table has room for.
func short(err error) string {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return ""
	}
	s := err.Error()
	if i := strings.LastIndex(s, ": "); i >= 0 {
		s = s[i+2:]
	}
	if strings.Contains(s, "timeout") {
		return ""
	}
	return s
}

// responder answers probes on all addresses the machine has or will have.
type responder struct {
	name string
	log  *slog.Logger
	mu   sync.Mutex
	open map[string]bool // "tcp 80"
}

// listen adds ports to those that are answered on.
func (r *responder) listen(tcp, udp []uint16) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for proto, ports := range map[string][]uint16{"tcp": tcp, "udp": udp} {
		for _, port := range ports {
			key := proto + " " + strconv.Itoa(int(port))
			if r.open[key] {
				continue
			}
			f := r.tcp
			if proto == "udp" {
				f = r.udp
			}
			if err := f(int(port)); err != nil {
				return fmt.Errorf("answer on %s: %w", key, err)
			}
			r.open[key] = true
		}
	}
	return nil
}

func (r *responder) tcp(port int) error {
	l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				r.log.Error("listener ended", "port", port, "err", err)
				return
			}
			go func() {
				c.SetDeadline(time.Now().Add(5 * time.Second))
				fmt.Fprint(c, r.name)
				takeIn(c)
				c.Close()
			}()
		}
	}()
	return nil
}

func (r *responder) udp(port int) error {
	c4, err := net.ListenUDP("udp4", &net.UDPAddr{Port: port})
	if err != nil {
		return err
	}
	c6, err := net.ListenUDP("udp6", &net.UDPAddr{Port: port})
	if err != nil {
		return err
	}
	p4, p6 := ipv4.NewPacketConn(c4), ipv6.NewPacketConn(c6)
	// The answer has to come from the address that was asked, which need not be the first.
	if err := errors.Join(p4.SetControlMessage(ipv4.FlagDst, true), p6.SetControlMessage(ipv6.FlagDst, true)); err != nil {
		return err
	}
	go func() {
		for buf := make([]byte, 512); ; {
			_, cm, from, err := p4.ReadFrom(buf)
			if err != nil {
				r.log.Error("responder ended", "port", port, "err", err)
				return
			}
			if cm != nil && !cm.Dst.IsMulticast() {
				p4.WriteTo([]byte(r.name), &ipv4.ControlMessage{Src: cm.Dst}, from)
			}
		}
	}()
	go func() {
		for buf := make([]byte, 512); ; {
			_, cm, from, err := p6.ReadFrom(buf)
			if err != nil {
				r.log.Error("responder ended", "port", port, "err", err)
				return
			}
			if cm != nil && !cm.Dst.IsMulticast() {
				p6.WriteTo([]byte(r.name), &ipv6.ControlMessage{Src: cm.Dst}, from)
			}
		}
	}()
	return nil
}

// gratuitousARP tells the network that an address is here now (RFC 5227, section 3).
func gratuitousARP(mac net.HardwareAddr, a netip.Addr) []byte {
	b := make([]byte, 42)
	for i := range 6 {
		b[i] = 0xff
	}
	copy(b[6:], mac)
	binary.BigEndian.PutUint16(b[12:], 0x0806)
	copy(b[14:], []byte{0, 1, 8, 0, 6, 4, 0, 1})
	copy(b[22:], mac)
	copy(b[28:], a.AsSlice())
	copy(b[38:], a.AsSlice())
	return b
}
