package rtnl

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Watch calls f with every change of a device until ctx ends, on the calling
// goroutine, and returns nil then. First it calls f with every device that
// stands. When the kernel had to drop events f gets one with Resync, followed
// by every device again. Loss of the socket is the error returned.
func (c *Conn) Watch(ctx context.Context, f func(LinkEvent)) error {
	var s *nl.NetlinkSocket
	err := c.ns.Do(func() (err error) {
		s, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
		return err
	})
	if err != nil {
		return fmt.Errorf("watch devices: %w", err)
	}
	defer s.Close()
	if s.SetReceiveBufferSize(4<<20, true) != nil {
		_ = s.SetReceiveBufferSize(4<<20, false)
	}
	stop := context.AfterFunc(ctx, s.Close) // ends Receive
	defer stop()

	all := func() error {
		links, err := c.Links()
		for _, l := range links {
			f(LinkEvent{Link: l})
		}
		return err
	}
	// Subscribed before listing: what changes in between is seen twice, not missed.
	err = all()
	for err == nil && ctx.Err() == nil {
		var msgs []syscall.NetlinkMessage
		msgs, _, err = s.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			f(LinkEvent{Resync: true})
			err = all()
			continue
		case errors.Is(err, unix.EINTR):
			err = nil
			continue
		case err != nil:
			continue
		}
		for _, m := range msgs {
			t := m.Header.Type
			// Family bridge tells of ports, with few attributes; the same change
			// comes as a device's too.
			if (t != unix.RTM_NEWLINK && t != unix.RTM_DELLINK) || len(m.Data) == 0 || m.Data[0] != unix.AF_UNSPEC {
				continue
			}
			l, perr := parseLink(m.Data)
			if perr != nil {
				continue
			}
			f(LinkEvent{Link: l, Gone: t == unix.RTM_DELLINK})
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watch devices: %w", err)
}
