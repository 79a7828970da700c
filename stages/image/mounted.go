package image

import (
	"context"
	"errors"
	"io"

	"github.com/tidegate-ci/tidegate/stages/sandbox/rootfs"
)

// errNoRootfs says that the builder was set up without a store of unpacked layers.
var errNoRootfs = errors.New("this needs a root filesystem, and none can be made here")

// mount unpacks what is not unpacked yet and mounts the chain.
func (e *execution) mount(ctx context.Context, chain []chainLink) (*rootfs.Snapshot, error) {
	if e.Rootfs == nil {
		return nil, errNoRootfs
	}
	unpacked, err := e.Rootfs()
	if err != nil {
		return nil, err
	}
	ids := diffIDs(chain)
	for _, link := range chain {
		// One stage at a time: a second that waits inside Ensure would wait until
		// the first no longer has the layer mounted.
		_, err := e.ensured.do(link.DiffID, func() (struct{}, error) {
			return struct{}{}, e.unpack(ctx, unpacked, link)
		})
		if err != nil {
			return nil, err
		}
	}
	return unpacked.Mount(ctx, ids)
}

// unpack makes room for a layer as it is unpacked. Kept, it counts as the
// neighbour's.
func (e *execution) unpack(ctx context.Context, unpacked *rootfs.Store, link chainLink) error {
	var taken int64
	err := unpacked.EnsureWithin(ctx, link.DiffID, func() (io.ReadCloser, error) { return e.unpacked(ctx, link) }, func(n int64) error {
		if err := e.session.Take(n); err != nil {
			return err
		}
		taken += n
		return nil
	})
	if err != nil {
		e.session.Give(taken)
		return err
	}
	return e.session.Kept(taken)
}
