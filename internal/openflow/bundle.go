package openflow

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Bundle control types and flags (OpenFlow 1.5.1, section 7.3.9).
const (
	bundleOpen    = 0
	bundleCommit  = 4
	bundleDiscard = 6

	bundleAtomicOrdered = 1 | 2
)

// chunk is about how many bytes are handed to the socket at a time; others may
// write between.
const chunk = 128 << 10

// Mod is a change that a bundle can have: a *[FlowMod] or a *[GroupMod].
type Mod interface {
	fmt.Stringer
	appendMessage(b []byte, xid uint32) ([]byte, error)
}

// Bundle makes all of the changes in their order and at once, or none: packets
// see the tables as they were before or as they are after. The first change that is not
// valid is an [*InvalidError], the first that the switch refuses a [*FlowError].
//
// When ctx ends before the switch was asked to commit, nothing has changed;
// after that the caller has to look.
func (c *Conn) Bundle(ctx context.Context, mods []FlowMod) error {
	return c.bundle(ctx, len(mods), func(i int) Mod { return &mods[i] })
}

// BundleMods is [Conn.Bundle] for groups and flows together.
func (c *Conn) BundleMods(ctx context.Context, mods []Mod) error {
	return c.bundle(ctx, len(mods), func(i int) Mod { return mods[i] })
}

func (c *Conn) bundle(ctx context.Context, n int, mod func(int) Mod) error {
	if n == 0 {
		return nil
	}
	r := c.watch(n)
	defer c.forget(r)
	c.mu.Lock()
	c.bundles++
	id := c.bundles
	c.mu.Unlock()
	chunks, err := encodeBundle(id, r.first, n, mod)
	if err != nil {
		return err
	}
	if err := c.bundleControl(ctx, id, bundleOpen); err != nil {
		return err
	}
	// Open vSwitch commits a bundle of which it refused a part without it, so
	// all that was said about the parts must be known before.
	for _, b := range chunks {
		if err = c.write(ctx, b); err != nil {
			break
		}
	}
	if err == nil {
		err = c.Barrier(ctx)
	}
	if err == nil {
		if e := c.firstError(r); e != nil {
			err = r.blame(e, mod)
		}
	}
	if err != nil {
		if ctx.Err() != nil { // the caller does not wait any more
			go c.discard(id)
		} else {
			c.discard(id)
		}
		return err
	}
	if err = c.bundleControl(ctx, id, bundleCommit); err != nil {
		if e := c.firstError(r); e != nil {
			return r.blame(e, mod)
		}
	}
	return err
}

// blame names the change that an error is about.
func (r *errRange) blame(e *Error, mod func(int) Mod) error {
	switch m := mod(int(e.XID - r.first)).(type) {
	case *FlowMod:
		return &FlowError{*m, e}
	default:
		return fmt.Errorf("openflow: %s: %w", m, e)
	}
}

// encodeBundle makes the messages that add the changes, in chunks.
func encodeBundle(id, first uint32, n int, mod func(int) Mod) ([][]byte, error) {
	var chunks [][]byte
	b := make([]byte, 0, chunk+chunk/8)
	for i := range n {
		xid := first + uint32(i)
		start := len(b)
		b = be16(be32(appendMsgHeader(b, typeBundleAdd, xid), id), 0, bundleAtomicOrdered)
		var err error
		if b, err = mod(i).appendMessage(b, xid); err != nil {
			return nil, err
		}
		if b, err = finish(b, start); err != nil {
			return nil, &InvalidError{What: mod(i).String(), Reason: err.Error()}
		}
		if len(b) >= chunk {
			chunks = append(chunks, b)
			b = make([]byte, 0, chunk+chunk/8)
		}
	}
	return append(chunks, b), nil
}

func (c *Conn) bundleControl(ctx context.Context, id uint32, typ uint16) error {
	return c.call(ctx, func(b []byte, xid uint32) ([]byte, error) {
		return finish(appendBundleControl(b, xid, id, typ), len(b))
	}, func(m []byte) (bool, error) {
		if m[1] != typeBundleControl || len(m) < 16 || get16(m[12:]) != typ+1 {
			return true, unexpected(m, "an answer to a bundle control")
		}
		return true, nil
	})
}

func appendBundleControl(b []byte, xid, id uint32, typ uint16) []byte {
	return be16(be32(appendMsgHeader(b, typeBundleControl, xid), id), typ, bundleAtomicOrdered)
}

// discard drops a bundle whatever became of the caller's context.
func (c *Conn) discard(id uint32) {
	ctx, cancel := context.WithTimeout(context.Background(), min(c.o.Timeout, time.Second))
	defer cancel()
	if err := c.bundleControl(ctx, id, bundleDiscard); err != nil && !errors.Is(err, ErrClosed) && c.Err() == nil {
		c.o.Logger.Debug("openflow: discarding a bundle", "error", err)
	}
}

// Apply makes the changes one by one, in order, without a bundle: packets see
// the steps, those before a refused one stay, and those after it are made too.
func (c *Conn) Apply(ctx context.Context, mods []FlowMod) error {
	r := c.watch(len(mods))
	defer c.forget(r)
	var b []byte
	var err error
	for i := range mods {
		if b, err = mods[i].appendMessage(b, r.first+uint32(i)); err != nil {
			return err
		}
		if len(b) >= chunk || i == len(mods)-1 {
			if err = c.write(ctx, b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	if err := c.Barrier(ctx); err != nil {
		return err
	}
	if e := c.firstError(r); e != nil {
		return r.blame(e, func(i int) Mod { return &mods[i] })
	}
	return nil
}
