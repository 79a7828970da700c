package rootfs

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// record is what a store knows about a layer beside its files.
type record struct {
	// Bytes is the disk space the layer takes, roughly.
	Bytes int64 `json:"bytes"`
	// Implied lists directories that no entry of the layer describes: they
	// exist only because something lies in them, and what they are is for the
	// layers below to say.
	Implied []string `json:"implied,omitempty"`
}

const maxRecordBytes = 256 << 20

func (r record) write(layerDir string) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(layerDir, "record"), raw, 0o600)
}

func readRecord(layerDir string) (record, error) {
	file, err := os.Open(filepath.Join(layerDir, "record"))
	if err != nil {
		return record{}, err
	}
	defer file.Close()
	var r record
	if err := json.NewDecoder(io.LimitReader(file, maxRecordBytes)).Decode(&r); err != nil {
		return record{}, fmt.Errorf("read %s: %w", file.Name(), err)
	}
	return r, nil
}
