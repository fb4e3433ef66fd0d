package leasestore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	magic              = "vnlease1"
	opForget     state = 'F'
	maxRecord          = 4096
	recordHeader       = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errShort = errors.New("record ends early")

type record struct {
	op      state
	scope   string
	ip      netip.Addr
	client  Client
	expires int64
}

// encode appends the record with its header to b.
func (r record) encode(b []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, recordHeader)...)
	b = append(b, byte(r.op))
	b = binary.BigEndian.AppendUint64(b, uint64(r.expires))
	b = append(b, r.client.MAC[:]...)
	b = binary.BigEndian.AppendUint32(b, r.client.IAID)
	for _, s := range []string{string(r.ip.AsSlice()), r.scope, r.client.Key, string(r.client.ID), r.client.Hostname} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	p := b[at+recordHeader:]
	binary.BigEndian.PutUint32(b[at:], uint32(len(p)))
	binary.BigEndian.PutUint32(b[at+4:], crc32.Checksum(p, castagnoli))
	return b
}

func decode(p []byte) (r record, err error) {
	if len(p) < 19 {
		return r, errShort
	}
	r.op = state(p[0])
	r.expires = int64(binary.BigEndian.Uint64(p[1:]))
	copy(r.client.MAC[:], p[9:])
	r.client.IAID = binary.BigEndian.Uint32(p[15:])
	p = p[19:]
	var f [5]string
	for i := range f {
		n, k := binary.Uvarint(p)
		if k <= 0 || n > uint64(len(p)-k) {
			return r, errShort
		}
		f[i], p = string(p[k:k+int(n)]), p[k+int(n):]
	}
	r.scope, r.client.Key, r.client.Hostname = f[1], f[2], f[4]
	if f[3] != "" {
		r.client.ID = []byte(f[3])
	}
	switch r.op {
	case opForget:
	case bound, released, declined:
		var ok bool
		if r.ip, ok = netip.AddrFromSlice([]byte(f[0])); !ok {
			return r, errShort
		}
	default:
		return r, fmt.Errorf("unknown operation %d", r.op)
	}
	return r, nil
}

// log is the file. Fields are guarded by Store.mu, but for file, size and
// live while busy is set, when only the goroutine that set it uses them.
type log struct {
	file *os.File
	lock *os.File
	mem  bool  // no file at all
	size int64 // bytes written
	live int64 // bytes after the last rewrite
	cut  int64

	buf      []byte // appended, not written
	appended uint64 // records
	flushed  uint64
	busy     bool
	err      error // of the last flush
	done     *sync.Cond
}

func (l *log) append(r record) {
	if l.mem {
		return
	}
	l.buf = r.encode(l.buf)
	l.appended++
}

func (l *log) open(path string, replay func(record)) (err error) {
	if path == "" {
		l.mem = true
		return nil
	}
	if l.lock, err = os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			l.lock.Close()
		}
	}()
	if err = unix.Flock(int(l.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("in use by another process: %w", err)
	}
	// Left by a crash in the middle of a rewrite; the file itself is whole.
	if err = os.Remove(path + ".new"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if l.file, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			l.file.Close()
		}
	}()
	st, err := l.file.Stat()
	if err != nil {
		return err
	}
	good, err := read(l.file, replay)
	if err != nil {
		return err
	}
	if l.cut = st.Size() - good; l.cut > 0 {
		if err = l.file.Truncate(good); err != nil {
			return err
		}
	}
	if good == 0 {
		if _, err = l.file.WriteAt([]byte(magic), 0); err != nil {
			return err
		}
		good = int64(len(magic))
	}
	if err = l.file.Sync(); err != nil {
		return err
	}
	if err = syncDir(path); err != nil {
		return err
	}
	_, err = l.file.Seek(good, io.SeekStart)
	l.size, l.live = good, good
	return err
}

// read replays the records of f and returns where the good ones end. A file
// that is not a store at all is refused, not overwritten.
func read(f io.Reader, replay func(record)) (good int64, err error) {
	br := bufio.NewReaderSize(f, 1<<16)
	head := make([]byte, len(magic))
	n, err := io.ReadFull(br, head)
	if string(head[:n]) != magic[:n] {
		return 0, errors.New("is not a lease store")
	}
	if err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return 0, nil
		}
		return 0, err
	}
	good = int64(len(magic))
	var h [recordHeader]byte
	payload := make([]byte, maxRecord)
	for {
		if _, err := io.ReadFull(br, h[:]); err != nil {
			return good, tornIsFine(err)
		}
		size := binary.BigEndian.Uint32(h[:])
		if size > maxRecord {
			return good, nil
		}
		p := payload[:size]
		if _, err := io.ReadFull(br, p); err != nil {
			return good, tornIsFine(err)
		}
		if crc32.Checksum(p, castagnoli) != binary.BigEndian.Uint32(h[4:]) {
			return good, nil
		}
		r, err := decode(p)
		if err != nil {
			return good, nil
		}
		replay(r)
		good += recordHeader + int64(size)
	}
}

func tornIsFine(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}

func (l *log) write(b []byte) error {
	n, err := l.file.Write(b)
	l.size += int64(n)
	if err != nil {
		return err
	}
	return unix.Fdatasync(int(l.file.Fd()))
}

// replace makes content the file's, wholly or not at all.
func (l *log) replace(path string, content []byte) (err error) {
	f, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	if _, err = f.Write(content); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = os.Rename(path+".new", path); err != nil {
		return err
	}
	l.file.Close()
	l.file, l.size, l.live = f, int64(len(content)), int64(len(content))
	if e := syncDir(path); e != nil {
		// The name may still be the old file's after a crash: not flushed.
		return e
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (l *log) close() error {
	if l.mem || l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	if e := l.lock.Close(); err == nil {
		err = e
	}
	return err
}
