package ovn

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/vnet-go/vnet"
)

// Rule says which columns of which rows a part writes. Every part may also
// delete rows that it made, and nobody's else.
type Rule struct {
	Part  vnet.Part
	Table string
	Of    vnet.Part // who made the row; "" for the part itself
	// Columns are names: "name" is the whole column, "options:mtu" one key of
	// a map, "+ports" members of a set: the part adds and removes its own by
	// Tx.Members and Tx.Hold, because others do so too; Ensure looks at such a
	// column only in a row that is new.
	Columns []string
}

// Columns is the table of who writes what: what is not in it is refused when
// a transaction is made. Beside it, every part writes keys "vnet:..." in the
// external_ids of rows that it made, and "vnet:PART:..." in those of others.
func Columns() []Rule { return slices.Clone(rules) }

func words(s string) []string { return strings.Fields(s) }

var rules = []Rule{
	{vnet.PartOverlay, "Logical_Switch", "", words(`name other_config:mcast_snoop other_config:mcast_querier
		other_config:mcast_flood_unregistered other_config:mcast_eth_src other_config:mcast_ip4_src other_config:mcast_ip6_src
		other_config:mcast_table_size other_config:mcast_idle_timeout other_config:vlan-passthru other_config:fdb_age_threshold
		+ports +acls +dns_records`)},
	{vnet.PartOverlay, "Logical_Switch_Port", "", words(`name type +addresses enabled parent_name tag_request ha_chassis_group
		options:network_name options:ethtype options:mcast_flood options:mcast_flood_reports options:localnet_learn_fdb
		options:requested-chassis options:activation-strategy options:vif-plug-type options:vif-plug-mtu-request
		options:vif-plug:representor:pf-mac options:vif-plug:representor:vf-num options:virtual-ip options:virtual-parents`)},
	{vnet.PartOverlay, "Port_Group", "", words(`name ports acls`)},
	{vnet.PartOverlay, "ACL", "", words(`action direction match priority name log severity meter label options`)},
	{vnet.PartOverlay, "HA_Chassis_Group", "", words(`name ha_chassis`)},
	{vnet.PartOverlay, "HA_Chassis", "", words(`chassis_name priority`)},
	{vnet.PartOverlay, "DNS", "", words(`records`)},

	{vnet.PartRouter, "Logical_Router", "", words(`name enabled options +load_balancer +ports +static_routes +policies +nat`)},
	{vnet.PartRouter, "Logical_Router_Port", "", words(`name mac networks enabled peer options ipv6_ra_configs ipv6_prefix
		ha_chassis_group gateway_chassis`)},
	{vnet.PartRouter, "Logical_Router_Static_Route", "", words(`ip_prefix nexthop output_port policy route_table bfd options`)},
	{vnet.PartRouter, "Logical_Router_Policy", "", words(`priority match action nexthop nexthops options`)},
	{vnet.PartRouter, "NAT", "", words(`type external_ip external_mac external_port_range logical_ip logical_port
		allowed_ext_ips exempted_ext_ips gateway_port options`)},
	{vnet.PartRouter, "Gateway_Chassis", "", words(`name chassis_name priority options`)},
	{vnet.PartRouter, "HA_Chassis_Group", "", words(`name ha_chassis`)},
	{vnet.PartRouter, "HA_Chassis", "", words(`chassis_name priority`)},
	{vnet.PartRouter, "Load_Balancer", "", words(`name vips protocol options ip_port_mappings selection_fields health_check`)},
	{vnet.PartRouter, "Load_Balancer_Health_Check", "", words(`vip options`)},
	{vnet.PartRouter, "BFD", "", words(`logical_port dst_ip min_rx min_tx detect_mult options`)},
	{vnet.PartRouter, "Address_Set", "", words(`name addresses`)},
	{vnet.PartRouter, "Logical_Switch_Port", "", words(`name type addresses enabled options:router-port options:nat-addresses
		options:exclude-lb-vips-from-garp options:arp_proxy`)},
	{vnet.PartRouter, "Logical_Switch", vnet.PartOverlay, words(`other_config:broadcast-arps-to-all-routers +ports +load_balancer`)},

	{vnet.PartDHCP, "DHCP_Options", "", words(`cidr options`)},
	{vnet.PartDHCP, "Logical_Switch_Port", "", words(`name type addresses enabled`)},
	{vnet.PartDHCP, "Logical_Switch_Port", vnet.PartOverlay, words(`dhcpv4_options dhcpv6_options`)},
	{vnet.PartDHCP, "Logical_Switch", vnet.PartOverlay, words(`+ports`)},

	{vnet.PartSecGroup, "Port_Group", "", words(`name ports acls`)},
	{vnet.PartSecGroup, "ACL", "", words(`action direction match priority name log severity meter`)},
	{vnet.PartSecGroup, "Address_Set", "", words(`name addresses`)},
	{vnet.PartSecGroup, "Meter", "", words(`name unit fair bands`)},
	{vnet.PartSecGroup, "Meter_Band", "", words(`action rate burst_size`)},
	{vnet.PartSecGroup, "Logical_Switch_Port", vnet.PartOverlay, words(`port_security +addresses`)},

	{vnet.PartMetadata, "Logical_Switch_Port", "", words(`name type addresses enabled options:requested-chassis`)},
	{vnet.PartMetadata, "Logical_Switch", vnet.PartOverlay, words(`+ports`)},

	{vnet.PartQoS, "QoS", "", words(`action bandwidth direction match priority`)},
	{vnet.PartQoS, "Meter", "", words(`name unit bands`)},
	{vnet.PartQoS, "Meter_Band", "", words(`action rate`)},
	{vnet.PartQoS, "Logical_Switch", vnet.PartOverlay, words(`+qos_rules`)},
	{vnet.PartQoS, "Logical_Switch_Port", vnet.PartOverlay, words(`options:qos_min_rate`)},
}

// access is a rule taken apart.
type access struct {
	part  vnet.Part
	table string
	of    vnet.Part
	whole []string
	keys  map[string][]string // by column
	some  []string            // sets of which the part has members
}

// ruleOf is what a part may write in rows that another, or it itself, has made.
func ruleOf(part vnet.Part, table string, of vnet.Part) *access {
	a := &access{part: part, table: table, of: of, keys: map[string][]string{}}
	for _, r := range rules {
		if r.Part != part || r.Table != table || r.Of != of && !(r.Of == "" && of == part) {
			continue
		}
		for _, c := range r.Columns {
			if m, is := strings.CutPrefix(c, "+"); is {
				a.some = append(a.some, m)
			} else if col, key, is := strings.Cut(c, ":"); is {
				a.keys[col] = append(a.keys[col], key)
			} else {
				a.whole = append(a.whole, c)
			}
		}
	}
	return a
}

func (a *access) refuse(column string) error {
	whose := "its own"
	if a.of != a.part {
		whose = fmt.Sprintf("%s's", a.of)
	}
	return fmt.Errorf("part %s does not write %s in %s rows of %s (see ovn.Columns)", a.part, column, whose, a.table)
}

func (a *access) members(column string) bool {
	return slices.Contains(a.some, column) || slices.Contains(a.whole, column)
}

// ownKey reports whether a key of external_ids is the part's to write.
func ownKey(key string, part vnet.Part, own bool) bool {
	rest, is := strings.CutPrefix(key, "vnet:")
	switch key {
	case keyOwner, keyPart, keyKind, keyID:
		return false
	}
	if !is {
		return false
	}
	of, _, named := strings.Cut(rest, ":")
	return named && of == string(part) || own && !named
}

// check refuses a wanted row that says anything beyond the rule.
func (a *access) check(want any, part vnet.Part, fresh bool) error {
	v := reflect.ValueOf(want).Elem()
	t := v.Type()
	for i := range t.NumField() {
		col, f := t.Field(i).Tag.Get("ovsdb"), v.Field(i)
		if f.IsZero() || col == "_uuid" {
			continue
		}
		switch {
		case col == "external_ids":
			for k := range f.Interface().(map[string]string) {
				if !ownKey(k, part, a.of == part) {
					return a.refuse("external_ids:" + k)
				}
			}
		case slices.Contains(a.whole, col):
		case len(a.keys[col]) > 0:
			for _, k := range f.MapKeys() {
				if !slices.Contains(a.keys[col], k.String()) {
					return a.refuse(col + ":" + k.String())
				}
			}
		case slices.Contains(a.some, col) && (fresh || a.of == a.part): // only looked at in a new row
		default:
			return a.refuse(col)
		}
	}
	return nil
}

// merge brings n to want in the columns that the rule has, and in those only
// (if any) that are named; it says what differed, and which whole columns did.
func (a *access) merge(n, want any, only []string, part vnet.Part, has func(string) bool) (diff, whole []string, err error) {
	for _, o := range only {
		col, key, keyed := strings.Cut(o, ":")
		if !slices.Contains(a.whole, col) && col != "external_ids" && !(keyed && slices.Contains(a.keys[col], key)) && !(!keyed && len(a.keys[col]) > 0) {
			return nil, nil, a.refuse(o)
		}
	}
	asked := func(col, key string) bool {
		return len(only) == 0 || slices.Contains(only, col) || slices.Contains(only, col+":"+key)
	}
	v, w := reflect.ValueOf(n).Elem(), reflect.ValueOf(want).Elem()
	t := v.Type()
	for i := range t.NumField() {
		col, was, now := t.Field(i).Tag.Get("ovsdb"), v.Field(i), w.Field(i)
		if col == "_uuid" || !has(col) {
			continue
		}
		switch {
		case col == "external_ids":
			m, _ := now.Interface().(map[string]string)
			old, _ := was.Interface().(map[string]string)
			var keys []string
			for k := range old {
				if ownKey(k, part, a.of == part) && asked(col, k) {
					keys = append(keys, k)
				}
			}
			for k := range m {
				if _, is := old[k]; !is && asked(col, k) {
					keys = append(keys, k)
				}
			}
			slices.Sort(keys)
			diff = append(diff, mergeKeys(col, was, now, keys)...)
		case slices.Contains(a.whole, col) && asked(col, ""):
			if d := mergeWhole(col, was, now); len(d) > 0 {
				diff, whole = append(diff, d...), append(whole, col)
			}
		case len(a.keys[col]) > 0:
			if was.Kind() != reflect.Map {
				return nil, nil, errors.New("rule names a key of a column that is no map: " + col)
			}
			keys := slices.DeleteFunc(slices.Clone(a.keys[col]), func(k string) bool { return !asked(col, k) })
			diff = append(diff, mergeKeys(col, was, now, keys)...)
		}
	}
	return diff, whole, nil
}

// mergeKeys brings some keys of a map of strings to what now has.
func mergeKeys(col string, was, now reflect.Value, keys []string) []string {
	old, _ := was.Interface().(map[string]string)
	want, _ := now.Interface().(map[string]string)
	var diff []string
	var out map[string]string
	for _, k := range keys {
		a, had := old[k]
		b, has := want[k]
		if had == has && a == b {
			continue
		}
		if out == nil {
			out = make(map[string]string, len(old)+1)
			for k, v := range old {
				out[k] = v
			}
		}
		if has {
			out[k] = b
		} else {
			delete(out, k)
		}
		diff = append(diff, fmt.Sprintf("%s:%s: %s -> %s", col, k, show(a, had), show(b, has)))
	}
	if out != nil {
		was.Set(reflect.ValueOf(out))
	}
	return diff
}

// mergeWhole brings a column to what now has.
func mergeWhole(col string, was, now reflect.Value) []string {
	switch was.Kind() {
	case reflect.Map:
		old, isText := was.Interface().(map[string]string)
		if !isText {
			break
		}
		var keys []string
		for k := range old {
			keys = append(keys, k)
		}
		for k := range now.Interface().(map[string]string) {
			if _, is := old[k]; !is {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		return mergeKeys(col, was, now, keys)
	case reflect.Slice:
		if s, isText := now.Interface().([]string); isText {
			s = slices.Clone(s)
			slices.Sort(s)
			s = slices.Compact(s)
			if slices.Equal(s, was.Interface().([]string)) {
				return nil
			}
			diff := memberDiff(col, was, reflect.ValueOf(s))
			was.Set(reflect.ValueOf(s))
			return diff
		}
	}
	if reflect.DeepEqual(was.Interface(), now.Interface()) {
		return nil
	}
	diff := []string{fmt.Sprintf("%s: %s -> %s", col, showField(was), showField(now))}
	was.Set(now)
	return diff
}

func show(s string, has bool) string {
	if !has {
		return "none"
	}
	return s
}

func showField(v reflect.Value) string {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return "none"
		}
		v = v.Elem()
	}
	if v.Kind() == reflect.String && v.String() == "" {
		return `""`
	}
	return fmt.Sprint(v.Interface())
}
