// Command metadata-agent answers machines' metadata requests on one hypervisor
// of an OVN installation. What endpoints there are is written centrally (package
// metadata/ovnmetadata); this daemon reads them from the Southbound and answers
// on the networks that have machines here.
//
//	metadata-agent -owner cloud -southbound ssl:192.0.2.1:6642,ssl:192.0.2.2:6642 \
//	    -ca ca.pem -cert host.pem -key host.key \
//	    -instances instances.json -nova-url http://192.0.2.10:8775 -nova-secret-file secret
//
// It needs CAP_NET_ADMIN and CAP_SYS_ADMIN, and neither ovs-vsctl nor ip.
package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/filesource"
	"github.com/vnet-go/vnet/metadata/ovnmetadata"
	"github.com/vnet-go/vnet/ovn"
)

// config is what the flags say.
type config struct {
	owner               string
	southbound, vswitch string
	ca, cert, key       string
	serverName          string
	instances           string
	novaURL, novaSecret string
	tokens              string
	listen              string
	netns, netnsDir     string
	rate                float64
	lag                 time.Duration
	keep, verbose       bool
}

func (c *config) flags(f *flag.FlagSet) {
	f.StringVar(&c.owner, "owner", "", "whose endpoints and machines: the owner that the central part writes with")
	f.StringVar(&c.southbound, "southbound", "unix:/run/ovn/ovnsb_db.sock", "endpoints of the Southbound, all members of the cluster: unix:PATH, tcp:HOST:PORT or ssl:HOST:PORT, comma-separated")
	f.StringVar(&c.vswitch, "vswitch", "unix:/run/openvswitch/db.sock", "endpoint of this host's Open_vSwitch database")
	f.StringVar(&c.ca, "ca", "", "PEM file of the authority that signed the Southbound's certificates")
	f.StringVar(&c.cert, "cert", "", "PEM file of this host's certificate")
	f.StringVar(&c.key, "key", "", "PEM file of its key")
	f.StringVar(&c.serverName, "server-name", "", "name that the Southbound's certificates must have; empty: that the authority signed them will do")
	f.StringVar(&c.instances, "instances", "", "JSON file that says who is behind an address (package metadata/filesource); read again when it changes")
	f.StringVar(&c.novaURL, "nova-url", "", "forward to this API as Neutron's agent does; empty: answer from the instances file")
	f.StringVar(&c.novaSecret, "nova-secret-file", "", "file with what Nova has as metadata_proxy_shared_secret")
	f.StringVar(&c.tokens, "tokens", "", "IMDSv2 tokens when this daemon answers itself: optional (as it is by default), required or off")
	f.StringVar(&c.listen, "listen", "127.0.0.1:9698", "address of /metrics and /healthz; empty: none")
	f.StringVar(&c.netns, "netns", "", "network namespace that ovs-vswitchd runs in, a path; empty: this process's")
	f.StringVar(&c.netnsDir, "netns-dir", "", "where named network namespaces are; empty: /run/netns")
	f.Float64Var(&c.rate, "rate", 0, "requests a second that one machine may make; 0: 50, negative: any number")
	f.DurationVar(&c.lag, "max-lag", time.Minute, "how long the view of the Southbound may be out of date until /healthz says so")
	f.BoolVar(&c.keep, "keep", false, "leave namespaces and interfaces when stopped, for the next start to take over")
	f.BoolVar(&c.verbose, "v", false, "log more")
}

func main() {
	var c config
	f := flag.NewFlagSet("metadata-agent", flag.ExitOnError)
	c.flags(f)
	_ = f.Parse(os.Args[1:]) // it exits
	if f.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "metadata-agent: %q: no such argument\n", f.Arg(0))
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
		log.Error("stopped", "error", err)
		os.Exit(1)
	}
	log.Info("stopped")
}

// run serves until ctx ends, and takes away what it made.
func run(ctx context.Context, c config, log *slog.Logger) (err error) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	st := &status{lag: c.lag, metrics: reg}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if c.listen != "" {
		l, err := net.Listen("tcp", c.listen)
		if err != nil {
			return err
		}
		log.Info("metrics and health", "address", l.Addr().String())
		done := st.serve(l, cancel)
		defer done()
	}

	tc, err := c.tls()
	if err != nil {
		return err
	}
	o, err := c.agent(reg, log)
	if err != nil {
		return err
	}
	conn, err := ovn.Dial(ctx, vnet.Owner(c.owner), nil, &ovn.Options{Southbound: strings.Split(c.southbound, ","), TLS: tc,
		Lazy: true, Logger: log, Metrics: reg}) // the Southbound may come later
	if err != nil {
		return fmt.Errorf("southbound: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ch, err := ovn.OpenChassis(ctx, vnet.Owner(c.owner), c.vswitch, &ovn.ChassisOptions{Netns: c.netns, TLS: tc, Logger: log})
	if err != nil {
		return fmt.Errorf("this host's Open vSwitch: %w", err)
	}
	defer func() { err = errors.Join(err, ch.Close()) }()
	cfg, err := ch.Config(ctx)
	if err != nil {
		return fmt.Errorf("this host's Open vSwitch: %w", err)
	}
	host, err := linux.Open(ctx, vnet.Owner(c.owner), &linux.Options{Name: cfg.SystemID, Netns: c.netns, NetnsDir: c.netnsDir, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, host.Close()) }()
	agent, err := ovnmetadata.NewAgent(conn, ch, host, o)
	if err != nil {
		return err
	}
	st.watch(agent)

	err = agent.Serve(ctx)
	if cause := context.Cause(ctx); err == nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	if c.keep {
		return err
	}
	last, end := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer end()
	return errors.Join(err, agent.Cleanup(last))
}

// tls is how to speak to "ssl:" endpoints; nil without files.
func (c *config) tls() (*tls.Config, error) {
	if c.ca == "" && c.cert == "" && c.key == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(c.ca)
	if err != nil {
		return nil, fmt.Errorf("-ca: %w", err)
	}
	t := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: c.serverName}
	if !t.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("-ca: %s has no certificate", c.ca)
	}
	if c.cert != "" || c.key != "" {
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, fmt.Errorf("-cert, -key: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}

// agent is how to answer.
func (c *config) agent(reg prometheus.Registerer, log *slog.Logger) (*ovnmetadata.AgentOptions, error) {
	if c.instances == "" {
		return nil, errors.New("-instances is not given: nothing says who is behind an address")
	}
	src, err := filesource.Open(c.instances, &filesource.Options{Logger: log})
	if err != nil {
		return nil, fmt.Errorf("-instances: %w", err)
	}
	o := &ovnmetadata.AgentOptions{Instances: src, Metrics: reg, Logger: log,
		Server: metadata.ServerOptions{Tokens: metadata.Tokens(c.tokens)}, Proxy: metadata.ProxyOptions{Rate: c.rate}}
	if c.novaURL == "" {
		return o, nil
	}
	secret, err := readSecret(c.novaSecret)
	if err != nil {
		return nil, fmt.Errorf("-nova-secret-file: %w", err)
	}
	o.Nova = &metadata.NovaOptions{URL: c.novaURL, Secret: secret}
	return o, nil
}

// readSecret reads a file that only its owner should be able to read.
func readSecret(name string) ([]byte, error) {
	f, err := os.Open(cmp.Or(name, "(not given)"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4<<10))
	if err != nil {
		return nil, err
	}
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return nil, fmt.Errorf("%s is empty", name)
	}
	return b, nil
}
