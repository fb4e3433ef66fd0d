package ovsdb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// errClosed is why calls fail after the session has ended for no other reason.
var errClosed = errors.New("connection closed")

// message is any JSON-RPC 1.0 message.
type message struct {
	Method string          `json:"method,omitempty"`
	Params json.RawMessage `json:"params,omitempty"`
	ID     json.RawMessage `json:"id,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  json.RawMessage `json:"error,omitempty"`
}

// rpcError is the server's refusal of a call.
type rpcError struct {
	Code    string `json:"error"`
	Details string `json:"details"`
}

func (e *rpcError) Error() string {
	if e.Details == "" {
		return e.Code
	}
	return e.Code + ": " + e.Details
}

// session is one connection.
type session struct {
	conn   net.Conn
	notify func(method string, params json.RawMessage) error // on the reader's goroutine
	heard  atomic.Int64                                      // when the last bytes came, UnixNano
	sendMu sync.Mutex
	write  time.Duration // longest a write may take

	mu      sync.Mutex
	next    uint64
	pending map[uint64]*call
	err     error
	done    chan struct{}
}

// call is one request that waits for its reply.
type call struct {
	// apply, if not nil, sees the result on the reader's goroutine, before
	// anything that the server sent later.
	apply func(result json.RawMessage) error
	reply chan reply // of capacity 1
}

type reply struct {
	result json.RawMessage
	err    error
}

// newSession begins to read from conn.
func newSession(conn net.Conn, write time.Duration, notify func(string, json.RawMessage) error) *session {
	s := &session{conn: conn, notify: notify, write: write, pending: map[uint64]*call{}, done: make(chan struct{})}
	s.heard.Store(time.Now().UnixNano())
	go s.read()
	return s
}

// heardReader notes when bytes come, so that a long dump counts as life.
type heardReader struct{ s *session }

func (r heardReader) Read(b []byte) (int, error) {
	n, err := r.s.conn.Read(b)
	if n > 0 {
		r.s.heard.Store(time.Now().UnixNano())
	}
	return n, err
}

func (s *session) read() {
	d := json.NewDecoder(heardReader{s})
	for {
		var m message
		if err := d.Decode(&m); err != nil {
			s.close(fmt.Errorf("connection lost: %w", err))
			return
		}
		if err := s.handle(m); err != nil {
			s.close(err)
			return
		}
	}
}

// handle deals with one message; an error ends the session.
func (s *session) handle(m message) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("message of the server could not be dealt with: %v", p)
		}
	}()
	switch {
	case m.Method == "echo":
		go s.send(message{Result: orNull(m.Params), Error: json.RawMessage("null"), ID: orNull(m.ID)})
		return nil
	case m.Method != "":
		return s.notify(m.Method, m.Params)
	}
	var id uint64
	if err := json.Unmarshal(m.ID, &id); err != nil {
		return nil // no reply to a call of ours
	}
	s.mu.Lock()
	c := s.pending[id]
	delete(s.pending, id)
	s.mu.Unlock()
	if c == nil {
		return nil // the caller has gone
	}
	r := reply{result: m.Result}
	if len(m.Error) > 0 && string(m.Error) != "null" {
		e := &rpcError{}
		if json.Unmarshal(m.Error, e) != nil || e.Code == "" {
			e = &rpcError{Code: string(m.Error)}
		}
		r.err = e
	} else if c.apply != nil {
		if err := c.apply(m.Result); err != nil {
			c.reply <- reply{err: err}
			return err
		}
	}
	c.reply <- r
	return nil
}

func orNull(r json.RawMessage) json.RawMessage {
	if len(r) == 0 {
		return json.RawMessage("null")
	}
	return r
}

func (s *session) send(m any) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	s.conn.SetWriteDeadline(time.Now().Add(s.write))
	if _, err := s.conn.Write(b); err != nil {
		err = fmt.Errorf("write: %w", err)
		s.close(err) // half a message may be out
		return err
	}
	return nil
}

// call sends a request and waits for the reply, for ctx, or for the session's end.
func (s *session) call(ctx context.Context, method string, params any, apply func(json.RawMessage) error) (json.RawMessage, error) {
	c := &call{apply: apply, reply: make(chan reply, 1)}
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return nil, s.err
	}
	s.next++
	id := s.next
	s.pending[id] = c
	s.mu.Unlock()
	sent := make(chan error, 1)
	go func() {
		sent <- s.send(struct {
			Method string `json:"method"`
			Params any    `json:"params"`
			ID     uint64 `json:"id"`
		}{method, params, id})
	}()
	for {
		select {
		case err := <-sent:
			if err != nil {
				s.forget(id)
				return nil, err
			}
			sent = nil
		case r := <-c.reply:
			return r.result, r.err
		case <-ctx.Done():
			s.forget(id)
			return nil, ctx.Err()
		case <-s.done:
			select {
			case r := <-c.reply:
				return r.result, r.err
			default:
			}
			return nil, s.cause()
		}
	}
}

func (s *session) forget(id uint64) {
	s.mu.Lock()
	delete(s.pending, id)
	s.mu.Unlock()
}

func (s *session) cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// close ends the session; err is what calls that wait get. The first counts.
func (s *session) close(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	if err == nil {
		err = errClosed
	}
	s.err = err
	s.pending = map[uint64]*call{}
	s.mu.Unlock()
	close(s.done)
	s.conn.Close()
}

// keepalive asks for an echo when nothing was heard for interval, and gives
// the session up when nothing was heard for three of them.
func (s *session) keepalive(interval time.Duration) {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-t.C:
		}
		switch quiet := s.quiet(); {
		case quiet > 3*interval:
			s.close(fmt.Errorf("server silent for %s", quiet.Round(time.Millisecond)))
			return
		case quiet > interval/2:
			go func() {
				ctx, cancel := context.WithTimeout(context.Background(), 3*interval)
				defer cancel()
				s.call(ctx, "echo", []any{}, nil) // hearing the reply is all that counts
			}()
		}
	}
}

// quiet is how long ago the server was last heard.
func (s *session) quiet() time.Duration { return time.Since(time.Unix(0, s.heard.Load())) }
