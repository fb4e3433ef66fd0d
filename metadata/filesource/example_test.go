package filesource_test

import (
	"fmt"
	"io/fs"
	"net/http/httptest"
	"net/netip"
	"testing/fstest"

	"github.com/vnet-go/vnet/metadata"
	"github.com/vnet-go/vnet/metadata/filesource"
)

func Example() {
	files := fstest.MapFS{"instances.json": {Data: []byte(`{"instances": [{
		"at": [{"router": "router-1", "address": "192.0.2.10"}],
		"instance": {"uuid": "3f1c", "name": "web", "hostname": "web.example.org"}}]}`)}}
	src, err := filesource.Open("instances.json", &filesource.Options{Open: func(name string) (fs.File, error) { return files.Open(name) }})
	if err != nil {
		panic(err)
	}
	srv, err := metadata.NewServer(src, nil)
	if err != nil {
		panic(err)
	}
	r := httptest.NewRequest("GET", "/latest/meta-data/hostname", nil)
	r = r.WithContext(metadata.WithAsker(r.Context(), metadata.NewAsker("router-1", "", netip.MustParseAddr("192.0.2.10"))))
	w := httptest.NewRecorder()
	srv.ServeHTTP(w, r)
	fmt.Println(w.Code, w.Body)
	// Output: 200 web.example.org
}
