package ovnqos_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet/internal/lab"
)

// payload makes frames of 1400 bytes: 14 of Ethernet, 20 of IPv4, 8 of UDP.
const (
	payload = 1358
	frame   = 1400
)

// flow is UDP from one machine to another at a steady rate.
type flow struct {
	to   *net.UDPConn
	stop chan struct{}
	done chan int // frames sent
}

func start(t testing.TB, from, to *lab.NS, addr string, kbps int) *flow {
	t.Helper()
	f := &flow{stop: make(chan struct{}), done: make(chan int, 1)}
	require.NoError(t, to.Do(func() (err error) {
		f.to, err = net.ListenUDP("udp", nil)
		return err
	}))
	require.NoError(t, f.to.SetReadBuffer(8<<20))
	port := uint16(f.to.LocalAddr().(*net.UDPAddr).Port)
	var c *net.UDPConn
	require.NoError(t, from.Do(func() (err error) {
		c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), port)))
		return err
	}))
	go func() {
		b := make([]byte, payload)
		began, sent := time.Now(), 0
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		defer c.Close()
		for {
			select {
			case <-f.stop:
				f.done <- sent
				return
			case <-tick.C:
			}
			for due := int(time.Since(began).Microseconds()) * kbps / 1000 / 8 / frame; sent < due; sent++ {
				c.Write(b)
			}
		}
	}()
	t.Cleanup(func() { f.to.Close() })
	return f
}

// count receives for a while and says how many frames came, and in which time.
func (f *flow) count(d time.Duration) (frames int, in time.Duration) {
	b := make([]byte, 2048)
	end := time.Now().Add(d)
	var first, last time.Time
	f.to.SetReadDeadline(end)
	for {
		if _, err := f.to.Read(b); err != nil {
			return frames, last.Sub(first)
		}
		last = time.Now()
		if frames == 0 {
			first = last
		}
		frames++
	}
}

// kbps receives for a while and says at which rate frames came.
func (f *flow) kbps(d time.Duration) int {
	n, in := f.count(d)
	if n < 2 {
		return 0
	}
	return int(float64(n-1) * frame * 8 / 1000 / in.Seconds())
}

func (f *flow) end() int { close(f.stop); return <-f.done }
