package leasestore

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
)

var ip = netip.MustParseAddr

func pool(scope, first, last string) Pool {
	return Pool{Scope: scope, Ranges: []dhcp.AddrRange{{First: ip(first), Last: ip(last)}}}
}

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func open(t testing.TB, path string, c *clock) *Store {
	t.Helper()
	if c == nil {
		c = &clock{time.Unix(1000, 0)}
	}
	s, err := Open(path, &Options{Now: c.now})
	require.NoError(t, err)
	return s
}

func held(s *Store) map[netip.Addr]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[netip.Addr]string{}
	for _, t := range s.tables {
		for _, e := range t.byIP {
			if e.state != offered {
				out[e.ip] = fmt.Sprintf("%c %s %s %d", e.state, e.scope, e.client.Key, e.expires)
			}
		}
	}
	return out
}

func TestChoice(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	s := open(t, "", c)
	p := pool("s", "192.0.2.10", "192.0.2.12")
	p.Taken = func(a netip.Addr) bool { return a == ip("192.0.2.11") }

	a, ok := s.Offer(p, Client{Key: "a"}, netip.Addr{})
	require.True(t, ok)
	require.Equal(t, ip("192.0.2.10"), a)
	_, ok = s.Bind(p, Client{Key: "b"}, a, time.Minute)
	require.False(t, ok, "an offered address is another's")
	b, ok := s.Offer(p, Client{Key: "b"}, ip("192.0.2.10"))
	require.True(t, ok)
	require.Equal(t, ip("192.0.2.12"), b, "the wanted one is offered to a, .11 is taken")
	_, ok = s.Offer(p, Client{Key: "c"}, netip.Addr{})
	require.False(t, ok, "full")

	_, ok = s.Bind(p, Client{Key: "a"}, a, time.Minute)
	require.True(t, ok)
	c.t = c.t.Add(31 * time.Second) // b did not come
	got, ok := s.Offer(p, Client{Key: "c"}, netip.Addr{})
	require.True(t, ok)
	require.Equal(t, b, got)
	c.t = c.t.Add(40 * time.Second) // a's lease and c's offer ended
	got, ok = s.Offer(p, Client{Key: "a"}, netip.Addr{})
	require.True(t, ok)
	require.Equal(t, a, got, "a client gets again what it had")
}

func TestRelease(t *testing.T) {
	s := open(t, "", nil)
	p := pool("s", "2001:db8::1", "2001:db8::ffff")
	a, _ := s.Offer(p, Client{Key: "a"}, netip.Addr{})
	_, ok := s.Bind(p, Client{Key: "a"}, a, -1)
	require.True(t, ok)
	require.Len(t, s.Leases(), 1)
	require.True(t, s.Leases()[0].Expires.IsZero())
	require.False(t, s.Release("s", "b", a), "not b's")
	require.True(t, s.Release("s", "a", a))
	require.Empty(t, s.Leases())
	require.False(t, s.Release("s", "a", a), "gone already")
}

func TestDecline(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	path := filepath.Join(t.TempDir(), "l")
	s := open(t, path, c)
	p := pool("s", "192.0.2.1", "192.0.2.2")
	a, _ := s.Offer(p, Client{Key: "a"}, ip("192.0.2.1"))
	s.Bind(p, Client{Key: "a"}, a, time.Hour)
	require.True(t, s.Decline("s", "a", a))
	b, ok := s.Offer(p, Client{Key: "a"}, a)
	require.True(t, ok)
	require.Equal(t, ip("192.0.2.2"), b)
	_, ok = s.Bind(p, Client{Key: "a"}, b, time.Hour)
	require.True(t, ok)
	_, ok = s.Offer(p, Client{Key: "c"}, netip.Addr{})
	require.False(t, ok, "a declined address rests")
	require.NoError(t, s.Close())

	s = open(t, path, c)
	got, _, ok := s.Find("s", "a")
	require.True(t, ok)
	require.Equal(t, b, got)
	_, ok = s.Offer(p, Client{Key: "c"}, netip.Addr{})
	require.False(t, ok, "also after a restart")
	c.t = c.t.Add(25 * time.Hour)
	got, ok = s.Offer(p, Client{Key: "c"}, netip.Addr{})
	require.True(t, ok)
	require.Contains(t, []netip.Addr{a, b}, got)
	require.NoError(t, s.Close())
}

func TestOffersAreForgotten(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	s := open(t, "", c)
	p := pool("s", "2001:db8::", "2001:db8::ffff:ffff:ffff:ffff")
	for i := range 5000 {
		c.t = c.t.Add(time.Second)
		_, ok := s.Offer(p, Client{Key: fmt.Sprint(i)}, netip.Addr{})
		require.True(t, ok)
	}
	require.Less(t, s.n, 100)
}

func TestOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	s := open(t, path, nil)
	_, err := Open(path, nil)
	require.ErrorContains(t, err, "in use")
	require.NoError(t, s.Close())
	require.NoError(t, open(t, path, nil).Close())
}

func TestNotAStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	require.NoError(t, os.WriteFile(path, []byte("something of the user's"), 0o600))
	_, err := Open(path, nil)
	require.ErrorContains(t, err, "not a lease store")
	b, _ := os.ReadFile(path)
	require.Equal(t, "something of the user's", string(b))
}

// A crash leaves any prefix of the file: what was flushed up to there is
// there, and nothing else is.
func TestTruncatedAtEveryOffset(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "l")
	c := &clock{time.Unix(1000, 0)}
	s := open(t, path, c)
	p := pool("s", "192.0.2.1", "192.0.2.200")
	type mark struct {
		size int64
		want map[netip.Addr]string
	}
	marks := []mark{{0, map[netip.Addr]string{}}}
	flush := func() {
		require.NoError(t, s.Flush())
		marks = append(marks, mark{s.log.size, held(s)})
	}
	flush()
	for i := range 12 {
		cl := Client{Key: fmt.Sprint("client", i%5), MAC: vnet.MAC{2, 0, 0, 0, 0, byte(i)}, Hostname: "h"}
		a, ok := s.Offer(p, cl, netip.Addr{})
		require.True(t, ok)
		_, ok = s.Bind(p, cl, a, time.Hour)
		require.True(t, ok)
		flush()
		switch i % 4 {
		case 1:
			s.Release("s", cl.Key, a)
			flush()
		case 3:
			s.Decline("s", cl.Key, a)
			flush()
		}
	}
	require.NoError(t, s.Close())
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for n := 0; n <= len(whole); n++ {
		cut := filepath.Join(dir, "cut")
		require.NoError(t, os.WriteFile(cut, whole[:n], 0o600))
		s, err := Open(cut, &Options{Now: c.now})
		require.NoError(t, err, "at %d", n)
		var want map[netip.Addr]string
		for _, m := range marks {
			if m.size <= int64(n) {
				want = m.want
			}
		}
		require.Equal(t, want, held(s), "at %d of %d", n, len(whole))
		// And it goes on from there.
		cl := Client{Key: "later"}
		a, ok := s.Offer(p, cl, netip.Addr{})
		require.True(t, ok)
		_, ok = s.Bind(p, cl, a, time.Hour)
		require.True(t, ok)
		require.NoError(t, s.Flush())
		want = maps.Clone(held(s))
		require.NoError(t, s.Close())
		s = open(t, cut, c)
		require.Equal(t, want, held(s))
		require.Zero(t, s.Recovered())
		require.NoError(t, s.Close())
	}
}

func TestDamagedByte(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	s := open(t, path, nil)
	p := pool("s", "192.0.2.1", "192.0.2.200")
	for i := range 10 {
		s.Bind(p, Client{Key: fmt.Sprint(i)}, ip(fmt.Sprintf("192.0.2.%d", i+1)), time.Hour)
	}
	require.NoError(t, s.Close())
	whole, _ := os.ReadFile(path)
	for i := len(magic); i < len(whole); i++ {
		b := append([]byte(nil), whole...)
		b[i] ^= 0x41
		require.NoError(t, os.WriteFile(path, b, 0o600))
		s := open(t, path, nil)
		require.Less(t, s.n, 10)
		require.Positive(t, s.Recovered())
		require.NoError(t, s.Close())
	}
}

func TestCompaction(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	s, err := Open(path, &Options{CompactSize: 2000})
	require.NoError(t, err)
	p := pool("s", "192.0.2.1", "192.0.2.9")
	for range 300 {
		for _, k := range []string{"a", "b", "c"} {
			a, ok := s.Offer(p, Client{Key: k}, netip.Addr{})
			require.True(t, ok)
			_, ok = s.Bind(p, Client{Key: k}, a, time.Hour)
			require.True(t, ok)
		}
		require.NoError(t, s.Flush())
	}
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.Less(t, st.Size(), int64(4000))
	want := held(s)
	require.NoError(t, s.Close())
	s = open(t, path, nil)
	require.Equal(t, want, held(s))
	require.NoError(t, s.Close())
}

// After a write that failed the store says so, and comes back by itself.
func TestDiskError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	s := open(t, path, nil)
	p := pool("s", "192.0.2.1", "192.0.2.9")
	s.Bind(p, Client{Key: "a"}, ip("192.0.2.1"), time.Hour)
	good := s.log.file
	ro, err := os.Open(path)
	require.NoError(t, err)
	s.log.file = ro
	require.Error(t, s.Flush())
	good.Close()
	require.NoError(t, s.Flush(), "written anew")
	want := held(s)
	require.NoError(t, s.Close())
	s = open(t, path, nil)
	require.Equal(t, want, held(s))
	require.Len(t, want, 1)
	require.NoError(t, s.Close())
}

func TestForget(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l")
	s := open(t, path, nil)
	s.Bind(pool("a", "192.0.2.1", "192.0.2.9"), Client{Key: "a"}, ip("192.0.2.1"), -1)
	s.Bind(pool("b", "192.0.2.1", "192.0.2.9"), Client{Key: "a"}, ip("192.0.2.1"), -1)
	s.Forget(func(scope string) bool { return scope == "b" })
	require.NoError(t, s.Close())
	s = open(t, path, nil)
	require.Len(t, s.Leases(), 1)
	require.Equal(t, "b", s.Leases()[0].ScopeID)
	require.NoError(t, s.Close())
}

// No two clients ever hold one address, whatever they do, and the file says
// what the memory says.
func TestRandom(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n))
		c := &clock{time.Unix(1000, 0)}
		s, err := Open(path, &Options{Now: c.now, CompactSize: 1000})
		if err != nil {
			t.Fatal(err)
		}
		p := pool("s", "192.0.2.1", "192.0.2.5")
		told := map[string]netip.Addr{} // what clients believe to hold
		until := map[string]time.Time{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			k := fmt.Sprint(rapid.IntRange(0, 7).Draw(t, "client"))
			a := ip(fmt.Sprintf("192.0.2.%d", rapid.IntRange(0, 6).Draw(t, "addr")))
			switch rapid.IntRange(0, 5).Draw(t, "do") {
			case 0, 1:
				if o, ok := s.Offer(p, Client{Key: k}, a); ok {
					a = o
				}
				fallthrough
			case 2:
				if exp, ok := s.Bind(p, Client{Key: k}, a, time.Minute); ok {
					told[k], until[k] = a, exp
				}
			case 3:
				if s.Release("s", k, a) {
					delete(told, k)
				}
			case 4:
				if s.Decline("s", k, a) {
					delete(told, k)
				}
			case 5:
				c.t = c.t.Add(time.Duration(rapid.IntRange(0, 70).Draw(t, "sleep")) * time.Second)
				if err := s.Flush(); err != nil {
					t.Fatal(err)
				}
			}
			seen := map[netip.Addr]string{}
			for k, a := range told {
				if !until[k].After(c.t) {
					continue
				}
				if o := seen[a]; o != "" {
					t.Fatalf("%s and %s both hold %s", o, k, a)
				}
				seen[a] = k
			}
		}
		live := func(s *Store) map[netip.Addr]string {
			out := map[netip.Addr]string{}
			for _, l := range s.Leases() {
				out[l.IP] = l.Expires.String()
			}
			return out
		}
		want := live(s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s, err = Open(path, &Options{Now: c.now})
		if err != nil {
			t.Fatal(err)
		}
		if got := live(s); !maps.Equal(got, want) {
			t.Fatalf("file says %v, memory said %v", got, want)
		}
		s.Close()
	})
}

// Flushes that overlap share a sync.
func BenchmarkBindFlush(b *testing.B) {
	for _, g := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("goroutines=%d", g), func(b *testing.B) {
			s, err := Open(filepath.Join(b.TempDir(), "l"), nil)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			p := pool("s", "10.0.0.1", "10.255.255.254")
			var wg sync.WaitGroup
			b.ResetTimer()
			for w := range g {
				wg.Go(func() {
					for i := w; i < b.N; i += g {
						k := Client{Key: fmt.Sprint(i)}
						a, _ := s.Offer(p, k, netip.Addr{})
						s.Bind(p, k, a, time.Hour)
						if err := s.Flush(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}
