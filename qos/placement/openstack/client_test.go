package openstack_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/qos/placement"
	"github.com/vnet-go/vnet/qos/placement/openstack"
)

const (
	host = "5c0b7f7e-0000-4000-8000-000000000001"
	nic  = "5c0b7f7e-0000-4000-8000-000000000002"
	vm   = "5c0b7f7e-0000-4000-8000-000000000003"
)

// answers is a service of canned answers, in the form of the API reference.
func answers(t *testing.T, f http.HandlerFunc) *openstack.Store {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return store(t, s.URL)
}

func say(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func TestOptions(t *testing.T) {
	for field, o := range map[string]openstack.Options{
		"endpoint":   {Endpoint: "placement", ProjectID: "p", UserID: "u"},
		"project_id": {Endpoint: "http://h", UserID: "u"},
		"user_id":    {Endpoint: "http://h", ProjectID: "p"},
	} {
		_, err := openstack.New(&o)
		var e *vnet.FieldError
		require.ErrorAs(t, err, &e)
		assert.Equal(t, field, e.Field)
	}
}

// What is asked for when a port wants bandwidth of one switch, and what the
// answer means.
func TestCandidatesOnTheWire(t *testing.T) {
	s := answers(t, func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "placement 1.37", r.Header.Get("OpenStack-API-Version"))
		assert.Equal(t, "admin", r.Header.Get("X-Auth-Token"))
		assert.Equal(t, "/allocation_candidates", r.URL.Path)
		q := r.URL.Query()
		assert.Equal(t, "NET_BW_EGR_KILOBIT_PER_SEC:1000", q.Get("resources_0"))
		assert.Equal(t, "CUSTOM_PHYSNET_A,!CUSTOM_SLOW", q.Get("required_0"))
		assert.Equal(t, "none", q.Get("group_policy"))
		assert.Equal(t, []string{"_0,_1"}, q["same_subtree"])
		assert.Equal(t, host, q.Get("in_tree_1"))
		say(w, 200, `{"allocation_requests": [{"allocations": {"`+nic+`": {"resources": {"NET_BW_EGR_KILOBIT_PER_SEC": 1000}},
			"`+host+`": {"resources": {"NET_PACKET_RATE_KILOPACKET_PER_SEC": 10}}}, "mappings": {"_0": ["`+nic+`"], "_1": ["`+host+`"]}}],
			"provider_summaries": {"`+nic+`": {"resources": {"NET_BW_EGR_KILOBIT_PER_SEC": {"capacity": 4000, "used": 1000}}, "traits": [], "parent_provider_uuid": "`+host+`", "root_provider_uuid": "`+host+`"},
			"`+host+`": {"resources": {"NET_PACKET_RATE_KILOPACKET_PER_SEC": {"capacity": 100, "used": 0}}, "traits": [], "parent_provider_uuid": null, "root_provider_uuid": "`+host+`"}}}`)
	})
	found, err := s.Candidates(t.Context(), placement.Request{Hosts: []string{host}, SameSubtree: [][]string{{"bw", "pps"}}, Groups: []placement.Group{
		{ID: "bw", Resources: placement.Resources{placement.EgressKbps: 1000}, Required: []string{"CUSTOM_PHYSNET_A"}, Forbidden: []string{"CUSTOM_SLOW"}},
		{ID: "pps", Resources: placement.Resources{placement.PacketRate: 10}}}}, placement.Spread, 5)
	require.NoError(t, err)
	require.Equal(t, []placement.Candidate{{Host: host, Providers: map[string]string{"bw": nic, "pps": host}, Load: 0.5}}, found)
}

func TestAllocateOnTheWire(t *testing.T) {
	var got map[string]any
	s := answers(t, func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, "POST /allocations", r.Method+" "+r.URL.Path)
		assert.NoError(t, json.NewDecoder(r.Body).Decode(&got))
		w.WriteHeader(204)
	})
	require.NoError(t, s.Allocate(t.Context(), placement.Allocation{Consumer: vm, Parts: map[string]placement.Resources{nic: {placement.EgressKbps: 5}}},
		placement.Allocation{Consumer: host, Generation: 3}))
	require.Equal(t, map[string]any{
		vm:   map[string]any{"allocations": map[string]any{nic: map[string]any{"resources": map[string]any{"NET_BW_EGR_KILOBIT_PER_SEC": 5.0}}}, "consumer_generation": nil, "project_id": "p", "user_id": "u"},
		host: map[string]any{"allocations": map[string]any{}, "consumer_generation": 2.0, "project_id": "p", "user_id": "u"},
	}, got)
}

// Each way to say no.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		is     error
	}{
		{404, `{"errors": [{"status": 404, "title": "Not Found", "detail": "No resource provider"}]}`, vnet.ErrNotFound},
		{409, `{"errors": [{"status": 409, "code": "placement.concurrent_update", "detail": "changed"}]}`, vnet.ErrConflict},
		{409, `{"errors": [{"status": 409, "code": "placement.inventory.inuse", "detail": "in use"}]}`, vnet.ErrInUse},
		{409, `{"errors": [{"status": 409, "code": "placement.resource_provider.cannot_delete_parent", "detail": "has children"}]}`, vnet.ErrInUse},
		{406, `{"errors": [{"status": 406, "max_version": "1.30"}]}`, vnet.ErrUnsupported},
		{503, `busy`, vnet.ErrNotReady},
	} {
		s := answers(t, func(w http.ResponseWriter, r *http.Request) { say(w, c.status, c.body) })
		_, err := s.Usage(t.Context(), nic)
		require.ErrorIs(t, err, c.is, "%d %s", c.status, c.body)
	}
	s := answers(t, func(w http.ResponseWriter, r *http.Request) { say(w, 400, `{"errors": [{"detail": "bad\n   input"}]}`) })
	_, err := s.Usage(t.Context(), nic)
	var e *openstack.APIError
	require.ErrorAs(t, err, &e)
	require.Equal(t, "bad input", e.Detail)
	for _, err := range []error{s.DeleteProvider(t.Context(), "h1"), s.Allocate(t.Context(), placement.Allocation{Consumer: "c1"})} {
		var f *vnet.FieldError
		require.ErrorAs(t, err, &f, "ids are UUIDs")
	}
	// A server that is not there, and one that does not answer.
	gone := httptest.NewServer(nil)
	gone.Close()
	_, err = store(t, gone.URL).Usage(t.Context(), nic)
	require.ErrorIs(t, err, vnet.ErrNotReady)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	slow := answers(t, func(w http.ResponseWriter, r *http.Request) { <-ctx.Done() })
	_, err = slow.Usage(ctx, nic)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// A token that has run out is asked for anew, once.
func TestToken(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Auth-Token") != "new" {
			say(w, 401, `{}`)
			return
		}
		say(w, 200, `{"usages": {"NET_BW_EGR_KILOBIT_PER_SEC": 0, "NET_BW_IGR_KILOBIT_PER_SEC": 7}}`)
	}))
	t.Cleanup(srv.Close)
	asked := 0
	s, err := openstack.New(&openstack.Options{Endpoint: srv.URL + "/", ProjectID: "p", UserID: "u", Token: func(_ context.Context, renew bool) (string, error) {
		asked++
		if renew {
			return "new", nil
		}
		return "old", nil
	}})
	require.NoError(t, err)
	u, err := s.Usage(t.Context(), nic)
	require.NoError(t, err)
	require.Equal(t, placement.Resources{placement.IngressKbps: 7}, u)
	require.Equal(t, 2, asked)
}
