package placement

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"github.com/vnet-go/vnet"
)

// File is a durable [Store] in one file. What a call has answered is on disk:
// every change is a line of a log, synced before it is answered, and a line that
// was being written when the machine stopped is cut off by the next OpenFile. The
// log is written anew, whole, when most of it is of the past.
type File struct {
	m Memory

	mu    sync.Mutex // of changes
	path  string
	lock  *os.File
	f     *os.File
	lines int   // in the log
	broke error // a write failed: what is on disk is not known
}

var _ Store = (*File)(nil)

// record is one line: one of these.
type record struct {
	Provider *Provider    `json:"provider,omitempty"`
	Shrink   bool         `json:"shrink,omitempty"`
	Delete   string       `json:"delete,omitempty"` // provider
	Allocate []Allocation `json:"allocate,omitempty"`
	// Whole marks the first line of a log that was written anew; its
	// generations are taken over as they stand.
	Whole bool `json:"whole,omitempty"`
}

// OpenFile opens the store in the file at path, and makes it if it is not
// there. One process has it at a time: [vnet.ErrInUse] to the others.
func OpenFile(path string) (_ *File, err error) {
	f := &File{path: path}
	f.m.init()
	if f.lock, err = os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if err := syscall.Flock(int(f.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("placement file %s is open in another process: %w", path, vnet.ErrInUse)
	}
	if f.f, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600); err != nil {
		return nil, err
	}
	if err := f.load(); err != nil {
		return nil, fmt.Errorf("placement file %s: %w", path, err)
	}
	return f, syncDir(path)
}

// Close closes the file.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	if f.f != nil {
		errs = append(errs, f.f.Close())
		f.f = nil
	}
	if f.lock != nil {
		errs = append(errs, f.lock.Close())
		f.lock = nil
	}
	f.broke = cmp.Or(f.broke, os.ErrClosed)
	return errors.Join(errs...)
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// line is a record with its checksum before it.
func (r record) line() ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%08x %s\n", crc32.ChecksumIEEE(text), text), nil
}

func parse(line []byte) (r record, ok bool) {
	sum, text, found := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	n, err := strconv.ParseUint(string(sum), 16, 32)
	if !found || err != nil || uint32(n) != crc32.ChecksumIEEE(text) || line[len(line)-1] != '\n' {
		return r, false
	}
	return r, json.Unmarshal(text, &r) == nil
}

// load reads the log and cuts off a line that was not finished. A spoilt line
// with others after it is an error: something else than a crash has done it.
func (f *File) load() error {
	in := bufio.NewReaderSize(f.f, 1<<20)
	var good int64
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if len(line) == 0 && err == io.EOF {
			break
		}
		if err != nil && err != io.EOF {
			return err
		}
		r, ok := parse(line)
		if !ok {
			if _, err := in.ReadByte(); err != io.EOF {
				return fmt.Errorf("line %d is spoilt, and not the last", n)
			}
			break
		}
		if err := f.replay(r); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		good += int64(len(line))
		f.lines++
	}
	if err := f.f.Truncate(good); err != nil {
		return err
	}
	if _, err := f.f.Seek(good, io.SeekStart); err != nil {
		return err
	}
	return f.f.Sync()
}

// replay does to memory what a line says.
func (f *File) replay(r record) error {
	switch {
	case r.Provider != nil && r.Whole:
		g := r.Provider.Generation
		r.Provider.Generation = 0
		f.m.putProvider(*r.Provider)
		f.m.providers[r.Provider.ID].Generation = g
	case r.Provider != nil:
		if err := f.m.checkProvider(*r.Provider, r.Shrink); err != nil {
			return err
		}
		f.m.putProvider(*r.Provider)
	case r.Delete != "":
		f.m.deleteProvider(r.Delete)
	case r.Whole:
		kept := map[string]uint64{}
		for id, n := range f.m.providers {
			kept[id] = n.Generation
		}
		for _, a := range r.Allocate {
			g := a.Generation
			f.m.allocate([]Allocation{a})
			f.m.consumers[a.Consumer].Generation = g
		}
		for id, g := range kept {
			f.m.providers[id].Generation = g
		}
	default:
		if err := f.m.checkAllocate(r.Allocate); err != nil {
			return err
		}
		f.m.allocate(r.Allocate)
	}
	return nil
}

// change checks, writes a line, and then does it to memory.
func (f *File) change(ctx context.Context, r record, check func() error, do func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broke != nil {
		return fmt.Errorf("placement file %s: %w", f.path, f.broke)
	}
	f.m.mu.RLock() // nobody else writes
	err := check()
	f.m.mu.RUnlock()
	if err != nil {
		return err
	}
	line, err := r.line()
	if err != nil {
		return err
	}
	if err := f.write(line); err != nil {
		// It may be on disk or not; a new process will see.
		f.broke = err
		return fmt.Errorf("placement file %s: whether it is written is not known: %w", f.path, err)
	}
	f.m.mu.Lock()
	do()
	f.m.mu.Unlock()
	f.lines++
	if f.lines > 1000 && f.lines > 4*(len(f.m.providers)+len(f.m.consumers)) {
		if err := f.anew(); err != nil {
			f.broke = err // what was asked for stands
		}
	}
	return nil
}

func (f *File) write(line []byte) error {
	if _, err := f.f.Write(line); err != nil {
		return err
	}
	return f.f.Sync()
}

// anew writes the log with what stands and nothing else.
func (f *File) anew() (err error) {
	next, err := os.OpenFile(f.path+".new", os.O_CREATE|os.O_TRUNC|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			next.Close()
		}
	}()
	out := bufio.NewWriterSize(next, 1<<20)
	lines := 0
	put := func(r record) error {
		line, err := r.line()
		if err == nil {
			_, err = out.Write(line)
		}
		lines++
		return err
	}
	for _, h := range f.m.order {
		for _, n := range h.tree { // parents first
			p := n.Provider.Clone()
			if err := put(record{Provider: &p, Whole: true}); err != nil {
				return err
			}
		}
	}
	for _, c := range slices.Sorted(maps.Keys(f.m.consumers)) {
		if err := put(record{Allocate: []Allocation{*f.m.consumers[c]}, Whole: true}); err != nil {
			return err
		}
	}
	if err := errors.Join(out.Flush(), next.Sync()); err != nil {
		return err
	}
	if err := os.Rename(f.path+".new", f.path); err != nil {
		return err
	}
	f.f.Close()
	f.f, f.lines = next, lines
	return syncDir(f.path)
}

// PutProvider implements [Store].
func (f *File) PutProvider(ctx context.Context, p Provider, shrink bool) (out Provider, err error) {
	err = f.change(ctx, record{Provider: &p, Shrink: shrink}, func() error { return f.m.checkProvider(p, shrink) }, func() { out = f.m.putProvider(p) })
	return out, err
}

// DeleteProvider implements [Store].
func (f *File) DeleteProvider(ctx context.Context, id string) error {
	if _, err := f.m.Provider(ctx, id); errors.Is(err, vnet.ErrNotFound) {
		return nil
	}
	return f.change(ctx, record{Delete: id}, func() error { return f.m.checkDelete(id) }, func() { f.m.deleteProvider(id) })
}

// Provider implements [Store].
func (f *File) Provider(ctx context.Context, id string) (Provider, error) {
	return f.m.Provider(ctx, id)
}

// Providers implements [Store].
func (f *File) Providers(ctx context.Context, host string) ([]Provider, error) {
	return f.m.Providers(ctx, host)
}

// Usage implements [Store].
func (f *File) Usage(ctx context.Context, id string) (Resources, error) { return f.m.Usage(ctx, id) }

// Candidates implements [Store].
func (f *File) Candidates(ctx context.Context, r Request, policy Policy, limit int) ([]Candidate, error) {
	return f.m.Candidates(ctx, r, policy, limit)
}

// Allocation implements [Store].
func (f *File) Allocation(ctx context.Context, consumer string) (Allocation, error) {
	return f.m.Allocation(ctx, consumer)
}

// Allocate implements [Store].
func (f *File) Allocate(ctx context.Context, all ...Allocation) error {
	return f.change(ctx, record{Allocate: all}, func() error { return f.m.checkAllocate(all) }, func() { f.m.allocate(all) })
}
