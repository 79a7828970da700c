package mask

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const (
	secret = "s3cr3t/V@lue+with 'marks' & <more>"
	pem    = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\nEFAASCBKcwggSjAgEAAoIBAQ\n-----END KEY-----\n"
)

func quoted(s string) string {
	out, _ := json.Marshal(s)
	return string(out)
}

func TestFormsOfSecretsAreMasked(t *testing.T) {
	m, err := New(map[string]string{"TOKEN": secret, "KEY": pem, "PIN": "4711", "EMPTY": ""})
	require.NoError(t, err)
	wrap := func(s string) string {
		var out strings.Builder
		for len(s) > 76 {
			out.WriteString(s[:76] + "\n")
			s = s[76:]
		}
		return out.String() + s
	}
	cases := map[string]struct{ in, want string }{
		"plain":             {"token=" + secret + ";", "token=***;"},
		"twice":             {secret + " " + secret, "*** ***"},
		"back to back":      {secret + secret, "***"},
		"std base64":        {"x " + base64.StdEncoding.EncodeToString([]byte(secret)) + " y", "x *** y"},
		"url base64":        {base64.RawURLEncoding.EncodeToString([]byte(secret)), "***"},
		"query encoded":     {"?t=" + url.QueryEscape(secret) + "&x", "?t=***&x"},
		"path encoded":      {"/" + url.PathEscape(secret) + "/", "/***/"},
		"hex":               {hex.EncodeToString([]byte(secret)), "***"},
		"upper hex":         {strings.ToUpper(hex.EncodeToString([]byte(secret))), "***"},
		"json":              {`{"t":` + quoted(secret) + `}`, `{"t":"***"}`},
		"shell trace":       {`+ echo '` + strings.ReplaceAll(secret, "'", `'\''`) + `'`, `+ echo '***'`},
		"multi-line whole":  {"a\n" + pem + "b", "a\n***\nb"},
		"multi-line CRLF":   {strings.ReplaceAll(pem, "\n", "\r\n"), "***\r\n"},
		"one line of many":  {"> EFAASCBKcwggSjAgEAAoIBAQ <", "> *** <"},
		"armour alone":      {"-----BEGIN KEY-----", "-----BEGIN KEY-----"},
		"multi-line json":   {quoted(strings.TrimSpace(pem)), `"***"`},
		"wrapped base64":    {wrap(base64.StdEncoding.EncodeToString([]byte(strings.TrimSpace(pem)))), "***\n***"},
		"short":             {"pin 4711!", "pin ***!"},
		"start of a secret": {secret[:len(secret)-1], secret[:len(secret)-1]},
		"nothing":           {"an ordinary line\n", "an ordinary line\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, m.String(c.in))
			// Split over writes at every place.
			for i := range len(c.in) {
				var out strings.Builder
				w := m.Writer(&out)
				for _, part := range []string{c.in[:i], c.in[i:]} {
					_, err := io.WriteString(w, part)
					require.NoError(t, err)
				}
				require.NoError(t, w.Close())
				require.Equal(t, c.want, out.String(), "split at %d", i)
			}
		})
	}
}

// A secret behind any prefix and before any suffix, as in "user:secret", shows
// in base64 at one of three alignments. At most the character at each edge,
// which it shares with its neighbour, remains.
func TestPrefixedBase64(t *testing.T) {
	m, err := New(map[string]string{"TOKEN": secret})
	require.NoError(t, err)
	for prefix := range 7 {
		for suffix := range 4 {
			for name, encoding := range map[string]*base64.Encoding{"std": base64.StdEncoding, "url": base64.URLEncoding, "raw": base64.RawStdEncoding} {
				text := strings.Repeat("u", prefix) + secret + strings.Repeat("v", suffix)
				got := m.String(encoding.EncodeToString([]byte(text)))
				require.Contains(t, got, Replacement, "%s %d %d", name, prefix, suffix)
				rest := strings.Replace(got, Replacement, "", 1)
				require.LessOrEqual(t, len(rest), (prefix+suffix)*4/3+4, "%s %d %d: %s", name, prefix, suffix, got)
			}
		}
	}
}

func TestSecretsThatCannotBeMaskedAreRefused(t *testing.T) {
	for _, value := range []string{"a", "abc", " abc\n", "   ", "\n"} {
		_, err := New(map[string]string{"PIN": value})
		require.ErrorContains(t, err, `secret "PIN"`)
		require.ErrorContains(t, err, "at least 4")
	}
	_, err := New(map[string]string{"BIG": strings.Repeat("x", MaxLength+1)})
	require.ErrorContains(t, err, `secret "BIG"`)
	m, err := New(map[string]string{"NONE": ""})
	require.NoError(t, err)
	require.Nil(t, m)
	require.Equal(t, "text", m.String("text"))
}

func TestHoldsBackNoMoreThanNeeded(t *testing.T) {
	m, err := New(map[string]string{"TOKEN": "secret-value"})
	require.NoError(t, err)
	var out bytes.Buffer
	w := m.Writer(&out)
	_, _ = io.WriteString(w, "line\nsecret-")
	require.Equal(t, "line\n", out.String())
	_, _ = io.WriteString(w, "garden")
	require.Equal(t, "line\nsecret-garden", out.String())
}

// The reference: mark every occurrence of every form, replace marked runs.
func reference(secrets map[string]string, text string) string {
	marked := make([]bool, len(text))
	for _, value := range secrets {
		if value == "" {
			continue
		}
		for _, form := range forms(value) {
			for i := 0; i+len(form) <= len(text); i++ {
				if text[i:i+len(form)] == form {
					for k := range len(form) {
						marked[i+k] = true
					}
				}
			}
		}
	}
	var out strings.Builder
	for i := range len(text) {
		switch {
		case !marked[i]:
			out.WriteByte(text[i])
		case i == 0 || !marked[i-1]:
			out.WriteString(Replacement)
		}
	}
	return out.String()
}

func TestStreamEqualsReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// A small alphabet makes overlaps and near-matches common. None is too short.
		word := rapid.StringMatching(`[ab\n]{0,3}[ab][ab\n]{2,8}[ab]`)
		secrets := map[string]string{"A": word.Draw(t, "a"), "B": word.Draw(t, "b")}
		m, err := New(secrets)
		if err != nil {
			t.Fatal(err)
		}
		text := rapid.StringMatching(`[ab\n]{0,60}`).Draw(t, "text")
		var out strings.Builder
		w := m.Writer(&out)
		for rest := text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "n")
			_, _ = io.WriteString(w, rest[:n])
			rest = rest[n:]
		}
		_ = w.Close()
		if want := reference(secrets, text); out.String() != want {
			t.Fatalf("got %q, want %q", out.String(), want)
		}
	})
}

func FuzzMask(f *testing.F) {
	f.Add("hunter22", "x hunter22 y", 3)
	f.Add(pem, "a"+pem+"b", 10)
	f.Add("aaaa", "aaaaaaaab", 1)
	f.Add("päss wörd", url.QueryEscape("päss wörd"), 5)
	f.Fuzz(func(t *testing.T, value, text string, cut int) {
		m, err := New(map[string]string{"S": value})
		if err != nil || m == nil || len(value) > 200 || len(text) > 2000 {
			return
		}
		cut = max(0, min(cut, len(text)))
		var out strings.Builder
		w := m.Writer(&out)
		_, _ = io.WriteString(w, text[:cut])
		_, _ = io.WriteString(w, text[cut:])
		_ = w.Close()
		if want := reference(map[string]string{"S": value}, text); out.String() != want {
			t.Fatalf("got %q, want %q", out.String(), want)
		}
	})
}

func BenchmarkMask(b *testing.B) {
	secrets := map[string]string{}
	for i := range 20 {
		secrets[fmt.Sprint("S", i)] = fmt.Sprintf("tok%d-%x", i, i*7919+1<<30)
	}
	m, err := New(secrets)
	require.NoError(b, err)
	text := []byte(strings.Repeat("ok  \tgithub.com/octo/shop/cart\t0.012s coverage: 81.2% of statements\n", 1000))
	b.SetBytes(int64(len(text)))
	w := m.Writer(io.Discard)
	for b.Loop() {
		_, _ = w.Write(text)
	}
}
