package lab

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The guest is proven by something only its kernel can do: an 802.1Q device.
func TestGuestHasVLANDevices(t *testing.T) {
	if RanInGuest(t, "8021q") {
		return
	}
	l := New(t)
	a, b := l.NS("a"), l.NS("b")
	l.Veth(a, "eth0", b, "eth0")
	a.IP("link", "add", "link", "eth0", "name", "eth0.77", "type", "vlan", "id", "77")
	a.Up("eth0.77")
	cap := b.Capture("eth0")
	a.Inject("eth0.77", Frame{SrcMAC: a.MAC("eth0"), DstMAC: BroadcastMAC, EtherType: 0x88b5, Payload: []byte("x")}.Bytes())
	require.EqualValues(t, 77, cap.Wait(5*time.Second, func(f Frame) bool { return f.EtherType == 0x88b5 }).VLAN)
}
