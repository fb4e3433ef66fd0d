package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
)

// Send has the machine with that directory send probes, and returns their
// answers in the same order.
func Send(ctx context.Context, dir string, probes []Probe) ([]Answer, error) {
	var out []Answer
	return out, call(ctx, dir, "POST", "/probe", probes, &out)
}

// Take has the machine with that directory measure.
func Take(ctx context.Context, dir string, m Measure) (Measured, error) {
	var out Measured
	return out, call(ctx, dir, "POST", "/measure", m, &out)
}

// Listen has the machine answer on further ports.
func Listen(ctx context.Context, dir string, tcp, udp []uint16) error {
	return call(ctx, dir, "POST", "/listen", struct{ TCP, UDP []uint16 }{tcp, udp}, nil)
}

// Current asks a running machine for its state of now.
func Current(ctx context.Context, dir string) (*State, error) {
	var s State
	return &s, call(ctx, dir, "GET", "/state", nil, &s)
}

func call(ctx context.Context, dir, method, path string, in, out any) error {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, Socket))
	}}}
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://vm"+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<12))
		return errors.New(string(bytes.TrimSpace(text)))
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}
