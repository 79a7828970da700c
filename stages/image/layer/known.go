package layer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
)

// KnownFile is a file that was hashed before, with what would betray a change.
type KnownFile struct {
	Path   string
	Stamp  stamp
	Digest Sum
}

// Known are the digests of files that were hashed before. The zero value knows
// none. It stays encoded: a context may have a hundred thousand files, and is
// gone through in order at each build.
type Known struct{ data []byte }

// Merge gives what is known with newer files, which win, as far as limit files.
func (k *Known) Merge(newer []KnownFile, limit int) *Known {
	slices.SortStableFunc(newer, func(a, b KnownFile) int { return compareNames(a.Path, b.Path) })
	size := len(k.data) + len(knownFormat)
	for i := range newer {
		size += len(newer[i].Path) + 80
	}
	merged := &Known{data: make([]byte, 0, size)}
	merged.data = append(merged.data, knownFormat...)
	old := k.finder()
	more := old.advance()
	for count := 0; count < limit; {
		switch {
		case len(newer) > 1 && newer[0].Path == newer[1].Path:
			newer = newer[1:] // two steps took it
			continue
		case more && len(newer) > 0 && compareNames(old.file.Path, newer[0].Path) == 0:
			more = old.advance()
			continue
		case more && (len(newer) == 0 || compareNames(old.file.Path, newer[0].Path) < 0):
			merged.add(&old.file)
			more = old.advance()
		case len(newer) > 0:
			merged.add(&newer[0])
			newer = newer[1:]
		default:
			return merged
		}
		count++
	}
	return merged
}

func (k *Known) add(f *KnownFile) {
	k.data = binary.AppendUvarint(k.data, uint64(len(f.Path)))
	k.data = append(k.data, f.Path...)
	k.data = binary.AppendVarint(k.data, f.Stamp.Size)
	k.data = binary.AppendVarint(k.data, f.Stamp.Modified)
	k.data = binary.AppendVarint(k.data, f.Stamp.Changed)
	k.data = binary.AppendUvarint(k.data, f.Stamp.Inode)
	k.data = append(k.data, f.Digest[:]...)
}

// finder looks up paths. It is fast when they come in the order of a walk, and
// starts over when one lies behind.
type finder struct {
	known *Known
	rest  fields
	// file is the record before rest, if found is set.
	file  KnownFile
	found bool
	asked string
}

func (k *Known) finder() *finder {
	f := &finder{known: k}
	f.restart()
	return f
}

func (f *finder) restart() {
	f.rest = fields{data: bytes.TrimPrefix(f.known.data, []byte(knownFormat))}
	f.found = false
}

func (f *finder) advance() bool {
	if len(f.rest.data) == 0 {
		f.found = false
		return false
	}
	f.file.Path = f.rest.string()
	f.file.Stamp = stamp{Size: f.rest.signed(), Modified: f.rest.signed(), Changed: f.rest.signed(), Inode: f.rest.unsigned()}
	copy(f.file.Digest[:], f.rest.take(len(f.file.Digest)))
	f.found = !f.rest.broken
	return f.found
}

// find gives the file's record, nil if there is none. It is good until the next call.
func (f *finder) find(path string) *KnownFile {
	if compareNames(path, f.asked) < 0 {
		f.restart()
	}
	f.asked = path
	for f.found || f.advance() {
		switch c := compareNames(f.file.Path, path); {
		case c == 0:
			return &f.file
		case c > 0:
			return nil
		}
		f.found = false
	}
	return nil
}

const knownFormat = "tidegate-known/1\n"

// MarshalRecord implements store.Record.
func (k *Known) MarshalRecord() ([]byte, error) { return k.data, nil }

// UnmarshalRecord implements store.Record.
func (k *Known) UnmarshalRecord(data []byte) error {
	if !bytes.HasPrefix(data, []byte(knownFormat)) {
		return errors.New("not a record of known files")
	}
	k.data = data
	return nil
}
