package lab

import "testing"

// RanInGuest reports whether the test has been run elsewhere: where the
// kernel lacks the named feature ("8021q", "nf_conntrack_bridge"), the same
// test is run in a virtual machine with a Debian kernel, its result becomes
// this test's, and the caller returns. Where the kernel has it, the caller
// goes on.
func RanInGuest(t *testing.T, feature string) bool {
	t.Helper()
	t.Fatalf("lab: this kernel lacks %s and the guest is not built yet", feature)
	return true
}
