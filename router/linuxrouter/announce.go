package linuxrouter

import (
	"net/netip"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/pktio"
	"github.com/vnet-go/vnet/linux"
)

// Announcements are repeated, for frames get lost and bridges may not forward
// yet; Neutron sends three, two seconds apart.
const (
	announcements    = 3
	announceInterval = 2 * time.Second
)

// announce tells a network by gratuitous ARP and unsolicited neighbour
// advertisements that addrs are at mac now. It returns at once; failures are
// logged, for the neighbours find out by themselves in time.
func (b *Backend) announce(ns *linux.Namespace, dev string, mac vnet.MAC, addrs []netip.Addr) {
	c, err := pktio.Open(ns, dev, nil)
	if err != nil {
		b.h.Logger().Warn("router: announce", "device", dev, "err", err)
		return
	}
	go func() {
		defer c.Close()
		for i := range announcements {
			if i > 0 {
				time.Sleep(announceInterval)
			}
			for _, a := range addrs {
				if err := c.Send(pktio.Announce(mac, a, true)); err != nil {
					if i == 0 {
						b.h.Logger().Debug("router: announce", "device", dev, "address", a, "err", err)
					}
					return // the device went
				}
			}
		}
	}()
}
