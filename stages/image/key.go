package image

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"maps"
	"slices"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tidegate-ci/tidegate/stages/image/layer"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
)

// keyVersion changes when equal keys would no longer mean equal layers.
const keyVersion = "tidegate-build/1"

// keyer hashes everything that decides a layer. Each field goes in with its
// name and both their lengths, so that no two sets of fields are the same bytes.
type keyer struct {
	hash hash.Hash
	// buffer holds a field until it is hashed.
	buffer []byte
}

func newKeyer(kind string) *keyer {
	k := &keyer{hash: sha256.New()}
	k.text("version", keyVersion)
	k.text("kind", kind)
	return k
}

func (k *keyer) text(name, value string) {
	b := strconv.AppendInt(k.buffer[:0], int64(len(name)), 10)
	b = append(b, ':')
	b = append(b, name...)
	b = strconv.AppendInt(b, int64(len(value)), 10)
	b = append(b, ':')
	b = append(b, value...)
	k.hash.Write(b)
	k.buffer = b
}

func (k *keyer) number(name string, value int64) { k.text(name, strconv.FormatInt(value, 10)) }

func (k *keyer) flag(name string, value bool) { k.text(name, strconv.FormatBool(value)) }

func (k *keyer) list(name string, values []string) {
	k.number(name, int64(len(values)))
	for _, value := range values {
		k.text(name, value)
	}
}

func (k *keyer) chain(name string, chain []v1.Hash) {
	k.number(name, int64(len(chain)))
	for _, diffID := range chain {
		k.text(name, diffID.String())
	}
}

func (k *keyer) sum() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(k.hash.Sum(nil))}
}

// setting is what every step's key holds beside the recipe.
type setting struct {
	Codec    layer.Codec
	Epoch    time.Time
	Platform ocispec.Platform
	// Chain are the layers below.
	Chain []v1.Hash
}

func (k *keyer) setting(s setting) {
	k.text("codec", s.Codec.Identity())
	k.number("epoch", s.Epoch.Unix())
	k.text("platform", plan.FormatPlatform(s.Platform))
	k.chain("below", s.Chain)
}

// scopedKey is a step's key among the builds of one scope.
func scopedKey(scope string, key v1.Hash) v1.Hash {
	k := newKeyer("scoped")
	k.text("scope", scope)
	k.text("key", key.String())
	return k.sum()
}

func directoryKey(s setting, d *plan.Directory) v1.Hash {
	k := newKeyer("directory")
	k.setting(s)
	k.text("path", d.Path)
	k.text("user", d.User)
	return k.sum()
}

// origin is the identity of the files a step takes: their content when they
// come from the build context, the layers they lie in when from elsewhere.
type origin struct {
	Items []layer.Item
	Chain []v1.Hash
	// Remotes are the contents behind a step's remotes: digests and commits.
	Remotes []string
}

func (k *keyer) origin(name string, o origin) {
	k.chain(name+"-layers", o.Chain)
	k.list(name+"-remotes", o.Remotes)
	k.number(name+"-files", int64(len(o.Items)))
	for i := range o.Items {
		k.item(&o.Items[i])
	}
}

func (k *keyer) item(item *layer.Item) {
	k.text("target", item.Target)
	k.flag("top", item.Top)
	k.text("type", string(rune(item.Type)))
	k.number("mode", int64(item.Mode))
	k.number("uid", int64(item.UID))
	k.number("gid", int64(item.GID))
	k.text("link", item.Link)
	k.number("size", item.Size)
	k.text("digest", item.Digest.String())
	k.number("same", int64(item.Same))
	for _, name := range slices.Sorted(maps.Keys(item.Xattrs)) {
		k.text("attribute", name)
		k.text("attribute-value", item.Xattrs[name])
	}
}

func copyKey(s setting, c *plan.Copy, from origin) v1.Hash {
	k := newKeyer("copy")
	k.setting(s)
	k.text("source", string(c.From.Kind))
	k.text("source-context", c.From.Context)
	k.list("sources", c.Sources)
	k.number("inline", int64(len(c.Inline)))
	for _, file := range c.Inline {
		k.text("name", file.Name)
		k.text("data", file.Data)
	}
	k.text("destination", c.Dest)
	k.flag("directory", c.DestIsDirectory)
	k.text("chown", c.Chown)
	k.text("chmod", c.Chmod)
	k.list("exclude", c.Exclude)
	k.flag("parents", c.Parents)
	k.flag("unpack", c.Unpack)
	k.flag("link", c.Link)
	k.number("remotes", int64(len(c.Remotes)))
	for _, remote := range c.Remotes {
		k.text("location", remote.Location)
		k.flag("git", remote.Git)
		k.text("checksum", remote.Checksum)
		k.flag("keep-git-set", remote.KeepGitDir != nil)
		k.flag("keep-git", remote.KeepGitDir != nil && *remote.KeepGitDir)
		k.flag("remote-unpack", remote.Unpack)
	}
	k.origin("files", from)
	return k.sum()
}

// runKey leaves out what by contract decides nothing: proxies, the content of
// caches and of secrets.
func runKey(s setting, r *plan.Run, hostNetwork bool, mounts []origin) v1.Hash {
	k := newKeyer("run")
	k.setting(s)
	k.list("args", r.Args)
	k.list("env", r.Env)
	k.text("directory", r.Dir)
	k.text("user", r.User)
	k.flag("host-network", hostNetwork)
	k.flag("script", r.Script != nil)
	if r.Script != nil {
		k.text("script-name", r.Script.Name)
		k.text("script-data", r.Script.Data)
	}
	k.number("mounts", int64(len(r.Mounts)))
	for i, m := range r.Mounts {
		k.text("mount", string(m.Kind))
		k.text("mount-from", string(m.From.Kind))
		k.text("mount-context", m.From.Context)
		k.text("mount-source", m.Source)
		k.text("mount-target", m.Target)
		k.flag("mount-readonly", m.ReadOnly)
		k.number("mount-size", m.Size)
		k.text("mount-cache", m.CacheID)
		k.text("mount-sharing", m.Sharing)
		k.text("mount-secret", m.SecretID)
		k.text("mount-variable", m.SecretEnv)
		k.text("mount-agent", m.AgentID)
		k.flag("mount-required", m.Required)
		k.flag("mount-mode-set", m.Mode != nil)
		if m.Mode != nil {
			k.number("mount-mode", int64(*m.Mode))
		}
		k.number("mount-uid", int64(m.UID))
		k.number("mount-gid", int64(m.GID))
		k.origin("mount", mounts[i])
	}
	return k.sum()
}
