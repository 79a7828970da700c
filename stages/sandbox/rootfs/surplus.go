package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
)

// surplusFrom is from how many files on the tree of a command that made a layer
// once more is left until its room is needed. Removing fewer costs next to nothing.
const surplusFrom = 1000

// surplusPrefix begins the Name of a surplus tree in List.
const surplusPrefix = "surplus:"

// leave keeps what was written to a snapshot as surplus.
func (s *Store) leave(snapshot *Snapshot) error {
	if err := snapshot.unmount(); err != nil {
		return err
	}
	var r record
	for i := range snapshot.seen {
		r.Bytes += snapshot.seen[i].bytes
	}
	incoming, err := s.newIncoming()
	if err != nil {
		return err
	}
	defer incoming.discard()
	if err := r.write(incoming.dir); err != nil {
		return err
	}
	if err := os.Rename(snapshot.Upper, filepath.Join(incoming.dir, "tree")); err != nil {
		return err
	}
	// Nobody will ever use it, so it is the first to go.
	never := time.Unix(0, 0)
	if err := os.Chtimes(incoming.dir, never, never); err != nil {
		return err
	}
	return os.Rename(incoming.dir, filepath.Join(s.dir, "surplus", uuid.NewString()))
}

// removeSurplus removes a surplus tree; it tells whether it is gone.
func (s *Store) removeSurplus(name string) (bool, error) {
	id, err := uuid.Parse(name)
	if err != nil {
		return false, err
	}
	trash, err := s.newIncoming()
	if err != nil {
		return false, err
	}
	defer trash.discard()
	err = os.Rename(filepath.Join(s.dir, "surplus", id.String()), filepath.Join(trash.dir, "removed"))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return err == nil, err
}
