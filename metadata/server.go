package metadata

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
)

// ServerOptions of a [Server]. The zero value is usable.
type ServerOptions struct {
	// Tokens is how IMDSv2 tokens are treated where the instance does not say;
	// empty: [TokensOptional].
	Tokens Tokens
	// TokenKey signs tokens; at least 16 bytes. Give all servers of a cloud the
	// same, and tokens outlive restarts and migrations. Nil: a random one.
	TokenKey []byte
	// Passwords keeps what instances post. Nil: memory, see [NewMemoryPasswords].
	Passwords Passwords
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Logger gets failures of Instances and Passwords; nil: none.
	Logger *slog.Logger
}

// Server answers requests for metadata as EC2 and OpenStack's Nova do. It is
// an [http.Handler]; who asks it is told by [WithAsker], or else it takes the
// connection's source address, on no network.
//
// Below / is the EC2 tree, also at /ec2, below /openstack that of Nova. A
// directory lists its names, one a line, with a slash after those of
// directories and no newline at the end. There is 404 for what is not there
// and for who is not known, 503 with Retry-After while [Instances] cannot
// say, 405 for methods other than GET and HEAD, and 401 for a token that is
// missing, bad, of another instance, or old.
type Server struct {
	src  Instances
	o    ServerOptions
	toks tokens
}

// NewServer returns a server of what src says. o may be nil.
func NewServer(src Instances, o *ServerOptions) (*Server, error) {
	if src == nil {
		return nil, bad("instances", "", "is nil")
	}
	s := &Server{src: src}
	if o != nil {
		s.o = *o
	}
	switch s.o.Tokens {
	case "":
		s.o.Tokens = TokensOptional
	case TokensOptional, TokensRequired, TokensOff:
	default:
		return nil, bad("tokens", string(s.o.Tokens), `is not "optional", "required" or "off"`)
	}
	if s.o.Passwords == nil {
		s.o.Passwords = NewMemoryPasswords(0)
	}
	if s.o.Now == nil {
		s.o.Now = time.Now
	}
	if s.o.Logger == nil {
		s.o.Logger = slog.New(slog.DiscardHandler)
	}
	var err error
	s.toks, err = newTokens(s.o.TokenKey)
	return s, err
}

// elements are the parts of a path: it is cleaned, so slashes at the end or
// in a row tell nothing.
func elements(p string) []string {
	p = strings.Trim(path.Clean("/"+p), "/")
	if p == "" {
		return nil
	}
	return strings.Split(p, "/")
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a, ok := AskerOf(r.Context())
	if !ok {
		source, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			fail(w, http.StatusNotFound)
			return
		}
		a = NewAsker("", "", source.Addr())
	}
	in, err := s.src.Lookup(r.Context(), a)
	if err == nil && in == nil {
		err = errors.New("the Instances interface returned neither an instance nor an error")
	}
	if err != nil {
		if !errors.Is(err, vnet.ErrNotFound) && r.Context().Err() == nil {
			s.o.Logger.Warn("metadata: who asks cannot be said", "router", a.RouterID, "network", a.NetworkID, "addr", a.Addr, "error", err)
		}
		lookupFailed(w, err)
		return
	}
	elems := elements(r.URL.Path)
	if s.token(w, r, in, elems) {
		return
	}
	if len(elems) == 3 && elems[0] == "openstack" && elems[2] == "password" {
		if v, ok := version(elems[1], openstackVersions[:]); ok && v >= osPassword {
			s.password(w, r, in)
			return
		}
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed)
		return
	}
	body, contentType, ok, err := s.page(in, elems)
	switch {
	case err != nil:
		s.o.Logger.Error("metadata: document cannot be made", "instance", in.UUID, "path", r.URL.Path, "error", err)
		fail(w, http.StatusInternalServerError)
	case !ok:
		fail(w, http.StatusNotFound)
	default:
		send(w, http.StatusOK, contentType, body)
	}
}

// page is what is at a path.
func (s *Server) page(in *Instance, elems []string) (body []byte, contentType string, ok bool, err error) {
	if len(elems) > 0 && elems[0] == "openstack" {
		return openstackFile(in, elems[1:], s.o.Now())
	}
	if len(elems) > 0 && elems[0] == "ec2" {
		elems = elems[1:]
	}
	if len(elems) == 0 {
		return []byte(strings.Join(append(past(ec2Versions[:], s.o.Now()), "latest"), "\n")), plain, true, nil
	}
	v, ok := version(elems[0], ec2Versions[:])
	if !ok {
		return nil, "", false, nil
	}
	body, contentType, ok = walk(ec2Root(in, v), elems[1:])
	return body, contentType, ok, nil
}

// token gives a token, or checks that of another request. It reports whether
// the request is answered.
func (s *Server) token(w http.ResponseWriter, r *http.Request, in *Instance, elems []string) (done bool) {
	mode := in.Tokens
	if mode == "" {
		mode = s.o.Tokens
	}
	asked := strings.Join(elems, "/") == tokenPath
	if mode == TokensOff {
		if asked {
			fail(w, http.StatusNotFound)
		}
		return asked
	}
	if !asked {
		token := r.Header.Get(headerToken)
		if token == "" && mode != TokensRequired {
			return false
		}
		left, err := s.toks.check(token, in.UUID, s.o.Now())
		if err != nil {
			fail(w, http.StatusUnauthorized)
			return true
		}
		w.Header().Set(headerTTL, strconv.Itoa(int(left/time.Second)))
		return false
	}
	if r.Method != http.MethodPut {
		w.Header().Set("Allow", http.MethodPut)
		fail(w, http.StatusMethodNotAllowed)
		return true
	}
	// A request that came through a proxy is not the machine's own (EC2
	// refuses it too): open reverse proxies are how tokens get stolen.
	if len(r.Header.Values("X-Forwarded-For")) > 0 {
		fail(w, http.StatusForbidden)
		return true
	}
	ttl, err := strconv.Atoi(r.Header.Get(headerTTL))
	if err != nil || ttl < 1 || ttl > maxTokenTTL {
		fail(w, http.StatusBadRequest)
		return true
	}
	token, err := s.toks.give(in.UUID, time.Duration(ttl)*time.Second, s.o.Now())
	if err == nil {
		// From here on the connection reaches no further than the machine, and
		// it is not used again.
		if set, ok := r.Context().Value(hopKey{}).(func(int) error); ok {
			err = set(1)
		}
	}
	if err != nil {
		s.o.Logger.Error("metadata: token", "instance", in.UUID, "error", err)
		fail(w, http.StatusInternalServerError)
		return true
	}
	w.Header().Set("Connection", "close")
	w.Header().Set(headerTTL, strconv.Itoa(ttl))
	send(w, http.StatusOK, plain, []byte(token))
	return true
}

// maxPassword is four database columns of 255 bytes in Nova.
const maxPassword = 1020

func (s *Server) password(w http.ResponseWriter, r *http.Request, in *Instance) {
	var body []byte
	var err error
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		body, err = s.o.Passwords.Password(r.Context(), in.UUID)
	case http.MethodPost:
		var p []byte
		p, err = io.ReadAll(io.LimitReader(r.Body, maxPassword+1))
		if err != nil || len(p) == 0 || len(p) > maxPassword {
			fail(w, http.StatusBadRequest)
			return
		}
		err = s.o.Passwords.SetPassword(r.Context(), in.UUID, p)
	default:
		fail(w, http.StatusBadRequest)
		return
	}
	switch {
	case errors.Is(err, vnet.ErrConflict):
		fail(w, http.StatusConflict)
	case err != nil:
		s.o.Logger.Warn("metadata: password", "instance", in.UUID, "error", err)
		unready(w)
	default:
		send(w, http.StatusOK, plain, body)
	}
}

func lookupFailed(w http.ResponseWriter, err error) {
	if errors.Is(err, vnet.ErrNotFound) {
		fail(w, http.StatusNotFound)
		return
	}
	unready(w)
}

// unready tells the client to come again: on 404 cloud-init gives up for good.
func unready(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	fail(w, http.StatusServiceUnavailable)
}

// fail answers with a status and its words.
func fail(w http.ResponseWriter, status int) {
	send(w, status, plain, []byte(strconv.Itoa(status)+" "+http.StatusText(status)))
}

func send(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that went away is its own affair
}

// Passwords keeps the password that an instance posts once, encrypted for its
// owner, as Nova's `nova get-password` has it.
type Passwords interface {
	// Password returns what was stored; nothing is no error.
	Password(ctx context.Context, instance string) ([]byte, error)
	// SetPassword stores it; [vnet.ErrConflict] when there is one already.
	SetPassword(ctx context.Context, instance string, password []byte) error
}

// MemoryPasswords keeps passwords of a bounded number of instances in memory.
type MemoryPasswords struct {
	mu  sync.Mutex
	max int
	m   map[string][]byte
}

// NewMemoryPasswords keeps those of max instances, zero: 4096. More are
// refused with [vnet.ErrNotReady].
func NewMemoryPasswords(max int) *MemoryPasswords {
	if max <= 0 {
		max = 4096
	}
	return &MemoryPasswords{max: max, m: map[string][]byte{}}
}

// Password implements [Passwords].
func (p *MemoryPasswords) Password(_ context.Context, instance string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.m[instance]), nil
}

// SetPassword implements [Passwords].
func (p *MemoryPasswords) SetPassword(_ context.Context, instance string, password []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.m[instance]; ok {
		return vnet.ErrConflict
	}
	if len(p.m) >= p.max {
		return vnet.ErrNotReady
	}
	p.m[instance] = slices.Clone(password)
	return nil
}

// Forget drops the password of an instance that is gone.
func (p *MemoryPasswords) Forget(instance string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.m, instance)
}
