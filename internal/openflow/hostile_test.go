package openflow

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fake is a switch made of a function: it gets each message and answers what it
// likes. It greets and describes itself by default.
type fake struct {
	nc      net.Conn
	answers func(f *fake, m []byte)
}

func (f *fake) send(b ...[]byte) {
	for _, x := range b {
		_, _ = f.nc.Write(x)
	}
}

func message(typ uint8, xid uint32, body ...byte) []byte {
	b, _ := finish(append(appendMsgHeader(nil, typ, xid), body...), 0)
	return b
}

// well does what a switch does.
func well(f *fake, m []byte) {
	xid := binary.BigEndian.Uint32(m[4:])
	switch m[1] {
	case typeHello:
		f.send(message(typeHello, 0, 0, 1, 0, 8, 0, 0, 0, 1<<version))
	case typeFeaturesRequest:
		f.send(message(typeFeaturesReply, xid, make([]byte, 24)...))
	case typeBarrierRequest:
		f.send(message(typeBarrierReply, xid))
	case typeEchoRequest:
		f.send(message(typeEchoReply, xid))
	}
}

func dialFake(t *testing.T, o *Options, answers func(f *fake, m []byte)) (*Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		f := &fake{nc, answers}
		for {
			m, err := readMessage(nc, nil)
			if err != nil {
				return
			}
			answers(f, m)
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	start := time.Now()
	c, err := Dial(ctx, "tcp", l.Addr().String(), o)
	assert.Less(t, time.Since(start), 30*time.Second)
	if err == nil {
		t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func TestGreetingNonsense(t *testing.T) {
	for name, b := range map[string][]byte{
		"not OpenFlow":        []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"too short a length":  {6, 0, 0, 3, 0, 0, 0, 0},
		"no hello":            message(typeEchoRequest, 1),
		"an error":            message(typeError, 1, 0, 0, 0, 0),
		"an error, cut short": message(typeError, 1),
		"an odd element":      message(typeHello, 1, 0, 9, 0, 1, 0, 0, 0, 0),
		"an empty bitmap":     message(typeHello, 1, 0, 1, 0, 8, 0, 0, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := dialFake(t, &Options{Timeout: 300 * time.Millisecond}, func(f *fake, m []byte) {
				if m[1] == typeHello {
					f.send(b)
				}
			})
			require.Error(t, err)
		})
	}
	_, err := dialFake(t, nil, func(f *fake, m []byte) { f.send([]byte{4, 0, 0, 8, 0, 0, 0, 0}) })
	var v *VersionError
	require.ErrorAs(t, err, &v)
	assert.EqualValues(t, 0b11110, v.Versions)
	_, err = dialFake(t, &Options{Timeout: 100 * time.Millisecond}, func(*fake, []byte) {})
	require.ErrorIs(t, err, context.DeadlineExceeded, "a switch that says nothing")
	_, err = dialFake(t, &Options{Timeout: 100 * time.Millisecond}, func(f *fake, m []byte) {
		if m[1] == typeHello {
			well(f, m)
		}
	})
	require.ErrorIs(t, err, context.DeadlineExceeded, "a switch that stops after the hello")
}

// What an ill answer does to each request: an error, and in time.
func TestAnswersNonsense(t *testing.T) {
	junk := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i*7 + n)
		}
		return b
	}
	kind := func(m []byte) byte {
		if len(m) < 16 {
			return 0
		}
		return m[9]
	}
	answers := map[string]func(f *fake, m []byte){
		"of another type": func(f *fake, m []byte) { f.send(message(typeSetConfig, binary.BigEndian.Uint32(m[4:]))) },
		"empty":           func(f *fake, m []byte) { f.send(message(typeMultipartReply, binary.BigEndian.Uint32(m[4:]))) },
		"rubbish": func(f *fake, m []byte) {
			f.send(message(typeMultipartReply, binary.BigEndian.Uint32(m[4:]), append([]byte{0, kind(m), 0, 0, 0, 0, 0, 0}, junk(900)...)...))
		},
		"short": func(f *fake, m []byte) {
			f.send(message(typeMultipartReply, binary.BigEndian.Uint32(m[4:]), append([]byte{0, kind(m), 0, 0, 0, 0, 0, 0}, junk(3)...)...))
		},
		"an error": func(f *fake, m []byte) { f.send(message(typeError, binary.BigEndian.Uint32(m[4:]), 0, 99, 0, 99)) },
		"version":  func(f *fake, m []byte) { f.send([]byte{4, typeBarrierReply, 0, 8, 0, 0, 0, 1}) },
		"never":    func(*fake, []byte) {},
		"always more": func(f *fake, m []byte) {
			f.send(message(typeMultipartReply, binary.BigEndian.Uint32(m[4:]), 0, kind(m), 0, 1, 0, 0, 0, 0))
		},
		"the end": func(f *fake, m []byte) { f.nc.Close() },
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			for what, call := range map[string]func(context.Context, *Conn) error{
				"flows":     func(ctx context.Context, c *Conn) error { _, err := c.Flows(ctx, FlowFilter{}); return err },
				"aggregate": func(ctx context.Context, c *Conn) error { _, err := c.Aggregate(ctx, FlowFilter{}); return err },
				"groups":    func(ctx context.Context, c *Conn) error { _, err := c.Groups(ctx); return err },
				"stats":     func(ctx context.Context, c *Conn) error { _, err := c.GroupStats(ctx); return err },
				"meters":    func(ctx context.Context, c *Conn) error { _, err := c.Meters(ctx); return err },
				"ports":     func(ctx context.Context, c *Conn) error { _, err := c.Ports(ctx); return err },
				"bundle":    func(ctx context.Context, c *Conn) error { return c.Bundle(ctx, numbered(3)) },
				"echo":      (func(ctx context.Context, c *Conn) error { return c.Echo(ctx) }),
			} {
				bad := false
				c, err := dialFake(t, nil, func(f *fake, m []byte) {
					if !bad {
						well(f, m)
						bad = m[1] == typeBarrierRequest // the greeting's last
						return
					}
					answer(f, m)
				})
				require.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				start := time.Now()
				err = call(ctx, c)
				cancel()
				if name == "rubbish" && err == nil {
					t.Errorf("%s: no error", what)
				}
				if what != "aggregate" && what != "stats" && name != "empty" {
					assert.Error(t, err, what)
				}
				assert.Less(t, time.Since(start), 10*time.Second, what)
				c.Close()
			}
		})
	}
}

func TestSilentSwitchIsGivenUp(t *testing.T) {
	quiet := false
	c, err := dialFake(t, &Options{Keepalive: 20 * time.Millisecond}, func(f *fake, m []byte) {
		if !quiet {
			well(f, m)
			quiet = m[1] == typeBarrierRequest
		}
	})
	require.NoError(t, err)
	select {
	case <-c.Done():
		assert.ErrorContains(t, c.Err(), "silent")
	case <-time.After(10 * time.Second):
		t.Fatal("not given up")
	}
	c, err = dialFake(t, &Options{Keepalive: 400 * time.Millisecond}, well)
	require.NoError(t, err)
	select {
	case <-c.Done():
		t.Fatal(c.Err())
	case <-time.After(2 * time.Second): // longer than a silence may be
	}
}

func TestEchoIsAnswered(t *testing.T) {
	answered := make(chan []byte, 1)
	c, err := dialFake(t, nil, func(f *fake, m []byte) {
		well(f, m)
		switch m[1] {
		case typeBarrierRequest:
			f.send(message(typeEchoRequest, 77, 1, 2, 3))
		case typeEchoReply:
			select {
			case answered <- m:
			default:
			}
		}
	})
	require.NoError(t, err)
	select {
	case m := <-answered:
		assert.Equal(t, message(typeEchoReply, 77, 1, 2, 3), m)
	case <-time.After(10 * time.Second):
		t.Fatal("not answered")
	}
	assert.NoError(t, c.Err())
}

// A switch that takes nothing more holds up nobody longer than they wait.
func TestSwitchThatDoesNotRead(t *testing.T) {
	hold := make(chan struct{})
	defer close(hold)
	c, err := dialFake(t, nil, func(f *fake, m []byte) {
		well(f, m)
		if m[1] == typeBundleControl {
			f.send(message(typeBundleControl, binary.BigEndian.Uint32(m[4:]), append(append([]byte(nil), m[8:12]...), 0, 1, 0, 3)...))
			<-hold
		}
	})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	start := time.Now()
	err = c.Bundle(ctx, numbered(200_000)) // more than the sockets' buffers
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Less(t, time.Since(start), 15*time.Second)
}

func TestCloseEndsCalls(t *testing.T) {
	c, err := dialFake(t, nil, func(f *fake, m []byte) {
		if m[1] != typeEchoRequest {
			well(f, m)
		}
	})
	require.NoError(t, err)
	errs := make(chan error, 1)
	go func() { errs <- c.Echo(context.Background()) }()
	time.Sleep(time.Millisecond) // either order is right
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-errs, ErrClosed)
	require.NoError(t, c.Close())
	_, err = c.Flows(t.Context(), FlowFilter{})
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, c.Err(), ErrClosed)
	var _ io.Closer = c
}
