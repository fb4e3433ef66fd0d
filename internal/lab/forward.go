package lab

import (
	"context"
	"io"
	"net"
	"sync"
	"time"
)

func timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), time.Minute)
}

// Dial opens a TCP connection from inside the namespace; the connection can be
// used anywhere. address is numeric.
func (n *NS) Dial(ctx context.Context, network, address string) (c net.Conn, err error) {
	err = n.Do(func() error {
		c, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Forward lets programs outside of the lab's namespaces reach a server in it:
// it listens on 127.0.0.1 and connects from inside a namespace.
type Forward struct {
	Addr string // "127.0.0.1:N"

	ln    net.Listener
	n     *NS
	to    string
	wg    sync.WaitGroup
	mu    sync.Mutex
	cond  *sync.Cond
	held  bool
	done  bool
	conns map[net.Conn]struct{}
}

// Forward starts a forwarder to a numeric TCP address as seen from the
// namespace. It ends with the lab.
func (n *NS) Forward(address string) *Forward {
	n.l.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	n.l.must(err)
	f := &Forward{Addr: ln.Addr().String(), ln: ln, n: n, to: address, conns: map[net.Conn]struct{}{}}
	f.cond = sync.NewCond(&f.mu)
	f.wg.Add(1)
	go f.accept()
	n.l.t.Cleanup(f.Close)
	return f
}

// Hold keeps connections open and new ones accepted, but lets no byte pass
// until [Forward.Release]: a server that never answers.
func (f *Forward) Hold() { f.set(true) }

// Release ends [Forward.Hold]; what was held passes.
func (f *Forward) Release() { f.set(false) }

func (f *Forward) set(held bool) {
	f.mu.Lock()
	f.held = held
	f.mu.Unlock()
	f.cond.Broadcast()
}

// Reset breaks all connections; new ones are accepted.
func (f *Forward) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		c.Close()
	}
}

// Close ends the forwarder and its connections.
func (f *Forward) Close() {
	f.mu.Lock()
	f.done = true
	f.mu.Unlock()
	f.cond.Broadcast()
	f.ln.Close()
	f.Reset()
	f.wg.Wait()
}

func (f *Forward) accept() {
	defer f.wg.Done()
	for {
		c, err := f.ln.Accept()
		if err != nil {
			return
		}
		f.wg.Add(1)
		go f.serve(c)
	}
}

func (f *Forward) serve(c net.Conn) {
	defer f.wg.Done()
	if !f.add(c) {
		return
	}
	defer f.drop(c)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	d, err := f.n.Dial(ctx, "tcp", f.to)
	if err != nil || !f.add(d) {
		return
	}
	defer f.drop(d)
	back := make(chan struct{})
	go func() {
		f.copy(c, d)
		c.Close()
		close(back)
	}()
	f.copy(d, c)
	d.Close()
	<-back
}

func (f *Forward) copy(dst io.Writer, src io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		f.mu.Lock()
		for f.held && !f.done {
			f.cond.Wait()
		}
		f.mu.Unlock()
		if _, werr := dst.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

func (f *Forward) add(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		c.Close()
		return false
	}
	f.conns[c] = struct{}{}
	return true
}

func (f *Forward) drop(c net.Conn) {
	c.Close()
	f.mu.Lock()
	delete(f.conns, c)
	f.mu.Unlock()
}
