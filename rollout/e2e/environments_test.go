//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tidegate-ci/tidegate/rollout"
)

// namespaceBeside makes another namespace for the test: another environment, or
// a namespace that stands for another cluster.
func (w *world) namespaceBeside() string {
	w.Helper()
	ns, err := kube.CoreV1().Namespaces().Create(w.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}, metav1.CreateOptions{})
	require.NoError(w, err)
	w.Cleanup(func() {
		require.NoError(w, kube.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{}))
	})
	return ns.Name
}

// What is verified in one namespace is promoted to another: the very digests,
// with the manifests of the target, and the record says from where. What is not
// verified, or is of another commit, is refused.
func TestPromotionToAnotherEnvironment(t *testing.T) {
	w := newWorld(t)
	production := w.namespaceBeside()
	const commit, other = "1111111111111111111111111111111111111111", "2222222222222222222222222222222222222222"
	v1 := image(t, "VERSION=1")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "shop.yaml"), []byte(strings.ReplaceAll(shop, "hello", "production")), 0o600))
	promote := func(args ...string) (string, int) {
		command := exec.CommandContext(w.ctx, tidegate, append([]string{"rollout", "-n", w.namespace, "--by", "oncall", "promote-to", production, "shop", "-f", "shop.yaml", "--bake", "0s"}, args...)...)
		command.Dir = dir
		out, _ := command.CombinedOutput()
		t.Logf("%s", out)
		return string(out), command.ProcessState.ExitCode()
	}
	_, code := promote()
	require.Equal(t, 2, code, "nothing is there to promote")

	request := w.request(v1, 0)
	request.Commit, request.RunID = commit, "r1/staging/1"
	_, err := w.controller().Start(w.ctx, request, w.log(nil))
	require.NoError(t, err)

	said, code := promote("--commit", other)
	require.Equal(t, 3, code)
	require.Contains(t, said, "is of commit 1111111111, not of 2222222222")

	said, code = promote("--commit", commit[:10])
	require.Zero(t, code)
	require.Contains(t, said, "revision 1 is verified")
	out, err := exec.CommandContext(w.ctx, tidegate, "rollout", "-n", production, "status", "shop", "-o", "json").Output()
	require.NoError(t, err)
	var record rollout.Record
	require.NoError(t, json.Unmarshal(out, &record))
	require.Equal(t, []string{v1}, record.Current.Images, "the very digest, which no registry was asked for")
	require.Equal(t, commit, record.Current.Commit)
	from := record.Current.From
	require.NotNil(t, from)
	require.Equal(t, rollout.Provenance{App: "shop", Namespace: w.namespace, Revision: 1, Release: request.Release.Digest, RunID: "r1/staging/1", Commit: commit, VerifiedAt: from.VerifiedAt}, *from)
	require.False(t, from.VerifiedAt.IsZero())
	maps, err := kube.CoreV1().ConfigMaps(production).List(w.ctx, metav1.ListOptions{})
	require.NoError(t, err)
	greeting := ""
	for _, m := range maps.Items {
		greeting += m.Data["GREETING"]
	}
	require.Equal(t, "production", greeting, "with the target's own manifests")

	// A version that fails in staging is not promoted; the one before still is.
	broken := w.request(image(t, "VERSION=2", "CRASH_AFTER=0s"), 0)
	broken.Commit, broken.RunID = other, "r2/staging/1"
	_, err = w.controller().Start(w.ctx, broken, w.log(nil))
	require.ErrorIs(t, err, rollout.ErrFailed)
	_, code = promote("--commit", other)
	require.Equal(t, 3, code)
	said, code = promote()
	require.Zero(t, code)
	require.Contains(t, said, "serves already")
}
