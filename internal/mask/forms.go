package mask

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
	"unicode"
)

// lineWraps are the widths at which base64 tools break lines: coreutils and
// MIME, OpenSSL and PEM.
var lineWraps = []int{76, 64}

// forms returns the texts by which a secret may show.
func forms(secret string) []string {
	seen := map[string]bool{}
	var out []string
	add := func(form string) {
		if len(form) >= MinLength && !seen[form] {
			seen[form] = true
			out = append(out, form)
		}
	}
	trimmed := strings.TrimSpace(secret)
	values := []string{trimmed}
	// A program may print or encode one line of a secret alone.
	if strings.Contains(trimmed, "\n") {
		unix := strings.ReplaceAll(trimmed, "\r\n", "\n")
		values = append(values, unix, strings.ReplaceAll(unix, "\n", "\r\n"))
		for line := range strings.SplitSeq(unix, "\n") {
			if line = strings.TrimSpace(line); tellsSomething(line) {
				values = append(values, line)
			}
		}
	}
	for _, value := range values {
		add(value)
		for _, form := range escaped(value) {
			add(form)
		}
		for _, form := range inBase64(value) {
			add(form)
		}
	}
	return out
}

// tellsSomething is false for lines that are form and not content, such as a
// bracket or the armour of a PEM file.
func tellsSomething(line string) bool {
	if len(line) < MinLength || strings.HasPrefix(line, "-----") {
		return false
	}
	return strings.ContainsFunc(line, func(c rune) bool { return unicode.IsLetter(c) || unicode.IsDigit(c) })
}

func escaped(value string) []string {
	hexed := hex.EncodeToString([]byte(value))
	out := []string{
		hexed, strings.ToUpper(hexed),
		strings.ReplaceAll(value, "'", `'\''`),
		strings.ReplaceAll(value, "\n", `\n`),
	}
	for _, encoded := range []string{url.QueryEscape(value), url.PathEscape(value), percentAll(value)} {
		out = append(out, encoded, lowerPercent(encoded), strings.ReplaceAll(encoded, "+", "%20"))
	}
	for _, escapeHTML := range []bool{true, false} {
		var buffer strings.Builder
		encoder := json.NewEncoder(&buffer)
		encoder.SetEscapeHTML(escapeHTML)
		if encoder.Encode(value) == nil {
			quoted := strings.TrimSuffix(buffer.String(), "\n")
			inner := quoted[1 : len(quoted)-1]
			out = append(out, inner, strings.ReplaceAll(inner, "/", `\/`))
		}
	}
	return out
}

// percentAll encodes all but letters and digits, as some encoders do.
func percentAll(value string) string {
	var out strings.Builder
	for i := range len(value) {
		c := value[i]
		if c < 0x80 && (unicode.IsLetter(rune(c)) || unicode.IsDigit(rune(c))) {
			out.WriteByte(c)
			continue
		}
		out.WriteString("%" + strings.ToUpper(hex.EncodeToString([]byte{c})))
	}
	return out.String()
}

// lowerPercent writes the digits of percent-encoded bytes small.
func lowerPercent(encoded string) string {
	out := []byte(encoded)
	for i := 0; i+2 < len(out); i++ {
		if out[i] == '%' {
			copy(out[i+1:], strings.ToLower(string(out[i+1:i+3])))
			i += 2
		}
	}
	return string(out)
}

// inBase64 returns what base64 text is sure to hold if value is encoded in it,
// whatever stands before and behind. A character holds six bits: those at the
// edges that share bits with the neighbours are left off.
func inBase64(value string) []string {
	var out []string
	for before := range 3 {
		padded := append(make([]byte, before), value...)
		first := (before*8 + 5) / 6
		last := len(padded) * 8 / 6
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			encoded := encoding.EncodeToString(padded)
			if last > first {
				out = append(out, encoded[first:last])
			}
			// Alone in its encoding the edges are known too.
			if before == 0 {
				out = append(out, encoded)
				if encoding == base64.RawStdEncoding {
					full := base64.StdEncoding.EncodeToString(padded)
					out = append(out, full)
					out = append(out, wrapped(full)...)
					out = append(out, wrapped(encoded[:last])...)
				}
			}
		}
	}
	return out
}

// wrapped returns the lines that tools break long base64 text into.
func wrapped(encoded string) []string {
	var out []string
	for _, width := range lineWraps {
		for rest := encoded; len(encoded) > width && len(rest) > 0; {
			n := min(width, len(rest))
			out = append(out, rest[:n])
			rest = rest[n:]
		}
	}
	return out
}
