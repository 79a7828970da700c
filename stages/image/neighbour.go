package image

import (
	"context"

	"github.com/tidegate-ci/tidegate/stages/image/store"
	"github.com/tidegate-ci/tidegate/stages/sandbox/rootfs"
)

// Unpacked puts a store of unpacked layers under the cap of a build store. The
// function opens it, and gives the same every time; when it fails, nothing is
// kept there.
type Unpacked func() (*rootfs.Store, error)

// Kept implements store.Neighbour.
func (u Unpacked) Kept(context.Context) ([]store.Entry, error) {
	unpacked, err := u()
	if err != nil {
		return nil, nil //nolint:nilerr // no root filesystems here, hence no layers of theirs
	}
	layers, err := unpacked.List()
	if err != nil {
		return nil, err
	}
	entries := make([]store.Entry, 0, len(layers))
	for _, l := range layers {
		entries = append(entries, store.Entry{Name: l.Name, Bytes: l.Bytes, Used: l.Used})
	}
	return entries, nil
}

// Remove implements store.Neighbour.
func (u Unpacked) Remove(_ context.Context, entry store.Entry) (bool, error) {
	unpacked, err := u()
	if err != nil {
		return false, err
	}
	return unpacked.Remove(rootfs.Unpacked{Name: entry.Name, Bytes: entry.Bytes, Used: entry.Used})
}
