package metadata

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// NovaOptions of a [Nova]. URL and Secret must be given.
type NovaOptions struct {
	// URL of the metadata API, e.g. "http://192.0.2.10:8775".
	URL string
	// Secret is what Nova has as metadata_proxy_shared_secret.
	Secret []byte
	// Transport carries the requests; nil: one of its own, with bounds.
	Transport http.RoundTripper
	// Timeout of a request in all. Zero: 60 s, as Neutron's agent.
	Timeout time.Duration
	// MaxAnswer bounds an answer in bytes; more is 502. Zero: 16 MiB.
	MaxAnswer int64
	// Logger gets failures; nil: none.
	Logger *slog.Logger
}

// Nova forwards requests to an API that takes them as OpenStack Nova's does
// from Neutron's agent (service_metadata_proxy): with the address, the
// instance and the project of who asks, and a signature of the instance's id.
// Of the request only method, path, query and body go there; of the answer
// only status, content type and body come back. IMDSv2 tokens cannot be
// relayed: Nova answers 404 to requests for them.
//
// Statuses: 200, 400, 403, 404, 409, 500, 502, 503 and 504 are passed on, any
// other is 500; an API that cannot be reached is 503, one that does not answer
// in time 504.
type Nova struct {
	src  Instances
	base *url.URL
	o    NovaOptions
}

// NewNova returns a handler that asks src who asks and forwards to o.URL.
func NewNova(src Instances, o *NovaOptions) (*Nova, error) {
	if src == nil {
		return nil, bad("instances", "", "is nil")
	}
	if o == nil {
		o = &NovaOptions{}
	}
	n := &Nova{src: src, o: *o}
	var err error
	n.base, err = url.Parse(o.URL)
	if err != nil || n.base.Host == "" || n.base.Scheme != "http" && n.base.Scheme != "https" || n.base.RawQuery != "" {
		return nil, bad("url", o.URL, "is not an http or https address without a query")
	}
	n.base.Path, n.base.RawPath = strings.TrimSuffix(n.base.Path, "/"), strings.TrimSuffix(n.base.RawPath, "/")
	if len(o.Secret) == 0 {
		return nil, bad("secret", "", "is empty")
	}
	if n.o.Timeout == 0 {
		n.o.Timeout = time.Minute
	}
	if n.o.MaxAnswer == 0 {
		n.o.MaxAnswer = 16 << 20
	}
	if n.o.Timeout < 0 || n.o.MaxAnswer < 0 {
		return nil, bad("timeout", "", "is negative")
	}
	if n.o.Transport == nil {
		n.o.Transport = &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			MaxIdleConns:        64,
			MaxIdleConnsPerHost: 64,
			MaxConnsPerHost:     256,
			IdleConnTimeout:     30 * time.Second,
			DisableCompression:  true,
		}
	}
	if n.o.Logger == nil {
		n.o.Logger = slog.New(slog.DiscardHandler)
	}
	return n, nil
}

// Sign is the value of X-Instance-ID-Signature: the lower-case hexadecimal
// HMAC-SHA256 of the instance id's text.
func Sign(secret []byte, instanceID string) string {
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(instanceID))
	return hex.EncodeToString(m.Sum(nil))
}

// ServeHTTP implements [http.Handler].
func (n *Nova) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a, ok := AskerOf(r.Context())
	if !ok {
		fail(w, http.StatusInternalServerError)
		return
	}
	in, err := n.src.Lookup(r.Context(), a)
	if err == nil && in == nil {
		err = errors.New("the Instances interface returned neither an instance nor an error")
	}
	if err != nil {
		lookupFailed(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), n.o.Timeout)
	defer cancel()
	// Nothing of the guest's headers goes on, whatever they are called.
	out := (&http.Request{
		Method: r.Method, URL: n.target(r.URL), Host: n.base.Host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"X-Forwarded-For":         {a.Addr.String()},
			"X-Instance-Id":           {in.UUID},
			"X-Tenant-Id":             {in.ProjectID},
			"X-Instance-Id-Signature": {Sign(n.o.Secret, in.UUID)},
			"User-Agent":              {""},
		},
		Body: r.Body, ContentLength: r.ContentLength,
	}).WithContext(ctx)
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	}
	resp, err := n.o.Transport.RoundTrip(out)
	if err != nil {
		var tooBig *http.MaxBytesError
		status := http.StatusServiceUnavailable
		switch {
		case errors.As(err, &tooBig):
			status = http.StatusRequestEntityTooLarge
		case isTimeout(err):
			status = http.StatusGatewayTimeout
		default:
			w.Header().Set("Retry-After", "1")
		}
		n.o.Logger.Warn("metadata: forwarding failed", "instance", in.UUID, "status", status, "error", err)
		fail(w, status)
		return
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case 200, 400, 403, 404, 409, 500, 502, 503, 504:
	default:
		n.o.Logger.Warn("metadata: odd answer", "instance", in.UUID, "status", resp.StatusCode)
		fail(w, http.StatusInternalServerError)
		return
	}
	if resp.ContentLength > n.o.MaxAnswer {
		fail(w, http.StatusBadGateway)
		return
	}
	h := w.Header()
	if ct := resp.Header.Get("Content-Type"); ct != "" {
		h.Set("Content-Type", ct)
	} else {
		h["Content-Type"] = nil // and do not guess
	}
	if resp.ContentLength >= 0 {
		h.Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	w.WriteHeader(resp.StatusCode)
	if _, err := io.Copy(w, io.LimitReader(resp.Body, n.o.MaxAnswer)); err != nil {
		panic(http.ErrAbortHandler) // half an answer must not look like a whole one
	}
	if k, _ := resp.Body.Read(make([]byte, 1)); k > 0 {
		panic(http.ErrAbortHandler)
	}
}

// target is the API's address for a path and query of a guest.
func (n *Nova) target(u *url.URL) *url.URL {
	t := *n.base
	t.Path += u.Path
	t.RawPath = n.base.EscapedPath() + u.EscapedPath()
	t.RawQuery = u.RawQuery
	return &t
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// quiet is for the HTTP server's complaints about clients, which are counted
// elsewhere.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
