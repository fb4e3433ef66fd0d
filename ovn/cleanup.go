package ovn

import (
	"context"
	"errors"
	"strings"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/internal/ovsdb"
)

// Cleanup removes all rows of this owner from the Northbound, of every part, as
// one transaction, and waits as the caller asked.
func (c *Conn) Cleanup(ctx context.Context) error {
	return c.commit(ctx, func(_ context.Context, x *ovsdb.Tx) error {
		var errs []error
		for _, table := range northTables {
			var ids []string
			for id, row := range x.All(table) {
				if c.ours(row, "") {
					ids = append(ids, id)
				}
			}
			for _, id := range ids {
				errs = append(errs, x.Delete(table, id))
			}
		}
		return errors.Join(errs...)
	})
}

// Cleanup takes everything that this owner has plugged out of the switch, and
// removes the devices that Plug has made, also those that a process left
// behind when it was killed.
func (c *Chassis) Cleanup(ctx context.Context) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	_, err := c.db.Commit(ctx, func(x *ovsdb.Tx) error {
		var errs []error
		for _, table := range []string{"Port", "Interface"} {
			var ids []string
			for id := range x.Group(table, "ours") {
				ids = append(ids, id)
			}
			for _, id := range ids {
				errs = append(errs, x.Delete(table, id))
			}
		}
		return errors.Join(errs...)
	}, nil)
	if err != nil {
		return err
	}
	links, err := c.rt.Links()
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		f := strings.SplitN(l.Alias, ":", 5)
		if len(f) != 5 || f[0] != "vnet" || f[1] != string(c.owner) || l.Name != c.DeviceName(vnet.Part(f[2]), f[4]) {
			continue
		}
		if err := c.rt.DelLink(l.Name); err != nil && !errors.Is(err, vnet.ErrNotFound) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
