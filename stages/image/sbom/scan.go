// Package sbom lists the packages of an image: those of dpkg, apk and RPM, the
// modules of Go programs, and packages of npm and Python. It reads the layers as
// they are, one after the other, and needs neither a root filesystem nor a program
// of the image.
package sbom

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// Package is something installed.
type Package struct {
	// Type is the package URL's: deb, apk, rpm, golang, npm or pypi.
	Type, Namespace, Name, Version string
	// Epoch is RPM's, which comes before the version; that of others is in it.
	Epoch int `json:",omitempty"`
	// Architecture and License are empty when not known.
	Architecture, License string
	// Found is the file that tells of it.
	Found string
}

// Bounds of what is read.
const (
	maxDatabase = 64 << 20
	maxManifest = 1 << 20
	maxProgram  = 2 << 30
	maxPackages = 200_000
)

// Packages are those of an image, sorted, and what it found and cannot read.
type Packages struct {
	All []Package
	// Distribution is ID and VERSION_ID of os-release.
	Distribution, Release string
	// Unread names databases that could not be read, and says why.
	Unread []string
}

// found is what one file tells.
type found struct {
	packages []Package
	release  []byte
	unread   string
}

// Scanner takes the layers of an image, lowest first.
type Scanner struct {
	files map[string]found
	count int
	spool *os.File
}

// NewScanner makes a scanner; Close it.
func NewScanner() *Scanner { return &Scanner{files: map[string]found{}} }

// Close removes what the scanner keeps on disk.
func (s *Scanner) Close() error {
	if s.spool == nil {
		return nil
	}
	return s.spool.Close()
}

// Layer reads a layer, as a tar stream without compression.
func (s *Scanner) Layer(ctx context.Context, layer io.Reader) error {
	below := s.parents()
	fresh := map[string]found{}
	// gone are paths; those of directories' contents end with a slash.
	gone := map[string]bool{}
	archive := tar.NewReader(layer)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read layer: %w", err)
		}
		name := strings.TrimPrefix(path.Clean("/"+header.Name), "/")
		dir, base := path.Split(name)
		if base == ".wh..wh..opq" {
			gone[strings.TrimSuffix(dir, "/")+"/"] = true
			continue
		}
		if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
			gone[dir+hidden], gone[dir+hidden+"/"] = true, true
			continue
		}
		if header.Typeflag == tar.TypeDir {
			continue
		}
		// What takes a file's place, or a directory's, takes away what was there.
		if _, ok := s.files[name]; ok || below[name] {
			gone[name], gone[name+"/"] = true, true
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		what, err := s.examine(ctx, name, header, archive)
		if err != nil {
			return fmt.Errorf("/%s: %w", name, err)
		}
		if what == nil {
			delete(fresh, name)
			continue
		}
		if s.count += len(what.packages); s.count > maxPackages {
			return fmt.Errorf("more than %d packages", maxPackages)
		}
		fresh[name] = *what
	}
	maps.DeleteFunc(s.files, func(name string, _ found) bool { return removed(name, gone) })
	maps.Copy(s.files, fresh)
	return nil
}

// removed tells whether a layer takes a file of those below away.
func removed(name string, gone map[string]bool) bool {
	if gone[name] || gone["/"] {
		return true
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if gone[dir+"/"] {
			return true
		}
	}
	return false
}

// parents are the directories above the files that tell of packages.
func (s *Scanner) parents() map[string]bool {
	all := map[string]bool{}
	for name := range s.files {
		for dir := path.Dir(name); dir != "." && !all[dir]; dir = path.Dir(dir) {
			all[dir] = true
		}
	}
	return all
}

// examine reads a file that may tell of packages; nil means that it does not.
// A file that is broken tells of none: it is the image's, and may be anything.
func (s *Scanner) examine(ctx context.Context, name string, header *tar.Header, content io.Reader) (*found, error) {
	read := func(most int64) ([]byte, error) {
		if header.Size > most {
			return nil, fmt.Errorf("larger than %d bytes", most)
		}
		return io.ReadAll(io.LimitReader(content, most))
	}
	parse := func(most int64, parser func([]byte) []Package) (*found, error) {
		data, err := read(most)
		if err != nil {
			return nil, err
		}
		f := &found{packages: parser(data)}
		for i := range f.packages {
			f.packages[i].Found = "/" + name
		}
		return f, nil
	}
	switch dir, base := path.Split(name); {
	case name == "etc/os-release", name == "usr/lib/os-release":
		data, err := read(maxManifest)
		return &found{release: data}, err
	case rpmDatabases[name] && header.Size > maxRPM:
		return nil, fmt.Errorf("larger than %d bytes", int64(maxRPM))
	case rpmDatabases[name]:
		return rpm(ctx, name, content)
	case name == "var/lib/dpkg/status", dir == "var/lib/dpkg/status.d/" && !strings.HasSuffix(base, ".md5sums"):
		return parse(maxDatabase, debian)
	case name == "lib/apk/db/installed", name == "usr/lib/apk/db/installed":
		return parse(maxDatabase, alpine)
	case base == "package.json" && installedByNPM(dir) && header.Size <= maxManifest:
		return parse(maxManifest, npm)
	case (base == "METADATA" && strings.HasSuffix(dir, ".dist-info/") || base == "PKG-INFO" && strings.HasSuffix(dir, ".egg-info/")) && header.Size <= maxDatabase:
		return parse(maxDatabase, python)
	case header.FileInfo().Mode().Perm()&0o111 != 0 && header.Size > minProgram && header.Size <= maxProgram:
		return s.program(name, content)
	}
	return nil, nil
}

// minProgram is less than any Go program has, in bytes.
const minProgram = 64 << 10

// program looks for a Go program's modules. They are found at any place of the
// file, so one that looks like a program is put on disk.
func (s *Scanner) program(name string, content io.Reader) (*found, error) {
	magic := make([]byte, 4)
	if _, err := io.ReadFull(content, magic); err != nil || string(magic) != "\x7fELF" {
		return nil, nil //nolint:nilerr // too short to be a program
	}
	if s.spool == nil {
		file, err := os.CreateTemp("", "tidegate-program-")
		if err != nil {
			return nil, err
		}
		s.spool = file
		if err := os.Remove(file.Name()); err != nil {
			return nil, err
		}
	}
	if err := s.spool.Truncate(0); err != nil {
		return nil, err
	}
	if _, err := s.spool.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if _, err := io.Copy(s.spool, io.MultiReader(bytes.NewReader(magic), content)); err != nil {
		return nil, err
	}
	packages := modules(s.spool)
	if len(packages) == 0 {
		return nil, nil
	}
	for i := range packages {
		packages[i].Found = "/" + name
	}
	return &found{packages: packages}, nil
}

// distributions are the types whose packages belong to one, and which it is when
// the image does not say.
var distributions = map[string]string{"deb": "debian", "apk": "alpine", "rpm": ""}

// Packages are those of the layers read so far.
func (s *Scanner) Packages() Packages {
	var p Packages
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		f := s.files[name]
		p.All = append(p.All, f.packages...)
		if f.unread != "" {
			p.Unread = append(p.Unread, f.unread)
		}
		if len(f.release) > 0 && p.Distribution == "" {
			p.Distribution, p.Release = release(f.release)
		}
	}
	for i, one := range p.All {
		if usual, ok := distributions[one.Type]; ok {
			p.All[i].Namespace = cmp.Or(p.Distribution, usual)
		}
	}
	slices.SortFunc(p.All, compare)
	p.All = slices.CompactFunc(p.All, func(a, b Package) bool { return compare(a, b) == 0 })
	return p
}

func compare(a, b Package) int {
	return cmp.Or(
		cmp.Compare(a.Type, b.Type), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version, b.Version),
		cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Architecture, b.Architecture), cmp.Compare(a.Found, b.Found),
	)
}
