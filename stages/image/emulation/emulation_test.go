package emulation

import (
	"testing"
	"testing/fstest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/tidegate-ci/tidegate/stages/image/plan"
)

// As qemu-binfmt-conf.sh registers them and the kernel shows them.
const (
	aarch64 = `enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
`
	armWithoutF = `enabled
interpreter /usr/bin/qemu-arm-static
flags: OC
offset 0
magic 7f454c4601010100000000000000000002002800
mask ffffffffffffff00fffffffffffffffffeffffff
`
	s390x = `enabled
interpreter /usr/bin/qemu-s390x-static
flags: F
offset 0
magic 7f454c4602020100000000000000000000020016
mask ffffffffffffff00fffffffffffffffffffeffff
`
	riscvOff = `disabled
interpreter /usr/bin/qemu-riscv64-static
flags: F
offset 0
magic 7f454c460201010000000000000000000200f300
mask ffffffffffffff00fffffffffffffffffeffffff
`
	python = `enabled
interpreter /usr/bin/python3.12
flags: 
offset 0
magic cb0d0d0a
`
	byName = `enabled
interpreter /usr/bin/wine
flags: 
extension .exe
`
)

func platform(t *testing.T, text string) ocispec.Platform {
	p, err := plan.ParsePlatform(text)
	require.NoError(t, err)
	return p
}

func TestWhatRunsHere(t *testing.T) {
	handlers, err := Handlers(fstest.MapFS{
		"register": {}, "status": {Data: []byte("enabled\n")}, "qemu-aarch64": {Data: []byte(aarch64)}, "qemu-arm": {Data: []byte(armWithoutF)},
		"qemu-s390x": {Data: []byte(s390x)}, "qemu-riscv64": {Data: []byte(riscvOff)}, "python3.12": {Data: []byte(python)},
		"wine": {Data: []byte(byName)}, "broken": {Data: []byte("enabled\nmagic zz\n")},
	})
	require.NoError(t, err)
	for _, c := range []struct{ machine, program, why string }{
		{"linux/amd64", "linux/amd64", ""},
		{"linux/amd64", "linux/386", ""},
		{"linux/amd64/v3", "linux/amd64/v2", ""},
		{"linux/amd64/v2", "linux/amd64/v3", "its processor lacks the instructions of v3"},
		{"linux/amd64", "linux/arm64", ""},
		{"linux/amd64", "linux/s390x", ""},
		{"linux/amd64", "linux/arm/v7", "lacks the F flag"},
		{"linux/arm64", "linux/arm/v7", ""},
		{"linux/amd64", "linux/riscv64", "has no handler"},
		{"linux/amd64", "linux/ppc64le", "has no handler"},
		{"linux/amd64", "windows/amd64", "another operating system"},
		{"linux/amd64", "linux/wasm", "not known"},
	} {
		err := Machine{Platform: platform(t, c.machine), Handlers: handlers}.Check(platform(t, c.program))
		if c.why == "" {
			require.NoError(t, err, "%s on %s", c.program, c.machine)
			continue
		}
		var unsupported *UnsupportedError
		require.ErrorAs(t, err, &unsupported, "%s on %s", c.program, c.machine)
		require.Contains(t, err.Error(), c.why)
		require.NotEmpty(t, unsupported.Remedy)
	}
}

func TestHandlersThatAreOff(t *testing.T) {
	for name, directory := range map[string]fstest.MapFS{
		"no binfmt_misc": {},
		"disabled":       {"status": {Data: []byte("disabled\n")}, "qemu-aarch64": {Data: []byte(aarch64)}},
	} {
		handlers, err := Handlers(directory)
		require.NoError(t, err, name)
		require.Empty(t, handlers, name)
	}
}

func TestThisMachineRunsItsOwn(t *testing.T) {
	m, err := ThisMachine()
	require.NoError(t, err)
	require.NoError(t, m.Check(m.Platform))
	own := m.Platform
	own.Variant = ""
	require.NoError(t, m.Check(own))
}

func FuzzParseHandler(f *testing.F) {
	for _, text := range []string{aarch64, armWithoutF, python, byName, "offset -1\nmagic 00\n", "magic 00\nmask 0000\n"} {
		f.Add(text)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		h, err := ParseHandler("fuzz", text)
		if err != nil {
			return
		}
		for _, p := range programs {
			h.takes(p.header()) // must not panic
		}
	})
}
