package image

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/opencontainers/go-digest"
)

func sha256Of(data []byte) (v1.Hash, int64) {
	sum := sha256.Sum256(data)
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}, int64(len(data))
}

func digestOf(h v1.Hash) digest.Digest { return digest.Digest(h.String()) }

func digestsOf(hashes []v1.Hash) []digest.Digest {
	digests := make([]digest.Digest, 0, len(hashes))
	for _, h := range hashes {
		digests = append(digests, digestOf(h))
	}
	return digests
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}
