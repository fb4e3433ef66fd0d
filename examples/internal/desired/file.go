package desired

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vnet-go/vnet"
)

// File is a [Source] of a JSON file, or of a directory: of all files in it
// whose names end in ".json" and do not begin with a dot, each with a part of
// the state, their lists put together. One object a file is fine, and so is a
// file a subsystem.
//
// Files are best written aside and renamed. What is written in place is read
// when it has not changed between two looks, and when all of it is well. A mistake
// in any file keeps what was wanted before, and so does a directory without files:
// a host that is to have nothing has a file that says {}.
type File struct {
	Path string
	// Poll is how often is looked whether something has changed. Zero: 250 ms.
	Poll time.Duration
	// StatusFile is where [File.Report] writes, as JSON; empty: nowhere.
	StatusFile string
}

// document is one file.
type document struct {
	// Revision is what the operator calls it; empty: a hash of the content. In
	// a directory one file may have it.
	Revision string `json:"revision"`
	// Force names the revision whose removals are meant, whatever the budget. It
	// means nothing with any other.
	Force string `json:"force"`
	State
}

// maxFile bounds all files together, in bytes.
const maxFile = 256 << 20

// Watch implements [Source].
func (f *File) Watch(ctx context.Context) iter.Seq2[Desired, error] {
	return func(yield func(Desired, error) bool) {
		tick := time.NewTicker(cmp.Or(f.Poll, 250*time.Millisecond))
		defer tick.Stop()
		var looked, read string // stamps: of the last look, and of what was read last
		told := ""              // the error yielded last
		for {
			files, stamp, err := f.list()
			if err != nil || stamp == looked && stamp != read {
				var d Desired
				if err == nil {
					d, err = f.read(files)
				}
				switch {
				case errors.Is(err, errMoved):
					stamp = ""
				case err == nil:
					read, told = stamp, ""
					if !yield(d, nil) {
						return
					}
				default:
					read = stamp
					if err.Error() == told {
						break
					}
					told = err.Error()
					if !yield(Desired{}, err) {
						return
					}
				}
			}
			looked = stamp
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

// errMoved: a file changed while it was read.
var errMoved = errors.New("changed while it was read")

// list returns the files there are, and a stamp that changes with any of them.
func (f *File) list() (names []string, stamp string, err error) {
	info, err := os.Stat(f.Path)
	if err != nil {
		return nil, "", err
	}
	if !info.IsDir() {
		return []string{f.Path}, stampOf(info), nil
	}
	entries, err := os.ReadDir(f.Path)
	if err != nil {
		return nil, "", err
	}
	var b strings.Builder
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || filepath.Ext(e.Name()) != ".json" {
			continue
		}
		path := filepath.Join(f.Path, e.Name())
		info, err := os.Stat(path)
		if err != nil {
			return nil, "", err
		}
		names = append(names, path)
		b.WriteString(e.Name() + " " + stampOf(info) + "\n")
	}
	if len(names) == 0 {
		return nil, "", fmt.Errorf("%s: there is no .json file (nothing at all is wanted by a file with {})", f.Path)
	}
	return names, b.String(), nil
}

// stampOf changes whenever the file does, by whatever means.
func stampOf(i fs.FileInfo) string {
	s := fmt.Sprint(i.Size(), " ", i.ModTime().UnixNano())
	if st, ok := i.Sys().(*syscall.Stat_t); ok {
		s += fmt.Sprint(" ", st.Ino, " ", st.Ctim.Nano())
	}
	return s
}

// origin is where an element of a merged list is from.
type origin struct {
	file  string
	index int
}

// read reads and checks all the files.
func (f *File) read(files []string) (Desired, error) {
	var all document
	var errs []error
	from := map[string][]origin{} // by list
	var labelled, forced string   // which file does it
	size := 0
	for _, name := range files {
		b, err := readWhole(name)
		if size += len(b); err == nil && size > maxFile {
			err = fmt.Errorf("the files have more than %d bytes", maxFile)
		}
		if err != nil {
			return Desired{}, err
		}
		var d document
		short := filepath.Base(name)
		if err := decode(b, &d); err != nil {
			errs = append(errs, named(short, err))
			continue
		}
		for _, x := range []struct {
			field, value string
			whose        *string
			into         *string
		}{{"revision", d.Revision, &labelled, &all.Revision}, {"force", d.Force, &forced, &all.Force}} {
			if x.value == "" {
				continue
			}
			if *x.whose != "" {
				errs = append(errs, named(short, &vnet.FieldError{Field: x.field, Value: x.value, Reason: "is in " + *x.whose + " too"}))
			}
			*x.whose, *x.into = short, x.value
		}
		put := putter{short, from}
		merge(put, "overlay.networks", &all.Overlay.Networks, d.Overlay.Networks)
		merge(put, "overlay.ports", &all.Overlay.Ports, d.Overlay.Ports)
		merge(put, "overlay.remote_ports", &all.Overlay.RemotePorts, d.Overlay.RemotePorts)
		merge(put, "secgroup.groups", &all.SecGroup.Groups, d.SecGroup.Groups)
		merge(put, "secgroup.address_groups", &all.SecGroup.AddressGroups, d.SecGroup.AddressGroups)
		merge(put, "secgroup.ports", &all.SecGroup.Ports, d.SecGroup.Ports)
		merge(put, "router.routers", &all.Router.Routers, d.Router.Routers)
		merge(put, "router.floating_ips", &all.Router.FloatingIPs, d.Router.FloatingIPs)
		merge(put, "router.port_forwards", &all.Router.PortForwards, d.Router.PortForwards)
		merge(put, "dhcp.scopes", &all.DHCP.Scopes, d.DHCP.Scopes)
		merge(put, "dhcp.reservations", &all.DHCP.Reservations, d.DHCP.Reservations)
		merge(put, "metadata.endpoints", &all.Metadata.Endpoints, d.Metadata.Endpoints)
		merge(put, "attachments", &all.Attachments, d.Attachments)
	}
	if err := errors.Join(errs...); err != nil {
		return Desired{}, err
	}
	if err := all.Validate(); err != nil {
		return Desired{}, located(err, from)
	}
	rev := cmp.Or(all.Revision, all.Hash())
	return Desired{Revision: rev, State: all.State, Force: all.Force == rev}, nil
}

// readWhole reads a file that does not change meanwhile.
func readWhole(name string) ([]byte, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errMoved
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	before, err1 := f.Stat()
	b, err2 := io.ReadAll(io.LimitReader(f, maxFile+1))
	after, err3 := f.Stat()
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	if stampOf(before) != stampOf(after) {
		return nil, errMoved
	}
	return b, nil
}

type putter struct {
	file string
	from map[string][]origin
}

func merge[T any](p putter, list string, into *[]T, part []T) {
	for i := range part {
		p.from[list] = append(p.from[list], origin{p.file, i})
	}
	*into = append(*into, part...)
}

// named puts the file's name before every error of err.
func named(file string, err error) error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range many.Unwrap() {
			out = append(out, named(file, e))
		}
		return errors.Join(out...)
	}
	return fmt.Errorf("%s: %w", file, err)
}

var element = regexp.MustCompile(`^([a-z_.]+)\[(\d+)\]`)

// located says of every mistake in the merged state which file it is from, and
// where in that.
func located(err error, from map[string][]origin) error {
	switch e := err.(type) {
	case *vnet.FieldError:
		m := element.FindStringSubmatch(e.Field)
		if m == nil {
			return err
		}
		i, _ := strconv.Atoi(m[2])
		if i >= len(from[m[1]]) {
			return err
		}
		o, f := from[m[1]][i], *e
		f.Field = fmt.Sprintf("%s[%d]%s", m[1], o.index, e.Field[len(m[0]):])
		return named(o.file, &f)
	case interface{ Unwrap() []error }:
		var out []error
		for _, x := range e.Unwrap() {
			out = append(out, located(x, from))
		}
		return errors.Join(out[:min(len(out), mistakes)]...)
	}
	return err
}

// Report implements [Source]: it replaces the status file.
func (f *File) Report(_ context.Context, s Status) {
	if f.StatusFile == "" {
		return
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		_ = replace(f.StatusFile, append(b, '\n')) // the next may do
	}
}

// replace writes a file whole, so that a reader never sees half of it.
func replace(path string, b []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

var _ Source = (*File)(nil)
