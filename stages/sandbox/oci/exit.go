package oci

import (
	"bytes"
	"encoding/binary"
	"runtime"
)

// exitProgram is a static ELF executable that does nothing but exit(0), made for
// this processor: it needs no file of any image, so that a runtime can be tried
// in an empty root filesystem.
func exitProgram() ([]byte, bool) {
	type processor struct {
		machine uint16
		code    []byte
	}
	p, ok := map[string]processor{
		"amd64": {62, []byte{
			0x31, 0xff, // xor edi, edi
			0xb8, 0x3c, 0, 0, 0, // mov eax, 60 (exit)
			0x0f, 0x05, // syscall
		}},
		"arm64": {183, []byte{
			0x00, 0x00, 0x80, 0xd2, // mov x0, #0
			0xa8, 0x0b, 0x80, 0xd2, // mov x8, #93 (exit)
			0x01, 0x00, 0x00, 0xd4, // svc #0
		}},
	}[runtime.GOARCH]
	if !ok {
		return nil, false
	}
	const (
		headers = 64 + 56 // ELF header, one program header
		address = 0x400000
	)
	size := uint64(headers + len(p.code))
	var out bytes.Buffer
	out.WriteString("\x7fELF\x02\x01\x01") // 64 bits, little endian
	out.Write(make([]byte, 9))
	for _, field := range []any{
		uint16(2), p.machine, uint32(1), // executable
		uint64(address + headers), uint64(64), uint64(0), // entry, program headers, no sections
		uint32(0), uint16(64), uint16(56), uint16(1), uint16(64), uint16(0), uint16(0),
		uint32(1), uint32(5), // load, readable and executable
		uint64(0), uint64(address), uint64(address), size, size, uint64(0x1000),
	} {
		// Writing fixed-size values into memory can't fail.
		_ = binary.Write(&out, binary.LittleEndian, field)
	}
	out.Write(p.code)
	return out.Bytes(), true
}
