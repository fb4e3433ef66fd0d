package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/linux"
	"github.com/vnet-go/vnet/sriov"
	"github.com/vnet-go/vnet/sriov/linuxsriov"
)

// functionRecords is where this machine keeps who has which function.
const functionRecords = "/run/vnet-sriov"

// wireFunctions gives a host the cards of this machine. The hosts of a cloud are
// namespaces, but cards are this machine's: each host is an owner of its own, so
// that one does not take what another has.
func wireFunctions(ctx context.Context, cloud, host string, log *slog.Logger) (*sriov.Allocator, func() error, error) {
	id := sha256.Sum256([]byte(cloud + "/" + host))
	h, err := linux.Open(ctx, vnet.Owner("vf-"+hex.EncodeToString(id[:6])), &linux.Options{Logger: log})
	if err != nil {
		return nil, nil, err
	}
	b, err := linuxsriov.New(h, &linuxsriov.Options{Dir: functionRecords})
	if err != nil {
		return nil, nil, errors.Join(err, h.Close())
	}
	a, err := sriov.New(b, nil)
	return a, h.Close, err
}

// anyFunctions reports whether this machine has given any function to anybody.
func anyFunctions() bool {
	_, err := os.Stat(functionRecords)
	return err == nil
}

// returnFunctions takes back what hosts have of this machine's cards.
func returnFunctions(ctx context.Context, cloud string, hosts []string) error {
	if !anyFunctions() {
		return nil
	}
	var errs []error
	for _, h := range hosts {
		a, end, err := wireFunctions(ctx, cloud, h, nil)
		if err == nil {
			err = errors.Join(a.Sync(ctx, sriov.State{}, vnet.SyncOptions{Force: true}), end())
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", h, err))
		}
	}
	return errors.Join(errs...)
}
