package rootfs

import (
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/tidegate-ci/tidegate/stages/sandbox/filelock"
)

// incoming is a layer that is not visible yet.
type incoming struct {
	dir  string
	lock *filelock.Lock
}

func (s *Store) newIncoming() (*incoming, error) {
	name := filepath.Join(s.dir, "incoming", uuid.NewString())
	held, err := filelock.Try(name+".lock", filelock.Exclusive)
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(name, 0o700); err != nil {
		held.Remove()
		return nil, err
	}
	return &incoming{dir: name, lock: held}, nil
}

// discard removes what is left of an incoming layer; nothing is once it was published.
func (in *incoming) discard() {
	_ = os.RemoveAll(in.dir)
	in.lock.Remove()
}
