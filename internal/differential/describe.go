package differential

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Description is all of an image that users can see: facts by name, such as
// "config.User" or "/etc/passwd mode". Times are left out.
type Description map[string]string

// Describe reads an image's configuration and its filesystem.
func Describe(image v1.Image) (Description, error) {
	d := Description{}
	raw, err := image.RawConfigFile()
	if err != nil {
		return nil, err
	}
	if err := d.configuration(raw); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	layers, err := image.Layers()
	if err != nil {
		return nil, err
	}
	files := tree{}
	for i, layer := range layers {
		if err := files.apply(layer); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	files.describe(d)
	return d, nil
}

// configuration adds each field of the configuration; those of the inner config
// one by one.
func (d Description) configuration(raw []byte) error {
	var outer map[string]json.RawMessage
	if err := json.Unmarshal(raw, &outer); err != nil {
		return err
	}
	delete(outer, "created")
	delete(outer, "rootfs") // the layers' own digests, times included
	var inner map[string]json.RawMessage
	if err := json.Unmarshal(outer["config"], &inner); err != nil {
		return err
	}
	delete(outer, "config")
	var history []map[string]any
	if raw, ok := outer["history"]; ok {
		if err := json.Unmarshal(raw, &history); err != nil {
			return err
		}
	}
	delete(outer, "history")
	for name, value := range outer {
		d[name] = string(value)
	}
	for name, value := range inner {
		// Keys in one order, whoever wrote them.
		var decoded any
		if err := json.Unmarshal(value, &decoded); err != nil {
			return err
		}
		sorted, err := json.Marshal(decoded)
		if err != nil {
			return err
		}
		d["config."+name] = string(sorted)
	}
	for i, entry := range history {
		delete(entry, "created")
		for name, value := range entry {
			d[fmt.Sprintf("history %d %s", i, name)] = fmt.Sprint(value)
		}
	}
	return nil
}

// inode is a file of the image; hard links are paths with the same one.
type inode struct {
	header tar.Header
	digest string
}

// tree is a filesystem: inodes by path without leading slash.
type tree map[string]*inode

func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// apply puts a layer on top. Whiteouts hide what is below the layer, not what is in it.
func (t tree) apply(layer v1.Layer) error {
	stream, err := layer.Uncompressed()
	if err != nil {
		return err
	}
	defer stream.Close()
	added := map[string]bool{}
	reader := tar.NewReader(stream)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := clean(header.Name)
		dir, base := path.Split(name)
		switch {
		case base == ".wh..wh..opq":
			t.remove(strings.TrimSuffix(dir, "/"), added, false)
			continue
		case strings.HasPrefix(base, ".wh."):
			t.remove(path.Join(dir, strings.TrimPrefix(base, ".wh.")), added, true)
			continue
		case header.Typeflag == tar.TypeLink:
			target, ok := t[clean(header.Linkname)]
			if !ok {
				return fmt.Errorf("%s is a hard link to %s, which is not there", header.Name, header.Linkname)
			}
			t[name], added[name] = target, true
			continue
		}
		if header.Typeflag != tar.TypeDir {
			t.remove(name, added, false)
		}
		hash := sha256.New()
		if _, err := io.Copy(hash, reader); err != nil { //nolint:gosec // layers that the test has made itself
			return err
		}
		t[name], added[name] = &inode{*header, hex.EncodeToString(hash.Sum(nil)[:8])}, true
	}
}

// remove takes away all below name that the current layer did not add, and
// with self the file itself.
func (t tree) remove(name string, added map[string]bool, self bool) {
	for other := range t {
		if added[other] {
			continue
		}
		if (self && other == name) || (name == "" && other != "") || strings.HasPrefix(other, name+"/") {
			delete(t, other)
		}
	}
}

var typeNames = map[byte]string{
	tar.TypeReg: "file", tar.TypeDir: "directory", tar.TypeSymlink: "symlink", tar.TypeFifo: "fifo",
	tar.TypeChar: "character device", tar.TypeBlock: "block device",
}

const xattrPrefix = "SCHILY.xattr."

func (t tree) describe(d Description) {
	links := map[*inode][]string{}
	for name, file := range t {
		links[file] = append(links[file], "/"+name)
	}
	for name, file := range t {
		if name == "" {
			continue // runtimes make the root directory themselves
		}
		h, fact := &file.header, "/"+strings.ReplaceAll(name, " ", "␠")+" "
		d[fact+"type"] = typeNames[h.Typeflag]
		d[fact+"owner"] = fmt.Sprintf("%d:%d", h.Uid, h.Gid)
		switch h.Typeflag {
		case tar.TypeSymlink:
			d[fact+"target"] = h.Linkname
		case tar.TypeReg:
			d[fact+"content"] = fmt.Sprintf("%d bytes, sha256 %s", h.Size, file.digest)
		case tar.TypeChar, tar.TypeBlock:
			d[fact+"device"] = fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)
		}
		if h.Typeflag != tar.TypeSymlink {
			d[fact+"mode"] = fmt.Sprintf("%04o", h.Mode&0o7777)
		}
		for key, value := range h.PAXRecords {
			if attribute, ok := strings.CutPrefix(key, xattrPrefix); ok {
				d[fact+"xattr "+attribute] = fmt.Sprintf("%q", value)
			}
		}
		if names := links[file]; len(names) > 1 {
			slices.Sort(names)
			d[fact+"links"] = strings.Join(names, " ")
		}
	}
}
