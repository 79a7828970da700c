package render

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// maxRead bounds what one build reads in all.
const maxRead = 64 << 20

// checkout shows the repository to kustomize as a file system of its own, which
// can't be written to and whose root is the repository's.
type checkout struct {
	root *os.Root
	read int
}

var _ filesys.FileSystem = (*checkout)(nil)

var errReadOnly = errors.New("the repository is not written to")

func (c *checkout) Create(string) (filesys.File, error) { return nil, errReadOnly }
func (c *checkout) Mkdir(string) error                  { return errReadOnly }
func (c *checkout) MkdirAll(string) error               { return errReadOnly }
func (c *checkout) RemoveAll(string) error              { return errReadOnly }
func (c *checkout) WriteFile(string, []byte) error      { return errReadOnly }
func (c *checkout) Open(string) (filesys.File, error)   { return nil, errors.New("files are read whole") }
func (c *checkout) Walk(string, filepath.WalkFunc) error {
	return errors.New("directories are not walked")
}

// inside is a path as the root knows it.
func inside(name string) string {
	if name = strings.TrimPrefix(path.Clean(path.Join("/", filepath.ToSlash(name))), "/"); name == "" {
		return "."
	}
	return name
}

func (c *checkout) IsDir(name string) bool {
	info, err := c.root.Stat(inside(name))
	return err == nil && info.IsDir()
}

func (c *checkout) Exists(name string) bool {
	_, err := c.root.Stat(inside(name))
	return err == nil
}

func (c *checkout) ReadDir(name string) ([]string, error) {
	entries, err := fs.ReadDir(c.root.FS(), inside(name))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names, nil
}

// CleanedAbs parts a path into directory and file. Links are not taken out: the
// root follows them only inside itself.
func (c *checkout) CleanedAbs(name string) (filesys.ConfirmedDir, string, error) {
	at := inside(name)
	info, err := c.root.Stat(at)
	if err != nil {
		return "", "", fmt.Errorf("'%s': %w", at, unwrapped(err))
	}
	if info.IsDir() {
		return filesys.ConfirmedDir(path.Join("/", at)), "", nil
	}
	return filesys.ConfirmedDir(path.Join("/", path.Dir(at))), path.Base(at), nil
}

func (c *checkout) Glob(pattern string) ([]string, error) {
	names, err := fs.Glob(c.root.FS(), inside(pattern))
	for i := range names {
		names[i] = "/" + names[i]
	}
	return names, err
}

func (c *checkout) ReadFile(name string) ([]byte, error) {
	content, err := manifest.ReadFile(c.root, inside(name))
	if err != nil {
		return nil, err
	}
	if c.read += len(content); c.read > maxRead {
		return nil, fmt.Errorf("more than %d bytes are read", maxRead)
	}
	return content, nil
}
