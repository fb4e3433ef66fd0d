package qostest

import "testing"

// RunTraffic runs the cases that measure traffic.
func RunTraffic(t *testing.T, h Harness) {}
