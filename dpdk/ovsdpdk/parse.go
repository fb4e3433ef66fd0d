package ovsdpdk

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/vnet-go/vnet/dpdk"
)

// parsePMDs reads what dpif-netdev/pmd-stats-show prints.
func parsePMDs(text string) (out []dpdk.PMD) {
	var now *dpdk.PMD
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		var node, core int
		if n, _ := fmt.Sscanf(line, "pmd thread numa_id %d core_id %d:", &node, &core); n == 2 {
			out = append(out, dpdk.PMD{Node: node, Core: core})
			now = &out[len(out)-1]
			continue
		}
		if strings.HasPrefix(line, "main thread") {
			now = nil
		}
		key, val, ok := strings.Cut(line, ":")
		if now == nil || !ok {
			continue
		}
		val, _, _ = strings.Cut(strings.TrimSpace(val), " ")
		n, err := strconv.ParseUint(val, 10, 64)
		if err != nil {
			continue
		}
		switch key {
		case "packets received":
			now.Received = n
		case "idle cycles":
			now.IdleCycles = n
		case "processing cycles":
			now.BusyCycles = n
		case "emc hits":
			now.EMCHits = n
		case "megaflow hits":
			now.MegaflowHits = n
		case "miss with success upcall":
			now.Misses = n
		}
	}
	return out
}

// parseQueues reads what dpif-netdev/pmd-rxq-show prints.
func parseQueues(text string) (out []dpdk.Queue) {
	var node, core int
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if n, _ := fmt.Sscanf(line, "pmd thread numa_id %d core_id %d:", &node, &core); n == 2 {
			continue
		}
		rest, ok := strings.CutPrefix(line, "port:")
		if !ok {
			continue
		}
		f := strings.Fields(rest)
		q := dpdk.Queue{Node: node, Core: core, Usage: -1, Enabled: strings.Contains(line, "(enabled)")}
		if len(f) == 0 {
			continue
		}
		q.Port = f[0]
		for i, w := range f {
			switch {
			case strings.HasPrefix(w, "queue-id:"):
				if w = strings.TrimPrefix(w, "queue-id:"); w == "" && i+1 < len(f) {
					w = f[i+1]
				}
				q.Queue, _ = strconv.Atoi(w)
			case w == "usage:" && i+1 < len(f):
				if n, err := strconv.Atoi(f[i+1]); err == nil {
					q.Usage = n
				}
			}
		}
		out = append(out, q)
	}
	return out
}
