package secgrouptest

import "testing"

func runPackets(*testing.T, Harness) {}
func runRandom(*testing.T, Harness)  {}
