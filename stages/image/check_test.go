package image

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckFindsAndBuildsNothing(t *testing.T) {
	b := newBench(t)
	request := b.request(map[string]string{
		"Dockerfile": "FROM scratch AS a\nCMD x\nFROM scratch\nCOPY secret.txt /\n", "secret.txt": "x", ".dockerignore": "secret*\n",
	})
	found, err := b.builder.Check(context.Background(), request)
	require.NoError(t, err)
	require.Len(t, found, 2)
	require.Equal(t, "JSONArgsRecommended", found[0].Rule)
	require.Contains(t, found[0].Excerpt, ">    2 | CMD x")
	require.Equal(t, "CopyIgnoredFile", found[1].Rule)
	require.Empty(t, b.peer.asked("PUT", ""))

	request.Target = "a"
	found, err = b.builder.Check(context.Background(), request)
	require.NoError(t, err)
	require.Len(t, found, 1)

	request = b.request(map[string]string{"Dockerfile": "FROM scratch\nCMD x\nFROM missing:1\n"})
	found, err = b.builder.Check(context.Background(), request)
	require.ErrorContains(t, err, "missing:1")
	require.Len(t, found, 1, "what was found before the failure is told")
}
