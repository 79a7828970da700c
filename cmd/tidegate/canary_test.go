package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// The canaries: none may be found in anything a build leaves or says.
const (
	fileCanary     = "canary/file+7c2e%19 secret"
	variableCanary = "canary/variable+5d8a%42 secret"
	argumentCanary = "canary/argument+91fb%77 value"
)

// forms are the ways in which text could be written down.
func forms(text string) map[string]string {
	quoted, _ := json.Marshal(text) // strings always can be
	all := map[string]string{
		"plain": text, "url path": url.PathEscape(text), "url query": url.QueryEscape(text), "json": strings.Trim(string(quoted), `"`),
		"hex": hex.EncodeToString([]byte(text)), "HEX": strings.ToUpper(hex.EncodeToString([]byte(text))),
	}
	for shift := range 3 {
		for name, encoding := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			// What does not depend on the bytes around it.
			encoded := encoding.EncodeToString([]byte(strings.Repeat("x", shift) + text))
			all[name+strings.Repeat("+", shift)] = encoded[4 : len(encoded)-4]
		}
	}
	return all
}

func searchCanaries(t *testing.T, where string, content []byte, canaries ...string) {
	t.Helper()
	for _, canary := range canaries {
		for form, text := range forms(canary) {
			require.False(t, bytes.Contains(content, []byte(text)), "%q (%s) is in %s", canary, form, where)
		}
	}
}

// searchTree searches files, and what is packed in them.
func searchTree(t *testing.T, root string, canaries ...string) (files int) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		files++
		searchCanaries(t, name, content, canaries...)
		if unpacked, err := gzip.NewReader(bytes.NewReader(content)); err == nil {
			plain, err := io.ReadAll(unpacked)
			require.NoError(t, err)
			searchCanaries(t, name+" (unpacked)", plain, canaries...)
		} else if unpacked, err := zstd.NewReader(bytes.NewReader(content)); err == nil && bytes.HasPrefix(content, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
			plain, err := io.ReadAll(unpacked)
			require.NoError(t, err)
			searchCanaries(t, name+" (unpacked)", plain, canaries...)
		}
		return nil
	}))
	return files
}

func TestSecretsAndArgumentsAreLeftNowhere(t *testing.T) {
	program, host := program(t), baseRegistry(t)
	dir := contextOf(t, "FROM "+host+"/base\n"+`ARG PASSED
ARG UNUSED=default
RUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=TOKEN,required \
    test -s /run/secrets/file && test -n "$TOKEN" && test -n "$PASSED" && \
    cat /run/secrets/file && echo "$TOKEN" >&2 && cat /run/secrets/file | base64 && printf %s "$TOKEN" | od -An -tx1 | tr -d ' \n' && \
    wc -c </run/secrets/file >/length
COPY file /file
`)
	failing := filepath.Join(t.TempDir(), "Dockerfile")
	require.NoError(t, os.WriteFile(failing, []byte("FROM "+host+"/base\nARG PASSED\nRUN --mount=type=secret,id=file --mount=type=secret,id=variable,env=TOKEN cat /run/secrets/file; echo $TOKEN >&2; exit 3\n"), 0o600))
	secret := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(secret, []byte(fileCanary+"\n"), 0o600))
	for _, progress := range []string{"plain", "json", "tty"} {
		for _, compression := range []string{"gzip", "zstd"} {
			out := t.TempDir()
			for _, file := range []string{filepath.Join(dir, "Dockerfile"), failing} {
				command := exec.Command(program, "build", "-f", file, "--progress", progress, "--compression", compression,
					"--cache-dir", filepath.Join(out, "cache"), "--secret", "id=file,src="+secret, "--secret", "id=variable,env=TOKEN_OF_TEST",
					"--build-arg", "PASSED="+argumentCanary, "-t", host+"/made", "--push",
					"--output", "type=oci,dest="+filepath.Join(out, "layout"), "--output", "type=docker,dest="+filepath.Join(out, "docker.tar"),
					"--metadata-file", filepath.Join(out, "metadata"), "--iidfile", filepath.Join(out, "iid"), dir)
				command.Env = []string{programVariable + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + out, "TOKEN_OF_TEST=" + variableCanary}
				said, err := command.CombinedOutput()
				if file == failing {
					require.Error(t, err)
				} else {
					require.NoError(t, err, string(said))
				}
				require.NotEmpty(t, said)
				searchCanaries(t, "what the build says as "+progress, said, fileCanary, variableCanary, argumentCanary)
			}
			require.Greater(t, searchTree(t, out, fileCanary, variableCanary, argumentCanary), 10)
		}
	}
}
