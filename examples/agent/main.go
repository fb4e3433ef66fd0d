// Command agent keeps one host as it is to be: networks and ports with their
// devices, security groups, routers, DHCP and metadata. What is to be it reads
// from a file or a directory, again whenever that changes (package desired of the
// examples; a distributed store is another source).
//
//	agent -owner cloud -host h1 -backend linux -tunnel-ip 192.0.2.1 \
//	    -physical provider=eth1 -state /etc/vnet/state.d -instances /etc/vnet/instances.json
//
// It may be stopped, killed and started again at any time: traffic flows on
// meanwhile, and a start writes nothing where all is as wanted. With -cleanup it
// takes away everything of its owner on this host, and ends.
//
// It needs CAP_NET_ADMIN and CAP_SYS_ADMIN, and runs no program.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp/leasestore"
	"github.com/vnet-go/vnet/examples/internal/desired"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/filesource"
)

// config is what the flags say.
type config struct {
	owner, host, backend string
	state, statusFile    string
	poll                 time.Duration
	dir                  string
	instances, tokens    string
	netns, netnsDir      string
	tunnelIP, peers      string
	physical             string
	vswitch              string
	rundir, control      string
	bridge, datapath     string
	listen               string
	resync               time.Duration
	retryMin, retryMax   time.Duration
	maxLag               time.Duration
	deleteShare          float64
	force, cleanup       bool
	verbose              bool
}

func (c *config) flags(f *flag.FlagSet) {
	f.StringVar(&c.owner, "owner", "", "whose things are made: everything on the host carries it, and nothing else is touched")
	f.StringVar(&c.host, "host", "", "name of this host as in the state; empty: the kernel's host name")
	f.StringVar(&c.backend, "backend", "linux", "what carries it: "+strings.Join(backends(), ", "))
	f.StringVar(&c.state, "state", "", "JSON file, or directory of them, that says what this host is to be; read again when it changes")
	f.StringVar(&c.statusFile, "status", "", "file to tell in, as JSON, how far the host has come; empty: none")
	f.DurationVar(&c.poll, "poll", 250*time.Millisecond, "how often to look whether the state has changed")
	f.StringVar(&c.dir, "dir", "/var/lib/vnet-agent", "directory for what is kept between starts: the last state that was good, leases of pools; empty: keep nothing")
	f.StringVar(&c.instances, "instances", "", "JSON file that says who is behind an address (package metadata/filesource); read again when it changes")
	f.StringVar(&c.tokens, "tokens", "", "IMDSv2 tokens: optional (as it is by default), required or off")
	f.StringVar(&c.netns, "netns", "", "network namespace that is the host, a path; empty: this process's")
	f.StringVar(&c.netnsDir, "netns-dir", "", "where named network namespaces are; empty: /run/netns")
	f.StringVar(&c.tunnelIP, "tunnel-ip", "", "this host's end of tunnels; empty: none")
	f.StringVar(&c.peers, "peers", "", "ovs: the hosts that gateways fail over between, or that use them, with their ends of tunnels: HOST=ADDRESS,...")
	f.StringVar(&c.physical, "physical", "", "physical networks and the device or bridge that is each: NAME=DEVICE,...")
	f.StringVar(&c.vswitch, "vswitch", "unix:/run/openvswitch/db.sock", "ovs: endpoint of this host's Open_vSwitch database")
	f.StringVar(&c.rundir, "ovs-rundir", "", "ovs: directory of ovs-vswitchd's sockets; empty: that of the database's socket")
	f.StringVar(&c.control, "ovs-control", "", "ovs: control socket of ovs-vswitchd; empty: ovs-vswitchd.PID.ctl in -ovs-rundir")
	f.StringVar(&c.bridge, "bridge", "", "ovs: name of the integration bridge; empty: from the owner")
	f.StringVar(&c.datapath, "datapath", "", "ovs: datapath type of the integration bridge, system or netdev; empty: as the machine has")
	f.StringVar(&c.listen, "listen", "127.0.0.1:9699", "address of /healthz, /metrics, /plan and /explain, which only read; empty: none")
	f.DurationVar(&c.resync, "resync", 5*time.Minute, "how often to check that the host is still as it was made, and mend it")
	f.DurationVar(&c.retryMin, "retry-min", 250*time.Millisecond, "how long to wait after a failure at first; twice as long each time")
	f.DurationVar(&c.retryMax, "retry-max", 10*time.Second, "how long to wait after a failure at most")
	f.DurationVar(&c.maxLag, "max-lag", 10*time.Second, "for how long the host may be otherwise than wanted until /healthz is 503")
	f.Float64Var(&c.deleteShare, "delete-share", 0.5, "share of a subsystem's objects that one new state may remove (and always 10)")
	f.BoolVar(&c.force, "force", false, "remove whatever is not wanted, however much")
	f.BoolVar(&c.cleanup, "cleanup", false, "take away everything of the owner on this host, and end")
	f.BoolVar(&c.verbose, "v", false, "log more")
}

func backends() []string { return slices.Sorted(maps.Keys(platforms)) }

// check completes the flags and reports what is wrong with them.
func (c *config) check() error {
	var errs []error
	wrong := func(flag, format string, args ...any) { errs = append(errs, fmt.Errorf("-"+flag+": "+format, args...)) }
	if err := vnet.Owner(c.owner).Validate(); err != nil {
		wrong("owner", "%v", err)
	}
	if c.host == "" {
		c.host, _ = os.Hostname()
	}
	if platforms[c.backend] == nil {
		wrong("backend", "there is no %q, but %s", c.backend, strings.Join(backends(), " and "))
	}
	if c.state == "" && !c.cleanup {
		wrong("state", "is missing: what is this host to be?")
	}
	for _, d := range []struct {
		flag string
		v    time.Duration
	}{{"poll", c.poll}, {"resync", c.resync}, {"retry-min", c.retryMin}, {"retry-max", c.retryMax}} {
		if d.v <= 0 {
			wrong(d.flag, "%v is not more than 0", d.v)
		}
	}
	if c.deleteShare <= 0 || c.deleteShare > 1 {
		wrong("delete-share", "%v is not more than 0 and at most 1", c.deleteShare)
	}
	if c.statusFile != "" && filepath.Dir(c.statusFile) == filepath.Clean(c.state) {
		wrong("status", "%s is in the directory of the state", c.statusFile)
	}
	return errors.Join(errs...)
}

func main() {
	var c config
	f := flag.NewFlagSet("agent", flag.ExitOnError)
	c.flags(f)
	_ = f.Parse(os.Args[1:]) // it exits
	if f.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "agent: %q: no such argument\n", f.Arg(0))
		os.Exit(2)
	}
	if err := c.check(); err != nil {
		fmt.Fprintf(os.Stderr, "agent: %v\n", err)
		os.Exit(2)
	}
	level := slog.LevelInfo
	if c.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the next signal ends the process at once
	if err := run(ctx, c, log); err != nil {
		log.Error("stopped", "err", err)
		os.Exit(1)
	}
	log.Info("stopped")
}

// instances answers from a file. While that has a mistake, who is not found may
// be one whom the file was to tell of: he is to ask again.
type instances struct{ *filesource.Source }

func (s instances) Lookup(ctx context.Context, a metadata.Asker) (*metadata.Instance, error) {
	if s.Source == nil {
		return nil, vnet.ErrNotReady
	}
	in, err := s.Source.Lookup(ctx, a)
	if errors.Is(err, vnet.ErrNotFound) && s.Err() != nil {
		err = vnet.ErrNotReady
	}
	return in, err
}

// run is the daemon's life.
func run(ctx context.Context, c config, log *slog.Logger) (err error) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	o, done, err := c.hostOptions(log, reg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	if c.cleanup {
		s, err := platforms[c.backend](ctx, o)
		if err != nil {
			return err
		}
		return errors.Join(s.cleanup(ctx), s.close(), c.forget())
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer func() {
		if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
			err = errors.Join(err, cause)
		}
	}()
	p := newPages(reg)
	if c.listen != "" {
		l, err := net.Listen("tcp", c.listen)
		if err != nil {
			return err
		}
		log.Info("serving health and metrics", "address", l.Addr().String())
		defer listenHTTP(l, p, cancel)()
	}
	log.Info("starting", "owner", c.owner, "host", c.host, "backend", c.backend, "state", c.state)
	s, err := c.open(ctx, o, p)
	if s == nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()

	var src desired.Source = &desired.File{Path: c.state, Poll: c.poll, StatusFile: c.statusFile}
	var cached *desired.Cached
	if c.dir != "" {
		cached = &desired.Cached{Source: src, Path: c.kept("state.json"), Logger: log}
		src = cached
	}
	a := newAgent(s, src, agentOptions{host: c.host, resync: c.resync, retryMin: c.retryMin, retryMax: c.retryMax, finish: 5 * time.Second,
		budget: vnet.SyncOptions{DeleteShare: c.deleteShare, Force: c.force}, instances: c.instances != ""}, reg, log)
	if cached != nil {
		if d, ok := cached.Last(); ok {
			a.a.remember(&d)
			a.made = &d
		}
	}
	p.serve(a.handler(reg, c.maxLag))
	defer p.wait(errors.New("and stopping already"))
	a.run(ctx)
	return nil
}

// open opens the platform, and waits for one that is not there yet: it is nil,
// without an error, when ctx ends before.
func (c *config) open(ctx context.Context, o hostOptions, p *pages) (*subsystems, error) {
	for {
		s, err := platforms[c.backend](ctx, o)
		switch {
		case err == nil:
			return s, nil
		case ctx.Err() != nil:
			return nil, nil
		case !errors.Is(err, vnet.ErrNotReady) && !errors.Is(err, context.DeadlineExceeded):
			return nil, err
		}
		o.log.Warn("waiting for the platform", "err", err)
		p.wait(err)
		select {
		case <-ctx.Done():
		case <-time.After(c.retryMax):
		}
	}
}

// kept is a file that stays between starts.
func (c *config) kept(name string) string {
	return filepath.Join(c.dir, c.owner+"."+c.host+"."+name)
}

// forget removes what is kept.
func (c *config) forget() error {
	var errs []error
	for _, name := range []string{"state.json", "leases"} {
		if c.dir == "" {
			break
		}
		if err := os.Remove(c.kept(name)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// hostOptions opens what a platform needs. The host is this process's alone
// until done is called.
func (c *config) hostOptions(log *slog.Logger, reg prometheus.Registerer) (o hostOptions, done func() error, err error) {
	o = hostOptions{owner: vnet.Owner(c.owner), host: c.host, netns: c.netns, netnsDir: c.netnsDir, physicalNetworks: map[string]string{}, peers: map[string]netip.Addr{},
		instances: instances{}, tokens: metadata.Tokens(c.tokens), vswitch: c.vswitch, rundir: c.rundir, control: c.control, bridge: c.bridge, datapath: c.datapath,
		log: log, metrics: reg}
	var closers []func() error
	closeAll := func() error {
		var errs []error
		for _, f := range slices.Backward(closers) {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	if c.tunnelIP != "" {
		if o.tunnelIP, err = netip.ParseAddr(c.tunnelIP); err != nil {
			return o, nil, fmt.Errorf("-tunnel-ip: %w", err)
		}
	}
	for pair := range strings.SplitSeq(c.peers, ",") {
		if pair == "" {
			continue
		}
		name, addr, ok := strings.Cut(pair, "=")
		if o.peers[name], err = netip.ParseAddr(addr); err != nil || !ok || name == "" {
			return o, nil, fmt.Errorf("-peers: %q is not HOST=ADDRESS", pair)
		}
	}
	for pair := range strings.SplitSeq(c.physical, ",") {
		name, dev, ok := strings.Cut(pair, "=")
		if pair == "" {
			continue
		}
		if !ok || name == "" || dev == "" {
			return o, nil, fmt.Errorf("-physical: %q is not NAME=DEVICE", pair)
		}
		o.physicalNetworks[name] = dev
	}
	if c.instances != "" {
		src, _ := filesource.Open(c.instances, &filesource.Options{Logger: log}) // it has logged what is wrong
		o.instances = instances{src}
	}
	if c.dir == "" {
		return o, closeAll, nil
	}
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return o, nil, err
	}
	lock, err := os.OpenFile(c.kept("lock"), os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return o, nil, err
	}
	closers = append(closers, lock.Close)
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return o, nil, fmt.Errorf("another agent of owner %s runs on %s: %w", c.owner, cmp.Or(c.host, "this host"), err)
	}
	if o.leases, err = leasestore.Open(c.kept("leases"), nil); err != nil {
		return o, nil, err
	}
	closers = append(closers, o.leases.Close)
	return o, closeAll, nil
}
