package openflow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"time"
)

// write writes whole messages. One that is cut off by the end of ctx or by the
// time limit ends the connection, for the switch could not make sense of what
// would follow.
func (c *Conn) write(ctx context.Context, b []byte) error {
	select {
	case <-c.writing:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.Err()
	}
	defer func() { c.writing <- struct{}{} }()
	if err := ctx.Err(); err != nil {
		return err
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(c.o.Timeout))
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { _ = c.nc.SetWriteDeadline(time.Unix(1, 0)); close(cut) })
	_, err := c.nc.Write(b)
	if !stop() {
		<-cut
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		c.fail(fmt.Errorf("writing: %w", err))
		return c.Err()
	}
	return nil
}

// tell sends a message of the connection's own without waiting; one too many is
// dropped.
func (c *Conn) tell(b []byte) {
	select {
	case c.ctl <- b:
	default:
	}
}

func (c *Conn) control() {
	ctx := context.Background()
	for {
		select {
		case b := <-c.ctl:
			if c.write(ctx, b) != nil {
				return
			}
		case <-c.done:
			return
		}
	}
}

func (c *Conn) keepalive() {
	t := time.NewTicker(c.o.Keepalive / 2)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-c.done:
			return
		}
		silent := time.Since(time.Unix(0, c.heard.Load()))
		switch {
		case silent > 3*c.o.Keepalive:
			c.fail(fmt.Errorf("the switch has been silent for %v", silent.Round(time.Millisecond)))
			return
		case silent > c.o.Keepalive:
			b, _ := finish(appendMsgHeader(nil, typeEchoRequest, 0), 0)
			c.tell(b)
		}
	}
}

// readMessage reads one message into buf, if that is large enough.
func readMessage(in io.Reader, buf []byte) ([]byte, error) {
	if cap(buf) < 8 {
		buf = make([]byte, 8, 512)
	}
	buf = buf[:8]
	if _, err := io.ReadFull(in, buf); err != nil {
		return nil, err
	}
	n := int(get16(buf[2:]))
	if n < 8 {
		return nil, fmt.Errorf("openflow: a message of %d bytes", n)
	}
	if cap(buf) < n {
		buf = append(make([]byte, 0, 1<<bits.Len(uint(n))), buf...)
	}
	buf = buf[:n]
	_, err := io.ReadFull(in, buf[8:])
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return buf, err
}

// read handles what the switch says until the connection ends. The message is
// the handlers' until they return.
func (c *Conn) read(in io.Reader) error {
	var buf []byte
	var err error
	for {
		if buf, err = readMessage(in, buf); err != nil {
			return err
		}
		c.heard.Store(time.Now().UnixNano())
		if buf[0] != version && buf[1] != typeError && buf[1] != typeHello {
			return fmt.Errorf("openflow: a message of version %d after 1.5 was agreed on", buf[0])
		}
		if err := c.handle(buf); err != nil {
			return err
		}
	}
}
