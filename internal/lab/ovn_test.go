package lab

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTwoChassisCarryASwitch(t *testing.T) {
	l := New(t)
	start := time.Now()
	c := l.OVNCentral(nil)
	t.Logf("central after %v", time.Since(start))
	hv := l.Chassis(c, ChassisOptions{Name: "hv1"}, ChassisOptions{Name: "hv2"})
	t.Logf("chassis after %v", time.Since(start))
	c.NBCtl("ls-add", "s",
		"--", "lsp-add", "s", "vm1", "--", "lsp-set-addresses", "vm1", "02:00:00:00:00:01 10.0.0.1 fd00::1",
		"--", "lsp-add", "s", "vm2", "--", "lsp-set-addresses", "vm2", "02:00:00:00:00:02 10.0.0.2 fd00::2")
	vm1 := hv[0].VM("vm1", "02:00:00:00:00:01", "10.0.0.1/24", "fd00::1/64")
	hv[1].VM("vm2", "02:00:00:00:00:02", "10.0.0.2/24", "fd00::2/64")
	c.SBCtl("wait-until", "Port_Binding", "vm1", "up=true", "--", "wait-until", "Port_Binding", "vm2", "up=true")
	t.Logf("up after %v", time.Since(start))
	Eventually(t, 10*time.Second, "ping", func() bool { return vm1.Ping("10.0.0.2", 1) == nil })
	require.NoError(t, vm1.Ping("fd00::2", 3))
	t.Logf("ping after %v", time.Since(start))
}
