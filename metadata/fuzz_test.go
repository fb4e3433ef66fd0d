package metadata_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/vnet-go/vnet/metadata"
)

// FuzzRequest puts any request to the server: no panic, a status of those it
// documents, the same answer with a slash at the end, and every line of a
// listing leads somewhere.
func FuzzRequest(f *testing.F) {
	for _, p := range []string{"/", "/latest/meta-data/public-keys/0=me/openssh-key", "/openstack/latest/network_data.json", "/openstack/content/0001",
		"/openstack/2013-04-04/password", "/latest/api/token", "/ec2/2009-04-04/meta-data/network/../..", "/openstack//latest/", "/%00/../\xff"} {
		f.Add("GET", p, "", "", "body")
		f.Add("POST", p, "tok", "60", "")
		f.Add("PUT", p, strings.Repeat("A", 64), "21600", "")
	}
	f.Fuzz(func(t *testing.T, method, path, token, ttl, body string) {
		s := server(t, nil)
		do := func(method, path string, header bool) *httptest.ResponseRecorder {
			r := httptest.NewRequest("GET", "/", strings.NewReader(body))
			r.Method, r.URL.Path = method, path
			if header {
				r.Header.Set("X-Aws-Ec2-Metadata-Token", token)
				r.Header.Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", ttl)
			}
			r = r.WithContext(metadata.WithAsker(r.Context(), metadata.NewAsker("r1", "", netip.MustParseAddr("192.0.2.10"))))
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			return w
		}
		switch w := do(method, path, true); w.Code {
		case http.StatusOK, http.StatusBadRequest, http.StatusUnauthorized, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusConflict:
		default:
			t.Fatalf("%s %q: %d", method, path, w.Code)
		}
		a := do("GET", path, false)
		if b := do("GET", path+"/", false); a.Code != b.Code {
			t.Fatalf("%q: %d, with a slash %d", path, a.Code, b.Code)
		}
		if a.Code != http.StatusOK || !strings.HasPrefix(a.Header().Get("Content-Type"), "text/plain") {
			return
		}
		if out := a.Body.String(); strings.HasSuffix(out, "\n") {
			t.Fatalf("%q ends with a newline: %q", path, out)
		} else if strings.HasSuffix(out, "/") {
			for _, line := range strings.Split(out, "\n") {
				if c := do("GET", strings.TrimSuffix(path, "/")+"/"+line, false).Code; c != http.StatusOK {
					t.Fatalf("%q lists %q, which is %d", path, line, c)
				}
			}
		}
	})
}
