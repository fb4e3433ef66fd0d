package openstack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/qos/placement"
)

var _ placement.Store = (*Store)(nil)

var uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

func checkUUID(field, id string) error {
	if !uuid.MatchString(id) {
		return &vnet.FieldError{Field: field, Value: id, Reason: "is no UUID in lower case, as Placement's ids are"}
	}
	return nil
}

// What the API calls a provider and an inventory.
type (
	provider struct {
		UUID       string  `json:"uuid"`
		Name       string  `json:"name"`
		Parent     *string `json:"parent_provider_uuid"`
		Root       string  `json:"root_provider_uuid,omitempty"`
		Generation uint64  `json:"generation,omitempty"`
	}
	inventory struct {
		Total    int64   `json:"total"`
		Reserved int64   `json:"reserved"`
		Ratio    float64 `json:"allocation_ratio"`
		MinUnit  int64   `json:"min_unit"`
		MaxUnit  int64   `json:"max_unit"`
		StepSize int64   `json:"step_size"`
	}
	inventories struct {
		Generation  uint64                        `json:"resource_provider_generation"`
		Inventories map[placement.Class]inventory `json:"inventories"`
	}
	traits struct {
		Generation uint64   `json:"resource_provider_generation"`
		Traits     []string `json:"traits"`
	}
)

const most = math.MaxInt32 // of any number of an inventory

func toInventory(i placement.Inventory) inventory {
	return inventory{Total: i.Total, Reserved: i.Reserved, Ratio: cmp.Or(i.Ratio, 1), MinUnit: cmp.Or(i.MinUnit, 1), MaxUnit: cmp.Or(i.MaxUnit, most), StepSize: cmp.Or(i.StepSize, 1)}
}

func fromInventory(i inventory) placement.Inventory {
	unless := func(n, def int64) int64 {
		if n == def {
			return 0
		}
		return n
	}
	out := placement.Inventory{Total: i.Total, Reserved: i.Reserved, MinUnit: unless(i.MinUnit, 1), MaxUnit: unless(i.MaxUnit, most), StepSize: unless(i.StepSize, 1)}
	if i.Ratio != 1 {
		out.Ratio = i.Ratio
	}
	return out
}

func path(id string, more ...string) string {
	return "/resource_providers/" + strings.Join(append([]string{id}, more...), "/")
}

// parent is a provider's parent as the API takes it: null for a root.
func parent(id string) *string {
	if id == "" {
		return nil
	}
	return &id
}

// PutProvider implements [placement.Store].
func (s *Store) PutProvider(ctx context.Context, p placement.Provider, shrink bool) (placement.Provider, error) {
	if err := checkUUID("id", p.ID); err != nil {
		return p, err
	}
	if p.Parent != "" {
		if err := checkUUID("parent", p.Parent); err != nil {
			return p, err
		}
	}
	for k, i := range p.Inventories {
		if i.Total > most || i.MaxUnit > most || i.MinUnit > most || i.StepSize > most {
			return p, &vnet.FieldError{Field: fmt.Sprintf("inventories[%s]", k), Value: fmt.Sprint(i.Total), Reason: "has a number that is more than Placement's 2147483647"}
		}
	}
	old, err := s.Provider(ctx, p.ID)
	switch {
	case errors.Is(err, vnet.ErrNotFound) && p.Generation == 0:
		if p.Parent != "" {
			if _, err := s.Provider(ctx, p.Parent); err != nil {
				return p, fmt.Errorf("parent of provider %s: %w", p.ID, err)
			}
		}
		var made provider
		if err := s.call(ctx, "POST", "/resource_providers", provider{UUID: p.ID, Name: p.Name, Parent: parent(p.Parent)}, &made); err != nil {
			return p, err
		}
		old = placement.Provider{ID: p.ID, Name: p.Name, Parent: p.Parent, Generation: made.Generation + 1}
	case errors.Is(err, vnet.ErrNotFound):
		return p, fmt.Errorf("provider %s is gone: %w", p.ID, vnet.ErrConflict)
	case err != nil:
		return p, err
	case old.Generation != p.Generation:
		return p, fmt.Errorf("provider %s is of generation %d, not %d: %w", p.ID, old.Generation, p.Generation, vnet.ErrConflict)
	}
	if !shrink && len(old.Inventories) > 0 {
		used, err := s.Usage(ctx, p.ID)
		if err != nil {
			return p, err
		}
		for k, n := range used {
			if i := p.Inventories[k]; n > 0 && n > i.Capacity() {
				return p, fmt.Errorf("of provider %s %d of %s are promised: %w", p.ID, n, k, vnet.ErrInUse)
			}
		}
	}
	if old.Name != p.Name || old.Parent != p.Parent {
		if p.Parent != "" && p.Parent != old.Parent {
			if _, err := s.Provider(ctx, p.Parent); err != nil {
				return p, fmt.Errorf("parent of provider %s: %w", p.ID, err)
			}
		}
		var now provider
		body := struct {
			Name   string  `json:"name"`
			Parent *string `json:"parent_provider_uuid"`
		}{p.Name, parent(p.Parent)}
		err := s.call(ctx, "PUT", path(p.ID), body, &now)
		if x := new(APIError); errors.As(err, &x) && x.Status == 400 {
			return p, fmt.Errorf("%w: %w", vnet.ErrConflict, err) // a parent that is below it
		} else if err != nil {
			return p, err
		}
	}
	generation := old.Generation - 1
	if !sameInventories(old.Inventories, p.Inventories) {
		for k := range p.Inventories {
			if strings.HasPrefix(string(k), "CUSTOM_") {
				if err := s.call(ctx, "PUT", "/resource_classes/"+string(k), nil, nil); err != nil {
					return p, err
				}
			}
		}
		in := inventories{Generation: generation, Inventories: map[placement.Class]inventory{}}
		for k, i := range p.Inventories {
			in.Inventories[k] = toInventory(i)
		}
		var out inventories
		if err := s.call(ctx, "PUT", path(p.ID, "inventories"), in, &out); err != nil {
			return p, err
		}
		generation = out.Generation
	}
	if !slices.Equal(old.Traits, p.Traits) {
		for _, t := range p.Traits {
			if strings.HasPrefix(t, "CUSTOM_") && !slices.Contains(old.Traits, t) {
				if err := s.call(ctx, "PUT", "/traits/"+t, nil, nil); err != nil {
					return p, err
				}
			}
		}
		in := traits{Generation: generation, Traits: p.Traits}
		if in.Traits == nil {
			in.Traits = []string{}
		}
		var out traits
		if err := s.call(ctx, "PUT", path(p.ID, "traits"), in, &out); err != nil {
			return p, err
		}
		generation = out.Generation
	}
	p = p.Clone()
	p.Generation = generation + 1
	return p, nil
}

func sameInventories(a, b map[placement.Class]placement.Inventory) bool {
	if len(a) != len(b) {
		return false
	}
	for k, i := range a {
		j, ok := b[k]
		if !ok || toInventory(i) != toInventory(j) {
			return false
		}
	}
	return true
}

// DeleteProvider implements [placement.Store].
func (s *Store) DeleteProvider(ctx context.Context, id string) error {
	if err := checkUUID("id", id); err != nil {
		return err
	}
	err := gone(s.call(ctx, "DELETE", path(id), nil, nil))
	if x := new(APIError); errors.As(err, &x) && x.Status == 409 {
		return fmt.Errorf("%w: %w", vnet.ErrInUse, err)
	}
	return err
}

// Provider implements [placement.Store].
func (s *Store) Provider(ctx context.Context, id string) (placement.Provider, error) {
	if err := checkUUID("id", id); err != nil {
		return placement.Provider{}, err
	}
	// Three answers make one provider: those of one generation do.
	for {
		var p provider
		if err := s.call(ctx, "GET", path(id), nil, &p); err != nil {
			return placement.Provider{}, err
		}
		out, same, err := s.whole(ctx, p)
		if err != nil || same {
			return out, err
		}
	}
}

// whole adds what a provider has; same is false when it changed meanwhile.
func (s *Store) whole(ctx context.Context, p provider) (placement.Provider, bool, error) {
	out := placement.Provider{ID: p.UUID, Name: p.Name, Generation: p.Generation + 1}
	if p.Parent != nil {
		out.Parent = *p.Parent
	}
	var i inventories
	if err := s.call(ctx, "GET", path(p.UUID, "inventories"), nil, &i); err != nil {
		return out, false, err
	}
	var t traits
	if err := s.call(ctx, "GET", path(p.UUID, "traits"), nil, &t); err != nil {
		return out, false, err
	}
	if i.Generation != p.Generation || t.Generation != p.Generation {
		return out, false, nil
	}
	for k, x := range i.Inventories {
		if out.Inventories == nil {
			out.Inventories = map[placement.Class]placement.Inventory{}
		}
		out.Inventories[k] = fromInventory(x)
	}
	if len(t.Traits) > 0 {
		out.Traits = slices.Sorted(slices.Values(t.Traits))
	}
	return out, true, nil
}

// Providers implements [placement.Store].
func (s *Store) Providers(ctx context.Context, host string) ([]placement.Provider, error) {
	query := ""
	if host != "" {
		if err := checkUUID("host", host); err != nil {
			return nil, err
		}
		query = "?in_tree=" + host
	}
	var list struct {
		Providers []provider `json:"resource_providers"`
	}
	if err := s.call(ctx, "GET", "/resource_providers"+query, nil, &list); err != nil {
		return nil, err
	}
	out := []placement.Provider{}
	for _, p := range list.Providers {
		x, same, err := s.whole(ctx, p)
		if err == nil && !same {
			x, err = s.Provider(ctx, p.UUID)
		}
		if errors.Is(err, vnet.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b placement.Provider) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// Usage implements [placement.Store].
func (s *Store) Usage(ctx context.Context, id string) (placement.Resources, error) {
	if err := checkUUID("id", id); err != nil {
		return nil, err
	}
	var u struct {
		Usages placement.Resources `json:"usages"`
	}
	if err := s.call(ctx, "GET", path(id, "usages"), nil, &u); err != nil {
		return nil, err
	}
	for k, n := range u.Usages { // all classes of its inventories are listed
		if n == 0 {
			delete(u.Usages, k)
		}
	}
	return u.Usages, nil
}

// candidates is the answer to a query for them.
type candidates struct {
	Requests []struct {
		Allocations map[string]struct {
			Resources placement.Resources `json:"resources"`
		} `json:"allocations"`
		Mappings map[string][]string `json:"mappings"` // suffix -> providers
	} `json:"allocation_requests"`
	Summaries map[string]struct {
		Resources map[placement.Class]struct {
			Capacity int64 `json:"capacity"`
			Used     int64 `json:"used"`
		} `json:"resources"`
		Root string `json:"root_provider_uuid"`
	} `json:"provider_summaries"`
}

func suffix(i int) string { return "_" + strconv.Itoa(i) }

// query is a request in the words of the API: a granular group for each.
func query(r placement.Request, host string) string {
	q := url.Values{}
	names := map[string]string{}
	for i, g := range r.Groups {
		names[g.ID] = suffix(i)
		var res, req []string
		for k, n := range g.Resources {
			res = append(res, fmt.Sprintf("%s:%d", k, n))
		}
		req = append(req, g.Required...)
		for _, t := range g.Forbidden {
			req = append(req, "!"+t)
		}
		slices.Sort(res)
		if len(res) > 0 {
			q.Set("resources"+suffix(i), strings.Join(res, ","))
		}
		if len(req) > 0 {
			q.Set("required"+suffix(i), strings.Join(req, ","))
		}
		if host != "" {
			q.Set("in_tree"+suffix(i), host)
		}
	}
	if len(r.Groups) > 1 {
		q.Set("group_policy", "none")
	}
	for _, list := range r.SameSubtree {
		var of []string
		for _, id := range list {
			of = append(of, names[id])
		}
		q.Add("same_subtree", strings.Join(of, ","))
	}
	return q.Encode()
}

// perHost bounds how many candidates one host has.
const perHost = 4

// Candidates implements [placement.Store].
func (s *Store) Candidates(ctx context.Context, r placement.Request, policy placement.Policy, limit int) ([]placement.Candidate, error) {
	if limit <= 0 {
		return nil, nil
	}
	hosts := r.Hosts
	if len(hosts) == 0 {
		hosts = []string{""}
	}
	var out []placement.Candidate
	for i, h := range hosts {
		if h != "" {
			if err := checkUUID(fmt.Sprintf("hosts[%d]", i), h); err != nil {
				return nil, err
			}
		}
		var c candidates
		err := s.call(ctx, "GET", "/allocation_candidates?"+query(r, h), nil, &c)
		if x := new(APIError); errors.As(err, &x) && x.Status == 400 && strings.Contains(x.Detail, "No such trait") {
			continue // what nobody has ever had
		}
		if err != nil {
			return nil, err
		}
		for _, q := range c.Requests {
			x := placement.Candidate{Providers: map[string]string{}}
			for i, g := range r.Groups {
				if p := q.Mappings[suffix(i)]; len(p) == 1 {
					x.Providers[g.ID] = p[0]
				}
			}
			if len(x.Providers) != len(r.Groups) {
				return nil, fmt.Errorf("placement: a candidate does not say which provider gives which group: %w", vnet.ErrUnsupported)
			}
			for id, a := range q.Allocations {
				sum := c.Summaries[id]
				x.Host = sum.Root
				for k, n := range a.Resources {
					if e := sum.Resources[k]; e.Capacity > 0 {
						x.Load = max(x.Load, float64(e.Used+n)/float64(e.Capacity))
					}
				}
			}
			out = append(out, x)
		}
	}
	slices.SortFunc(out, policy.Compare)
	count := map[string]int{}
	out = slices.DeleteFunc(out, func(c placement.Candidate) bool {
		count[c.Host]++
		return count[c.Host] > perHost
	})
	return out[:min(len(out), limit)], nil
}

// consumer is what the API says of one.
type consumer struct {
	Allocations map[string]part `json:"allocations"`
	Generation  *uint64         `json:"consumer_generation"`
	ProjectID   string          `json:"project_id,omitempty"`
	UserID      string          `json:"user_id,omitempty"`
}

type part struct {
	Resources placement.Resources `json:"resources"`
}

// Allocation implements [placement.Store].
func (s *Store) Allocation(ctx context.Context, id string) (placement.Allocation, error) {
	a := placement.Allocation{Consumer: id}
	if err := checkUUID("consumer", id); err != nil {
		return a, err
	}
	var c consumer
	if err := s.call(ctx, "GET", "/allocations/"+id, nil, &c); err != nil {
		return a, err
	}
	for p, x := range c.Allocations {
		if a.Parts == nil {
			a.Parts = map[string]placement.Resources{}
		}
		a.Parts[p] = x.Resources
	}
	if c.Generation != nil {
		a.Generation = *c.Generation + 1
	}
	return a, nil
}

// Allocate implements [placement.Store].
func (s *Store) Allocate(ctx context.Context, all ...placement.Allocation) error {
	body := map[string]consumer{}
	providers := map[string]bool{}
	for i, a := range all {
		if err := checkUUID(fmt.Sprintf("[%d].consumer", i), a.Consumer); err != nil {
			return err
		}
		c := consumer{Allocations: map[string]part{}, ProjectID: s.o.ProjectID, UserID: s.o.UserID}
		for p, r := range a.Parts {
			if err := checkUUID(fmt.Sprintf("[%d].parts", i), p); err != nil {
				return err
			}
			c.Allocations[p] = part{r}
			providers[p] = true
		}
		if a.Generation > 0 {
			g := a.Generation - 1
			c.Generation = &g
		} else if len(a.Parts) == 0 {
			// The service takes no absence of what it does not know.
			now, err := s.Allocation(ctx, a.Consumer)
			if err != nil {
				return err
			}
			if now.Generation > 0 {
				return fmt.Errorf("what %s has is of generation %d, not 0: %w", a.Consumer, now.Generation, vnet.ErrConflict)
			}
			continue
		}
		body[a.Consumer] = c
	}
	if len(body) == 0 {
		return nil
	}
	err := s.call(ctx, "POST", "/allocations", body, nil)
	if x := new(APIError); errors.As(err, &x) && x.Code == "placement.concurrent_update" {
		if again, e := s.forgotten(ctx, body); e != nil || again {
			if err = e; err == nil {
				err = s.call(ctx, "POST", "/allocations", body, nil)
			}
		}
	}
	// That a provider is not there is said in words only.
	if x := new(APIError); errors.As(err, &x) && (x.Status == 400 || x.Status == 409 && x.Code == "") {
		for p := range providers {
			if have, e := s.Provider(ctx, p); errors.Is(e, vnet.ErrNotFound) {
				return fmt.Errorf("provider %s: %w", p, vnet.ErrNotFound)
			} else if e == nil {
				for _, c := range body {
					for k := range c.Allocations[p].Resources {
						if _, ok := have.Inventories[k]; !ok {
							return fmt.Errorf("provider %s has nothing of %s: %w", p, k, vnet.ErrNotFound)
						}
					}
				}
			}
		}
	}
	return err
}

// forgotten looks for consumers that the service has a record of though they
// have nothing: it leaves one, of generation 0, when it refuses an allocation of a
// provider that is not there (seen with 8.0.0). They are new all the same.
func (s *Store) forgotten(ctx context.Context, body map[string]consumer) (found bool, err error) {
	for id, c := range body {
		if c.Generation != nil {
			continue
		}
		now, err := s.Allocation(ctx, id)
		if err != nil {
			return false, err
		}
		if now.Generation == 0 {
			c.Generation, found = new(uint64), true
			body[id] = c
		}
	}
	return found, nil
}
