package layer

import (
	"bytes"
	"encoding/binary"
	"errors"
)

const tableFormat = "tidegate-table/1\n"

func appendString(data []byte, text string) []byte {
	return append(binary.AppendUvarint(data, uint64(len(text))), text...)
}

// MarshalRecord implements store.Record: layers of very many files are common.
func (t *Table) MarshalRecord() ([]byte, error) {
	data := append(make([]byte, 0, 48*len(t.Nodes)+1024), tableFormat...)
	for _, names := range []map[string]bool{t.Removed, t.Opaque, t.Implied} {
		data = binary.AppendUvarint(data, uint64(len(names)))
		for name := range names {
			data = appendString(data, name)
		}
	}
	data = appendString(data, string(t.Passwd))
	data = appendString(data, string(t.Group))
	for name, node := range t.Nodes {
		data = appendString(data, name)
		data = append(data, node.Type)
		data = binary.AppendUvarint(data, uint64(node.Mode))
		data = binary.AppendVarint(data, int64(node.UID))
		data = binary.AppendVarint(data, int64(node.GID))
		data = appendString(data, node.Link)
	}
	return data, nil
}

// UnmarshalRecord implements store.Record.
func (t *Table) UnmarshalRecord(data []byte) error {
	rest, ok := bytes.CutPrefix(data, []byte(tableFormat))
	if !ok {
		return errors.New("not a table of contents")
	}
	r := fields{data: rest}
	read := newTable()
	for _, names := range []map[string]bool{read.Removed, read.Opaque, read.Implied} {
		for n := r.unsigned(); n > 0 && !r.broken; n-- {
			names[r.string()] = true
		}
	}
	read.Passwd, read.Group = []byte(r.string()), []byte(r.string())
	for len(r.data) > 0 {
		name := r.string()
		kind := r.take(1)
		node := Node{Mode: uint32(r.unsigned()), UID: int(r.signed()), GID: int(r.signed()), Link: r.string()}
		if r.broken {
			break
		}
		node.Type = kind[0]
		read.Nodes[name] = node
	}
	if r.broken {
		return errors.New("the table of contents is broken")
	}
	*t = *read
	return nil
}

// fields reads a record. What is broken reads as nothing.
type fields struct {
	data   []byte
	broken bool
}

func (r *fields) unsigned() uint64 {
	var value uint64
	for i := 0; i < len(r.data) && i < binary.MaxVarintLen64; i++ {
		b := r.data[i]
		value |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			r.data = r.data[i+1:]
			return value
		}
	}
	r.broken, r.data = true, nil
	return 0
}

func (r *fields) signed() int64 {
	u := r.unsigned()
	value := int64(u >> 1)
	if u&1 != 0 {
		value = ^value
	}
	return value
}

func (r *fields) take(n int) []byte {
	if n < 0 || n > len(r.data) {
		r.broken, r.data = true, nil
		return nil
	}
	part := r.data[:n]
	r.data = r.data[n:]
	return part
}

// string is a length and as many bytes.
func (r *fields) string() string {
	n := r.unsigned()
	if n > uint64(len(r.data)) {
		r.broken, r.data = true, nil
		return ""
	}
	return string(r.take(int(n)))
}
