package main

import (
	"errors"

	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/dhcp/memdhcp"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/memmetadata"
	"github.com/vnet-go/vnet/overlay"
	"github.com/vnet-go/vnet/overlay/memoverlay"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/qos/memqos"
	"github.com/vnet-go/vnet/router"
	"github.com/vnet-go/vnet/router/memrouter"
	"github.com/vnet-go/vnet/secgroup"
	"github.com/vnet-go/vnet/secgroup/memsecgroup"
)

// wireMem carries a host in memory, with nothing on it: plan asks it about
// hosts that do not exist yet.
func wireMem() (*Subsystems, error) {
	var e1, e2, e3, e4, e5, e6 error
	s := &Subsystems{Close: func() error { return nil }}
	s.Overlay, e1 = overlay.New(memoverlay.New(nil), nil)
	s.SecGroup, e2 = secgroup.New(memsecgroup.New(nil), nil)
	s.Router, e3 = router.New(memrouter.New(nil), nil)
	s.DHCP, e4 = dhcp.New(memdhcp.New(nil), nil)
	s.Metadata, e5 = metadata.New(memmetadata.New(), nil)
	s.QoS, e6 = qos.New(memqos.New(nil), nil)
	return s, errors.Join(e1, e2, e3, e4, e5, e6)
}
