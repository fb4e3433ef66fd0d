package lab

import (
	"fmt"
	"strings"
	"time"
)

// cluster makes the first server's file and lets the others join it.
func (c *Central) cluster(servers []*Server, port int) {
	c.l.t.Helper()
	raft := func(s *Server) string { return fmt.Sprintf("tcp:%s:%d", s.Host.IP, port) }
	first := servers[0]
	_, err := c.l.tool("ovsdb-tool", "create-cluster", first.file(), schemaFile(first.DB), raft(first))
	c.l.must(err)
	first.launch()
	for _, s := range servers[1:] {
		_, err := c.l.tool("ovsdb-tool", "join-cluster", s.file(), s.DB, raft(s), raft(first))
		c.l.must(err)
		s.launch()
	}
}

// Role is what a server says of itself: "leader", "follower" or "candidate";
// empty when it does not answer.
func (s *Server) Role() string {
	out, err := s.Appctl("cluster/status", s.DB)
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(out, "\n") {
		if v, ok := strings.CutPrefix(line, "Role: "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// Connected reports whether a server belongs to a cluster that has a leader.
func (s *Server) Connected() bool {
	_, err := s.ns.l.tool("ovsdb-client", "--timeout=1", "wait", s.Unix, s.DB, "connected")
	return err == nil
}

// Leader waits for a server that is leader and, if it was cut off, is
// connected to a majority, and returns it with all others of the database. Pass Central.NB or Central.SB.
func (c *Central) Leader(servers []*Server) (leader *Server, others []*Server) {
	c.l.t.Helper()
	Eventually(c.l.t, startLimit, "a leader of "+servers[0].DB, func() bool {
		leader = nil
		for _, s := range servers {
			if s.Running() && !s.stopped && !s.Host.cut && s.Role() == "leader" {
				leader = s
				return true
			}
		}
		time.Sleep(20 * time.Millisecond) // each look starts programs
		return false
	})
	return leader, c.others(leader)
}

// others are the servers of the same database without s.
func (c *Central) others(s *Server) (others []*Server) {
	for _, p := range c.peers(s) {
		if p != s {
			others = append(others, p)
		}
	}
	return others
}

// ActiveNorthd waits for a northd that holds the lock and returns it.
func (c *Central) ActiveNorthd() (active *Daemon) {
	c.l.t.Helper()
	Eventually(c.l.t, startLimit, "an active northd", func() bool {
		for _, d := range c.Northds {
			if !d.Running() || d.stopped {
				continue
			}
			if out, err := d.Appctl("status"); err == nil && strings.TrimSpace(out) == "Status: active" {
				active = d
				return true
			}
		}
		time.Sleep(20 * time.Millisecond)
		return false
	})
	return active
}

// Transfer makes the leader hand over its role, as a snapshot does.
func (s *Server) Transfer() error {
	_, err := s.Appctl("cluster/failure-test", "transfer-leadership")
	return err
}
