package emulation

import (
	"debug/elf"
	"encoding/binary"
)

// program is what an architecture's programs begin with.
type program struct {
	machine elf.Machine
	class   elf.Class
	data    elf.Data
	// emulator is the program that runs them elsewhere.
	emulator string
}

// programs are by the names that GOARCH and images have for architectures.
var programs = map[string]program{
	"386":      {elf.EM_386, elf.ELFCLASS32, elf.ELFDATA2LSB, "qemu-i386"},
	"amd64":    {elf.EM_X86_64, elf.ELFCLASS64, elf.ELFDATA2LSB, "qemu-x86_64"},
	"arm":      {elf.EM_ARM, elf.ELFCLASS32, elf.ELFDATA2LSB, "qemu-arm"},
	"arm64":    {elf.EM_AARCH64, elf.ELFCLASS64, elf.ELFDATA2LSB, "qemu-aarch64"},
	"loong64":  {elf.EM_LOONGARCH, elf.ELFCLASS64, elf.ELFDATA2LSB, "qemu-loongarch64"},
	"mips64":   {elf.EM_MIPS, elf.ELFCLASS64, elf.ELFDATA2MSB, "qemu-mips64"},
	"mips64le": {elf.EM_MIPS, elf.ELFCLASS64, elf.ELFDATA2LSB, "qemu-mips64el"},
	"ppc64le":  {elf.EM_PPC64, elf.ELFCLASS64, elf.ELFDATA2LSB, "qemu-ppc64le"},
	"riscv64":  {elf.EM_RISCV, elf.ELFCLASS64, elf.ELFDATA2LSB, "qemu-riscv64"},
	"s390x":    {elf.EM_S390, elf.ELFCLASS64, elf.ELFDATA2MSB, "qemu-s390x"},
}

// headerSize is how much of a program's file the kernel looks at.
const headerSize = 256

// header is the beginning of an executable file of the architecture (ELF-64 and
// ELF-32 have these fields at the same place).
func (p program) header() []byte {
	header := make([]byte, headerSize)
	copy(header, elf.ELFMAG)
	header[elf.EI_CLASS], header[elf.EI_DATA], header[elf.EI_VERSION] = byte(p.class), byte(p.data), byte(elf.EV_CURRENT)
	var order binary.ByteOrder = binary.LittleEndian
	if p.data == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	order.PutUint16(header[16:], uint16(elf.ET_EXEC))
	order.PutUint16(header[18:], uint16(p.machine))
	order.PutUint32(header[20:], uint32(elf.EV_CURRENT))
	return header
}
