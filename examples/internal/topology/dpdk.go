package topology

import (
	"runtime"

	"github.com/vnet-go/vnet/dpdk"
)

// dpdk takes over what a host's switch gets.
func (b *builder) dpdk(h *CloudHost, f Host, path string) {
	if b.c.Backend != OVS {
		b.bad(path, "only the backend ovs has switches with DPDK")
		return
	}
	d := *f.DPDK
	if d.SocketMemory == 0 {
		d.SocketMemory = 256
	}
	if d.Hugepages == 0 {
		d.Hugepages = d.SocketMemory/2 + 128
		for _, s := range b.f.Servers {
			if s.Host == h.Name || s.Host == "" && b.f.Hosts[0].Name == h.Name {
				d.Hugepages += 128
			}
		}
	}
	if d.PMDCores == nil {
		d.PMDCores = []int{runtime.NumCPU() - 1}
	}
	b.contract(path, d.Config().Validate())
	h.DPDK = &d
}

// Config is what package dpdk is told, without the places of a machine.
func (d DPDK) Config() dpdk.Config {
	return dpdk.Config{Init: "true", Hugepages: []dpdk.Hugepages{{SizeKB: 2048, Count: d.Hugepages}}, SocketMemory: []int{d.SocketMemory}, PMDCores: d.PMDCores,
		LCores: []int{0}, ExtraArgs: []string{"--no-pci", "--no-telemetry"}}
}
