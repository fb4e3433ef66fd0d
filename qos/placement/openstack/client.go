package openstack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/vnet-go/vnet"
)

// microversion is what every request asks for.
const microversion = "1.37"

// Options of a [Store].
type Options struct {
	// Endpoint is the service's address from the catalogue, without a path of the
	// API, as "https://controller/placement".
	Endpoint string
	// Token returns a token for a request. It is called for each, and once more
	// with renew when the service did not take the last one. Nil: none is sent.
	Token func(ctx context.Context, renew bool) (string, error)
	// Client sends requests. Nil: [http.DefaultClient].
	Client *http.Client
	// ProjectID and UserID are who allocations are of; Placement wants both.
	ProjectID, UserID string
}

// Store speaks to one Placement service. Methods may be called from several
// goroutines.
type Store struct{ o Options }

// New returns a Store. Nothing is sent.
func New(o *Options) (*Store, error) {
	if o == nil {
		o = &Options{}
	}
	s := &Store{*o}
	u, err := url.Parse(o.Endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, &vnet.FieldError{Field: "endpoint", Value: o.Endpoint, Reason: "is no address of an HTTP service"}
	}
	for field, v := range map[string]string{"project_id": o.ProjectID, "user_id": o.UserID} {
		if v == "" || len(v) > 255 {
			return nil, &vnet.FieldError{Field: field, Value: v, Reason: "is empty or longer than 255 characters"}
		}
	}
	s.o.Endpoint = strings.TrimSuffix(o.Endpoint, "/")
	if s.o.Client == nil {
		s.o.Client = http.DefaultClient
	}
	return s, nil
}

// APIError is an answer that says no.
type APIError struct {
	Method, Path string
	Status       int
	Code         string // of Placement, as "placement.concurrent_update"; may be empty
	Detail       string
}

func (e *APIError) Error() string {
	return fmt.Sprintf("placement: %s %s: %d %s %s", e.Method, e.Path, e.Status, e.Code, e.Detail)
}

// Is makes errors.Is say what of this module's errors the answer is.
func (e *APIError) Is(target error) bool {
	switch target {
	case vnet.ErrNotFound:
		return e.Status == http.StatusNotFound
	case vnet.ErrInUse:
		return e.Status == http.StatusConflict && (strings.HasSuffix(e.Code, "inuse") || strings.HasSuffix(e.Code, "cannot_delete_parent"))
	case vnet.ErrConflict:
		return e.Status == http.StatusConflict && !e.Is(vnet.ErrInUse)
	case vnet.ErrNotReady:
		return e.Status == http.StatusServiceUnavailable || e.Status == http.StatusBadGateway || e.Status == http.StatusGatewayTimeout
	}
	return false
}

// call sends a request and decodes the answer into out, if that is not nil.
func (s *Store) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	for renew := false; ; renew = true {
		status, answer, err := s.send(ctx, method, path, body, renew)
		switch {
		case err != nil:
			return err
		case status == http.StatusUnauthorized && !renew && s.o.Token != nil:
			continue
		case status == http.StatusNotAcceptable:
			return &vnet.UnsupportedError{Feature: "qos/placement/openstack", Backend: "the Placement service", Need: "microversion " + microversion}
		case status >= 300:
			return apiError(method, path, status, answer)
		case out == nil || len(answer) == 0:
			return nil
		}
		if err := json.Unmarshal(answer, out); err != nil {
			return fmt.Errorf("placement: %s %s: %w", method, path, err)
		}
		return nil
	}
}

// maxAnswer bounds what is read of one answer: candidates of very many hosts
// are some tens of megabytes.
const maxAnswer = 1 << 30

func (s *Store) send(ctx context.Context, method, path string, body []byte, renew bool) (int, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, s.o.Endpoint+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("OpenStack-API-Version", "placement "+microversion)
	r.Header.Set("Accept", "application/json")
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if s.o.Token != nil {
		t, err := s.o.Token(ctx, renew)
		if err != nil {
			return 0, nil, fmt.Errorf("placement: token: %w", err)
		}
		r.Header.Set("X-Auth-Token", t)
	}
	a, err := s.o.Client.Do(r)
	if err != nil {
		if ctx.Err() != nil {
			return 0, nil, ctx.Err()
		}
		return 0, nil, fmt.Errorf("placement: %w: %w", vnet.ErrNotReady, err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(io.LimitReader(a.Body, maxAnswer))
	return a.StatusCode, b, err
}

// apiError reads the errors of an answer, which are in the form of the API SIG's
// guideline.
func apiError(method, path string, status int, answer []byte) error {
	e := &APIError{Method: method, Path: path, Status: status}
	var list struct {
		Errors []struct{ Code, Title, Detail string } `json:"errors"`
	}
	if json.Unmarshal(answer, &list) == nil && len(list.Errors) > 0 {
		x := list.Errors[0]
		e.Code, e.Detail = x.Code, strings.Join(strings.Fields(x.Detail), " ")
		if e.Code == "placement.undefined_code" {
			e.Code = ""
		}
	} else {
		e.Detail = strings.TrimSpace(string(answer[:min(len(answer), 300)]))
	}
	return e
}

// gone turns absence into success.
func gone(err error) error {
	if errors.Is(err, vnet.ErrNotFound) {
		return nil
	}
	return err
}
