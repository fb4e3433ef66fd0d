package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/dhcp"
	"github.com/vnet-go/vnet/examples/internal/machine"
	"github.com/vnet-go/vnet/examples/internal/matrix"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/qos"
	"github.com/vnet-go/vnet/sriov"
)

// Files in a cloud's state directory.
const (
	cloudFile  = "cloud.json" // the topology that was applied, or is being applied
	hostsFile  = "hosts.json" // all hosts there may be something of
	agentLock  = "agent.lock" // held by the agent; its process id stands in it
	agentSock  = "agent.sock"
	agentLog   = "agent.log"
	upLock     = "lock"        // held by up and down
	reportFile = "matrix.json" // the last matrix
)

// agent is the one background process of a cloud: it holds the subsystems of
// all hosts, makes them as `up` asks, and serves DHCP, router advertisements and
// metadata. In a real deployment each host runs its own.
type agent struct {
	m     *machine.Machine
	log   *slog.Logger
	insts *instances

	mu    sync.Mutex // one change at a time
	sites map[string]*agentSite
	topo  *topology.Cloud
}

type agentSite struct {
	*Subsystems
	made   topology.CloudHost // what it was opened with
	cancel context.CancelFunc
	served *sync.WaitGroup
}

// event is one line of the answer to a sync.
type event struct {
	Step    string  `json:"step,omitempty"`
	Seconds float64 `json:"seconds,omitempty"`
	Err     string  `json:"error,omitempty"`
	Budget  bool    `json:"budget,omitempty"` // the error is a *vnet.BudgetError
}

// agentMain is the life of the agent.
func agentMain(ctx context.Context, dir, name string) error {
	lock, err := os.OpenFile(filepath.Join(dir, agentLock), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another agent runs: %w", err)
	}
	lock.Truncate(0)
	fmt.Fprintln(lock, os.Getpid())
	a := &agent{m: &machine.Machine{Name: name, Dir: dir}, insts: &instances{}, sites: map[string]*agentSite{},
		log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	sock := filepath.Join(dir, agentSock)
	os.Remove(sock)
	l, err := net.Listen("unix", sock)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, os.Getpid()) })
	mux.HandleFunc("POST /sync", a.handleSync)
	mux.HandleFunc("POST /plan", a.handlePlan)
	mux.HandleFunc("GET /explain", a.handleExplain)
	mux.HandleFunc("POST /explain-packet", a.handleExplainPacket)
	mux.HandleFunc("POST /trace", a.handleTrace)
	mux.HandleFunc("GET /limits", a.handleLimits)
	mux.HandleFunc("GET /status", a.handleStatus)
	srv := &http.Server{Handler: mux, BaseContext: func(net.Listener) context.Context { return ctx }}
	context.AfterFunc(ctx, func() { srv.Close() })
	a.log.Info("agent", "cloud", name, "pid", os.Getpid())
	err = srv.Serve(l)
	a.mu.Lock()
	defer a.mu.Unlock()
	for n := range a.sites {
		a.close(n)
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// close ends a site's servers. What they have made stays.
func (a *agent) close(name string) {
	h := a.sites[name]
	delete(a.sites, name)
	h.cancel()
	h.served.Wait()
	if err := h.Close(); err != nil {
		a.log.Error("close", "host", name, "err", err)
	}
}

// open makes the set of open sites that of the topology.
func (a *agent) open(ctx context.Context, t *topology.Cloud) error {
	want := sites(t)
	for name, s := range a.sites {
		i := slices.IndexFunc(want, func(h topology.CloudHost) bool { return h.Name == name })
		if i < 0 || want[i].LocalIP != s.made.LocalIP || !slices.Equal(want[i].PhysicalNets, s.made.PhysicalNets) {
			a.close(name)
		}
	}
	for _, h := range want {
		if open := a.sites[h.Name]; open != nil {
			open.meet(t)
			continue
		}
		log := a.log.With("site", h.Name)
		s, err := openSite(ctx, a.m, t, h, a.insts, log)
		if err != nil {
			return err
		}
		// Outlives the request.
		run, cancel := context.WithCancel(context.Background())
		served := s.serve(run, log)
		a.sites[h.Name] = &agentSite{Subsystems: s, made: h, cancel: cancel, served: served}
		if t.Backend == topology.OVS {
			served.Go(func() { s.onRestart(run, log, func(ctx context.Context) error { return a.again(ctx, h.Name) }) })
		}
	}
	return nil
}

// platform is what carries a cloud.
func platform(backend string) Platform {
	switch backend {
	case topology.OVN:
		return Platform{Host: wireChassis, Central: wireOVN}
	case topology.OVS:
		return Platform{Host: wireOVS}
	}
	return Platform{Host: wireLinux}
}

// sites are the places that a cloud's subsystems are opened for: where all is
// written first, if there is such a place, then the hosts.
func sites(t *topology.Cloud) []topology.CloudHost {
	if platform(t.Backend).Central != nil {
		return append([]topology.CloudHost{{Name: central, States: t.All}}, t.Hosts...)
	}
	return t.Hosts
}

func openSite(ctx context.Context, m *machine.Machine, t *topology.Cloud, h topology.CloudHost, in *instances, log *slog.Logger) (*Subsystems, error) {
	p := platform(t.Backend)
	wire := p.Central
	o := SiteOptions{Owner: vnet.Owner(m.Name), Name: h.Name, Instances: in, UnderlayMTU: t.UnderlayMTU, Log: log}
	if h.Name != central {
		wire = p.Host
		o.Netns, o.TunnelIP, o.PhysicalNetworks = m.HostNS(h.Name), h.LocalIP, map[string]string{}
		for _, p := range h.PhysicalNets {
			o.PhysicalNetworks[p] = machine.PhysicalDevice(p)
			if t.Backend == topology.OVS {
				o.PhysicalNetworks[p] = machine.PhysicalBridge(p)
			}
		}
		o.OVS, o.Peers = m.OVS(h.Name), t.TunnelEnds()
		if h.DPDK != nil {
			pages, err := m.PagesBefore()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", h.Name, err)
			}
			c := m.DPDK(h, pages)
			o.DPDK = &c
		}
		o.Uplinks = map[string]string{qos.Tunnelled: machine.UnderlayDevice}
		for _, p := range h.PhysicalNets {
			o.Uplinks[p] = machine.PhysicalDevice(p)
		}
	}
	if p.Central != nil {
		o.OVN = m.OVN(h.Name)
		for _, x := range t.Hosts {
			o.Bridges = append(o.Bridges, "unix:"+filepath.Join(m.OVS(x.Name).RunDir, "br-int.mgmt"))
		}
	}
	s, err := wire(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", h.Name, err)
	}
	if s.Holds == share && (len(h.States.SRIOV.Devices) > 0 || anyFunctions()) {
		own, end := s.Close, func() error { return nil }
		if s.SRIOV, end, err = wireFunctions(ctx, m.Name, h.Name, log); err != nil {
			return nil, fmt.Errorf("%s: %w", h.Name, errors.Join(err, own()))
		}
		s.Close = func() error { return errors.Join(end(), own()) }
	}
	return s, nil
}

// again makes one host what it was told to be.
func (a *agent) again(ctx context.Context, name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sites[name]
	if s == nil || a.topo == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	return syncAll(ctx, map[string]*Subsystems{name: s.Subsystems}, a.topo, a.topo, a.m, vnet.SyncOptions{Force: true}, func(string, time.Duration) {})
}

func (a *agent) handleSync(w http.ResponseWriter, r *http.Request) {
	var t topology.Cloud
	if err := json.NewDecoder(r.Body).Decode(&t); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	tell := func(e event) {
		enc.Encode(e)
		flush.Flush()
	}
	begin := time.Now()
	err := a.open(r.Context(), &t)
	if err == nil {
		tell(event{Step: "hosts opened", Seconds: time.Since(begin).Seconds()})
		old := a.topo
		a.topo = &t
		a.insts.set(&t)
		sites := map[string]*Subsystems{}
		for n, s := range a.sites {
			sites[n] = s.Subsystems
		}
		err = syncAll(r.Context(), sites, &t, old, a.m, vnet.SyncOptions{Force: r.URL.Query().Get("force") == "true"}, func(s string, d time.Duration) {
			a.log.Info("synced", "step", s, "seconds", d.Seconds())
			tell(event{Step: s, Seconds: d.Seconds()})
		})
		for _, s := range sites {
			if err == nil && s.settled != nil {
				err = s.settled(r.Context())
			}
		}
	}
	if err != nil {
		a.log.Error("sync", "err", err)
		tell(event{Err: err.Error(), Budget: errors.Is(err, vnet.ErrBudget)})
	}
}

func (a *agent) handlePlan(w http.ResponseWriter, r *http.Request) {
	var t topology.Cloud
	if err := json.NewDecoder(r.Body).Decode(&t); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var sum vnet.Plan
	for _, h := range sites(&t) {
		open := a.sites[h.Name]
		s := (*Subsystems)(nil)
		if open != nil && open.made.LocalIP == h.LocalIP && (h.Name == central || stands(a.m, &t, h.Name)) {
			s = open.Subsystems
		}
		p, err := planOrNew(r.Context(), s, &t, h.Name)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		sum.Changes = append(sum.Changes, p.Changes...)
	}
	json.NewEncoder(w).Encode(sum)
}

// explained is what one site says of a thing.
type explained struct {
	Host string             `json:"host"`
	Of   []vnet.Explanation `json:"of"`
}

func (a *agent) handleExplain(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []explained
	if a.topo != nil {
		for _, h := range sites(a.topo) {
			open := a.sites[h.Name]
			if open == nil || open.Holds == nothing {
				continue
			}
			e, err := open.explain(r.Context(), r.URL.Query().Get("kind"), r.URL.Query().Get("id"))
			if errors.Is(err, errUsage) {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			if err != nil {
				http.Error(w, fmt.Sprintf("%s: %v", h.Name, err), http.StatusInternalServerError)
				return
			}
			if len(e) > 0 {
				out = append(out, explained{h.Name, e})
			}
		}
	}
	json.NewEncoder(w).Encode(out)
}

func (a *agent) handleExplainPacket(w http.ResponseWriter, r *http.Request) {
	var j matrix.Judge
	if err := json.NewDecoder(r.Body).Decode(&j); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.sites[j.Host]
	if c := a.sites[central]; c != nil {
		h = c
	}
	if h == nil {
		http.Error(w, "host "+j.Host+" is not open", http.StatusNotFound)
		return
	}
	e, err := h.SecGroup.ExplainPacket(r.Context(), j.PortID, j.Packet)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	e.Text = fmt.Sprintf("%s rules of port %s: %s", j.Packet.Direction, j.PortID, e.Text)
	json.NewEncoder(w).Encode(explained{j.Host, []vnet.Explanation{e}})
}

// traceOf is a packet that a host's switch is asked about, sent by a port of it
// or, without PortID, as Flow says.
type traceOf struct{ Host, PortID, Flow string }

func (a *agent) handleTrace(w http.ResponseWriter, r *http.Request) {
	var of traceOf
	if err := json.NewDecoder(r.Body).Decode(&of); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.sites[of.Host]
	if h == nil || h.trace == nil {
		http.Error(w, "host "+of.Host+" has no switch that traces", http.StatusNotFound)
		return
	}
	text, err := h.trace(r.Context(), of.PortID, of.Flow)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	json.NewEncoder(w).Encode(text)
}

// hostStatus is what the agent tells of one site.
type hostStatus struct {
	Health   map[string]vnet.Health `json:"health"`
	Tracking string                 `json:"tracking"` // how security groups hold connections
	Leases   []dhcp.Lease           `json:"leases"`   // as the DHCP server knows them
	// Functions are those of cards that ports of the host have, and the cards' word for their rates.
	Functions []functionStatus `json:"functions,omitempty"`
}

// functionStatus is a virtual function that a port has.
type functionStatus struct {
	sriov.Attachment
	Settings sriov.Settings `json:"settings"`
}

// functions are those of a host.
func (s *Subsystems) functions(ctx context.Context) (out []functionStatus, err error) {
	if s.SRIOV == nil {
		return nil, nil
	}
	all, err := s.SRIOV.Attachments(ctx)
	if err != nil {
		return nil, err
	}
	cards, err := s.SRIOV.Discover(ctx)
	for _, a := range all {
		x := functionStatus{Attachment: a}
		for _, c := range cards {
			if c.PCI == a.PF && a.VF < len(c.VFs) {
				x.Settings = c.VFs[a.VF].Settings
			}
		}
		out = append(out, x)
	}
	return out, err
}

func (a *agent) handleStatus(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]hostStatus{}
	for n, h := range a.sites {
		st := hostStatus{Health: h.health(r.Context())}
		var err error
		if st.Functions, err = h.functions(r.Context()); err != nil {
			http.Error(w, fmt.Sprintf("%s: %v", n, err), http.StatusInternalServerError)
			return
		}
		if h.Holds != nothing {
			st.Tracking = h.SecGroup.Features(r.Context()).Tracking
			for l, err := range h.DHCP.Leases(r.Context()) {
				if err == nil {
					st.Leases = append(st.Leases, l)
				}
			}
		}
		out[n] = st
	}
	json.NewEncoder(w).Encode(out)
}

// agentClient speaks with a cloud's agent.
type agentClient struct{ http *http.Client }

func newAgentClient(m *machine.Machine) *agentClient {
	return &agentClient{unixClient(filepath.Join(m.Dir, agentSock))}
}

// unixClient is an HTTP client whose every host is the socket at path.
func unixClient(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
}

func (c *agentClient) alive(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return c.call(ctx, "GET", "/health", nil, nil) == nil
}

// call sends in as JSON and reads out from the answer, either of which may be nil.
func (c *agentClient) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.open(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Close()
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp).Decode(out)
}

func (c *agentClient) open(ctx context.Context, method, path string, in any) (io.ReadCloser, error) {
	var body bytes.Buffer
	if in != nil {
		if err := json.NewEncoder(&body).Encode(in); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, &body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
		err := errors.New(string(bytes.TrimSpace(b)))
		if resp.StatusCode == http.StatusBadRequest {
			err = fmt.Errorf("%w: %w", err, errUsage)
		}
		return nil, err
	}
	return resp.Body, nil
}

// sync makes the cloud so; told hears of each step.
func (c *agentClient) sync(ctx context.Context, t *topology.Cloud, force bool, told func(event)) error {
	body, err := c.open(ctx, "POST", fmt.Sprintf("/sync?force=%t", force), t)
	if err != nil {
		return err
	}
	defer body.Close()
	for lines := bufio.NewScanner(body); ; {
		if !lines.Scan() {
			return lines.Err()
		}
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return err
		}
		if e.Err != "" {
			if e.Budget {
				e.Err += "\n(--force goes on all the same)"
			}
			return errors.New(e.Err)
		}
		told(e)
	}
}

func (c *agentClient) explain(ctx context.Context, kind, id string) ([]explained, error) {
	var out []explained
	q := url.Values{"kind": {kind}, "id": {id}}
	return out, c.call(ctx, "GET", "/explain?"+q.Encode(), nil, &out)
}

func (c *agentClient) explainPacket(ctx context.Context, j matrix.Judge) (explained, error) {
	var out explained
	return out, c.call(ctx, "POST", "/explain-packet", j, &out)
}

func (c *agentClient) trace(ctx context.Context, of traceOf) (out string, err error) {
	return out, c.call(ctx, "POST", "/trace", of, &out)
}
