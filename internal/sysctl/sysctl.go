// Package sysctl reads and writes the kernel's network settings of a
// namespace. The files under /proc/sys/net show the namespace of the thread
// that opens them, so every access happens inside the namespace's Do.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/vnet-go/vnet"
)

// Doer enters a namespace.
type Doer interface{ Do(func() error) error }

// Tree is the settings of one namespace. Keys are paths below /proc/sys, as
// "net/ipv4/ip_forward"; a device name in one may contain dots, so dots are
// not taken for slashes.
type Tree struct{ NS Doer }

func path(key string) (string, error) {
	if !strings.HasPrefix(key, "net/") || strings.Contains(key, "..") {
		return "", fmt.Errorf("sysctl %q: not a path below net/", key)
	}
	return "/proc/sys/" + key, nil
}

// Get returns a setting without the newline; [vnet.ErrNotFound] when the
// kernel has no such setting (or no such device).
func (t Tree) Get(key string) (string, error) {
	p, err := path(key)
	if err != nil {
		return "", err
	}
	var b []byte
	err = t.NS.Do(func() error {
		b, err = os.ReadFile(p)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = vnet.ErrNotFound
	}
	if err != nil {
		return "", fmt.Errorf("sysctl %s: %w", key, err)
	}
	return strings.TrimSpace(string(b)), nil
}

// KV is a setting and its value.
type KV struct{ Key, Value string }

// Set writes the settings whose values differ, in order, and reports whether
// it wrote any.
func (t Tree) Set(kvs ...KV) (changed bool, err error) {
	err = t.NS.Do(func() error {
		for _, kv := range kvs {
			p, err := path(kv.Key)
			if err != nil {
				return err
			}
			b, err := os.ReadFile(p)
			if err == nil && strings.TrimSpace(string(b)) == kv.Value {
				continue
			}
			if err == nil {
				err = os.WriteFile(p, []byte(kv.Value), 0)
			}
			if errors.Is(err, fs.ErrNotExist) {
				err = vnet.ErrNotFound
			}
			if err != nil {
				return fmt.Errorf("sysctl %s = %s: %w", kv.Key, kv.Value, err)
			}
			changed = true
		}
		return nil
	})
	return changed, err
}

// Differ returns those of kvs whose values differ from what stands; a setting
// that does not exist counts as different.
func (t Tree) Differ(kvs ...KV) ([]KV, error) {
	var out []KV
	err := t.NS.Do(func() error {
		for _, kv := range kvs {
			p, err := path(kv.Key)
			if err != nil {
				return err
			}
			b, err := os.ReadFile(p)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("sysctl %s: %w", kv.Key, err)
			}
			if err != nil || strings.TrimSpace(string(b)) != kv.Value {
				out = append(out, kv)
			}
		}
		return nil
	})
	return out, err
}
