// Package filesource is [metadata.Instances] from a JSON file, for examples,
// labs and small sites. The file is read again when it has changed; a file
// with mistakes changes nothing, and says so.
//
//	{"instances": [{
//	  "at": [{"router": "router-1", "address": "192.0.2.10"}, {"network": "net-1", "mac": "02:00:00:00:00:0a"}],
//	  "instance": {"uuid": "...", "name": "web", "keys": [{"name": "me", "type": "ssh", "data": "ssh-ed25519 ..."}]}
//	}]}
//
// The fields of an instance are those of [metadata.Instance]; user_data and
// other bytes are base64, or plain in user_data_text.
package filesource

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/metadata"
)

// Place is where requests of an instance come from: a router or a network,
// and an address or, for link-local addresses, a MAC.
type Place struct {
	Router  string     `json:"router,omitempty"`
	Network string     `json:"network,omitempty"`
	Address netip.Addr `json:"address,omitzero"`
	MAC     vnet.MAC   `json:"mac,omitzero"`
}

// Entry is one instance with all its places.
type Entry struct {
	At       []Place           `json:"at"`
	Instance metadata.Instance `json:"instance"`
	// UserDataText is user data as text, instead of the instance's user_data.
	UserDataText string `json:"user_data_text,omitempty"`
}

// File is the whole file.
type File struct {
	Instances []Entry `json:"instances"`
}

// Validate reports what is wrong with f, as [*vnet.FieldError]s.
func (f File) Validate() error {
	var errs []error
	places, ids := map[Place]string{}, map[string]int{}
	for i, e := range f.Instances {
		field := fmt.Sprintf("instances[%d]", i)
		errs = append(errs, vnet.In(field+".instance", e.Instance.Validate()))
		if j, ok := ids[e.Instance.UUID]; ok {
			errs = append(errs, &vnet.FieldError{Field: field + ".instance.uuid", Value: e.Instance.UUID, Reason: fmt.Sprintf("is also that of instances[%d]", j)})
		}
		ids[e.Instance.UUID] = i
		if e.UserDataText != "" && len(e.Instance.UserData) > 0 {
			errs = append(errs, &vnet.FieldError{Field: field + ".user_data_text", Reason: "stands beside instance.user_data"})
		}
		if len(e.At) == 0 {
			errs = append(errs, &vnet.FieldError{Field: field + ".at", Reason: "is empty"})
		}
		for j, p := range e.At {
			at := fmt.Sprintf("%s.at[%d]", field, j)
			switch {
			case (p.Router == "") == (p.Network == ""):
				errs = append(errs, &vnet.FieldError{Field: at + ".router", Value: p.Router, Reason: "or network must be given, one of them"})
			case p.Address.IsValid() != p.MAC.IsZero():
				errs = append(errs, &vnet.FieldError{Field: at + ".address", Reason: "or mac must be given, one of them"})
			case p.Address.Zone() != "" || p.Address.Is4In6():
				errs = append(errs, &vnet.FieldError{Field: at + ".address", Value: p.Address.String(), Reason: "has a zone or is IPv4-mapped"})
			case places[p] != "":
				errs = append(errs, &vnet.FieldError{Field: at, Reason: "is also " + places[p]})
			default:
				places[p] = at
			}
		}
	}
	return errors.Join(errs...)
}

// Options of a [Source]. The zero value is usable.
type Options struct {
	// Every is how often at most the file is looked at. Zero: a second.
	Every time.Duration
	// Open opens the file; nil: os.Open.
	Open func(name string) (fs.File, error)
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Logger gets what is wrong with a changed file; nil: none.
	Logger *slog.Logger
}

// Source answers from a file. It is safe for use by several goroutines.
type Source struct {
	name string
	o    Options

	mu     sync.Mutex
	looked time.Time
	stamp  string
	err    error
	m      map[Place]*metadata.Instance
}

var _ metadata.Instances = (*Source)(nil)

// maxFile bounds the file, in bytes.
const maxFile = 64 << 20

// Open reads the file. A mistake in it is the error; *vnet.FieldErrors name
// the fields. o may be nil.
func Open(name string, o *Options) (*Source, error) {
	s := &Source{name: name}
	if o != nil {
		s.o = *o
	}
	if s.o.Every == 0 {
		s.o.Every = time.Second
	}
	if s.o.Open == nil {
		s.o.Open = func(name string) (fs.File, error) { return os.Open(name) }
	}
	if s.o.Now == nil {
		s.o.Now = time.Now
	}
	if s.o.Logger == nil {
		s.o.Logger = slog.New(slog.DiscardHandler)
	}
	s.load()
	return s, s.err
}

// Lookup implements [metadata.Instances].
func (s *Source) Lookup(ctx context.Context, a metadata.Asker) (*metadata.Instance, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.o.Now(); now.Sub(s.looked) >= s.o.Every {
		s.load()
	}
	places := []Place{{Network: a.NetworkID, Address: a.Addr}, {Router: a.RouterID, Address: a.Addr}}
	if !a.MAC.IsZero() {
		places = append(places, Place{Network: a.NetworkID, MAC: a.MAC}, Place{Router: a.RouterID, MAC: a.MAC})
	}
	for _, p := range places {
		if in := s.m[p]; in != nil && (p.Network != "" || p.Router != "") {
			return in, nil
		}
	}
	return nil, vnet.ErrNotFound
}

// Err is what is wrong with the file as it is now; while it is not nil,
// answers come from the file as it was before.
func (s *Source) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// load reads the file if it has changed. It is called with mu held.
func (s *Source) load() {
	s.looked = s.o.Now()
	f, err := s.o.Open(s.name)
	if err != nil {
		s.fail(err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		s.fail(err)
		return
	}
	stamp := fmt.Sprint(info.Size(), info.ModTime().UnixNano())
	if stamp == s.stamp {
		return
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		s.fail(err)
		return
	}
	s.stamp = stamp
	m, err := parse(b)
	if err != nil {
		s.fail(fmt.Errorf("%s: %w", s.name, err))
		return
	}
	s.m, s.err = m, nil
}

func (s *Source) fail(err error) {
	if s.err == nil || s.err.Error() != err.Error() {
		s.o.Logger.Error("metadata: file cannot be used, keeping what it said before", "file", s.name, "error", err)
	}
	s.err = err
}

func parse(b []byte) (map[Place]*metadata.Instance, error) {
	if len(b) > maxFile {
		return nil, fmt.Errorf("is larger than %d bytes", maxFile)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var f File
	if err := d.Decode(&f); err != nil {
		var syntax *json.SyntaxError
		var typ *json.UnmarshalTypeError
		at := d.InputOffset()
		if errors.As(err, &syntax) {
			at = syntax.Offset
		} else if errors.As(err, &typ) {
			at = typ.Offset
		}
		return nil, fmt.Errorf("line %d: %w", 1+bytes.Count(b[:min(int(at), len(b))], []byte("\n")), err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("has something after its end")
	}
	if err := f.Validate(); err != nil {
		return nil, err
	}
	m := map[Place]*metadata.Instance{}
	for i := range f.Instances {
		e := &f.Instances[i]
		if e.UserDataText != "" {
			e.Instance.UserData = []byte(e.UserDataText)
		}
		for _, p := range e.At {
			m[p] = &e.Instance
		}
	}
	return m, nil
}
