package dpdk_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dpdk"
	"github.com/vnet-go/vnet/overlay"
)

func TestValidate(t *testing.T) {
	require.NoError(t, dpdk.Config{Init: "try"}.Validate())
	for want, c := range map[string]dpdk.Config{
		"init":                           {},
		"rxq_assign":                     {Init: "true", RxqAssign: "x"},
		"hugepages[0]":                   {Init: "true", Hugepages: []dpdk.Hugepages{{}}},
		"hugepages[1]":                   {Init: "true", Hugepages: []dpdk.Hugepages{{SizeKB: 1, Count: 1}, {SizeKB: 1, Count: 1}}},
		"socket_memory[0]":               {Init: "true", SocketMemory: []int{-1}},
		"less than the node's":           {Init: "true", SocketMemory: []int{2}, SocketLimit: []int{1}},
		"pmd_cores[1]":                   {Init: "true", PMDCores: []int{1, 1}},
		"which the switch splits at":     {Init: "true", ExtraArgs: []string{"a b"}},
		"not below the switch's run":     {Init: "true", VhostSocketDir: "../x"},
		"needs an absolute path, a mode": {Init: "true", SocketDirs: []dpdk.SocketDir{{Path: "x"}}},
	} {
		err := c.Validate()
		require.ErrorContains(t, err, want)
		var f *vnet.FieldError
		require.ErrorAs(t, err, &f)
	}
	p := dpdk.Port{ID: "p", Bridge: "b", Name: "n", Devargs: "d"}
	require.NoError(t, dpdk.State{Config: dpdk.Config{Init: "try"}, Ports: []dpdk.Port{p}}.Validate())
	require.ErrorContains(t, dpdk.State{Config: dpdk.Config{Init: "try"}, Ports: []dpdk.Port{p, p}}.Validate(), "of another")
	q := p
	q.RxDescriptors, q.MTU, q.RxQueues, q.RxqAffinity = 1000, 1, -1, map[int]int{3: 1}
	for _, want := range []string{"rx_descriptors", "mtu", "rx_queues", "rxq_affinity"} {
		require.ErrorContains(t, q.Validate(), want)
	}
	require.True(t, p.Equal(p))
	require.False(t, p.Equal(q))
	_, err := dpdk.New(nil)
	require.ErrorContains(t, err, "is nil")
}

func TestGuest(t *testing.T) {
	g := dpdk.Guest{ID: "net0", Kind: overlay.VhostUserServer, Socket: "/run/v", MAC: vnet.MAC{2, 0, 0, 0, 0, 1}, MemoryMB: 512, Queues: 4, MTU: 1450}
	args, err := g.QEMU()
	require.NoError(t, err)
	require.Contains(t, args, "socket,id=chr-net0,path=/run/v,reconnect=1")
	require.Contains(t, args, "memory-backend-file,id=mem-net0,size=512M,mem-path=/dev/hugepages,share=on,prealloc=on")
	require.Equal(t, "client", g.QEMUMode(), "the switch is the server")
	g.Kind = overlay.VhostUserClient
	xml, err := g.LibvirtXML()
	require.NoError(t, err)
	require.Equal(t, `<interface type='vhostuser'>
  <mac address='02:00:00:00:00:01'/>
  <source type='unix' path='/run/v' mode='server'/>
  <model type='virtio'/>
  <driver queues='4'/>
  <mtu size='1450'/>
</interface>
`, xml)
	_, err = dpdk.Guest{ID: "x", Kind: overlay.Tap, Socket: "a,b"}.QEMU()
	require.ErrorContains(t, err, "is no kind of vhost-user")
}
