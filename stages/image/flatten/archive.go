package flatten

import (
	"archive/tar"
	"io"
	"path"
)

// Archive is a sink that writes a tar stream. With a prefix everything lies in
// a directory of that name.
func Archive(to *tar.Writer, prefix string) Sink { return &archive{to, prefix} }

type archive struct {
	to     *tar.Writer
	prefix string
}

// Add implements Sink.
func (a *archive) Add(header *tar.Header, content io.Reader) error {
	entry := *header
	if entry.Name = path.Join(a.prefix, header.Name); entry.Name == "" { //nolint:gosec // G305: nothing is extracted, and names cannot climb
		return nil // the directory that it is unpacked into stays as it is
	}
	switch entry.Typeflag {
	case tar.TypeDir:
		entry.Name += "/"
	case tar.TypeLink:
		entry.Linkname = path.Join(a.prefix, header.Linkname) //nolint:gosec // G305: as above
	}
	if err := a.to.WriteHeader(&entry); err != nil {
		return err
	}
	if entry.Typeflag != tar.TypeReg {
		return nil
	}
	_, err := io.Copy(a.to, content)
	return err
}
