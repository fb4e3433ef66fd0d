// Package lab builds networks of namespaces for tests: hosts joined by an
// underlay, virtual machines, frames put on a wire and frames seen there.
//
// Everything a [Lab] makes carries its own prefix, which has the process id
// in it, and is removed when the test ends, also after a failure or a panic.
// What a killed test process left behind is removed by the next Lab on the
// machine. Traffic stays inside the namespaces.
//
//	l := lab.New(t)                        // skips under -short, fails without root
//	hosts := l.Underlay("h1", "h2")        // two hosts, 192.0.2.1 and 192.0.2.2
//	vm := l.NS("vm1")
//	l.Veth(hosts[0].NS, "tap0", vm, "eth0")
//	vm.Addr("eth0", "10.0.0.5/24")
//	cap := vm.Capture("eth0")
//	hosts[0].Inject("tap0", lab.Frame{...}.Bytes())
//	cap.Wait(time.Second, func(f lab.Frame) bool { return f.DstPort == 80 })
//
// A lab can also have hypervisors with Open vSwitch and OVN:
//
//	c := l.OVNCentral(nil)                 // Northbound, Southbound, northd
//	hv := l.Chassis(c, lab.ChassisOptions{Name: "hv1"}, lab.ChassisOptions{Name: "hv2"})
//	vm := hv[0].VM("vm1", "02:00:00:00:00:01", "10.0.0.5/24")
//	c.NBCtl("show")
package lab
