package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// byteSize is a number of bytes as people write it: 500MB, 20GiB, or digits alone.
type byteSize int64

var _ pflag.Value = (*byteSize)(nil)

var byteUnits = []struct {
	name  string
	bytes float64
}{
	{"kib", 1 << 10}, {"mib", 1 << 20}, {"gib", 1 << 30}, {"tib", 1 << 40},
	{"kb", 1e3}, {"mb", 1e6}, {"gb", 1e9}, {"tb", 1e12},
	{"k", 1e3}, {"m", 1e6}, {"g", 1e9}, {"t", 1e12}, {"b", 1},
}

// Set implements pflag.Value.
func (b *byteSize) Set(text string) error {
	number, unit := strings.ToLower(strings.TrimSpace(text)), 1.0
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(number, u.name); ok {
			number, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	value, err := strconv.ParseFloat(number, 64)
	if err != nil || value < 0 || math.IsNaN(value) || value*unit > math.MaxInt64/2 {
		return fmt.Errorf("want a size such as 500MB or 20GiB, not %q", text)
	}
	*b = byteSize(value * unit)
	return nil
}

// String implements pflag.Value.
func (b *byteSize) String() string {
	for _, u := range byteUnits[:4] {
		if n := float64(*b) / u.bytes; *b > 0 && n >= 1 && n < 1024 && n == math.Trunc(n) {
			return strconv.FormatFloat(n, 'f', -1, 64) + map[string]string{"kib": "KiB", "mib": "MiB", "gib": "GiB", "tib": "TiB"}[u.name]
		}
	}
	return strconv.FormatInt(int64(*b), 10)
}

// Type implements pflag.Value.
func (b *byteSize) Type() string { return "size" }
