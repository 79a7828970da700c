package render

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tidegate-ci/tidegate/rollout/manifest"
)

// Bounds of the process that renders. Real releases take a second and a tenth
// of the memory.
const (
	confinedTime = 60 * time.Second // by the clock
	maxOutput    = 64 << 20         // bytes of what it says
	maxRequest   = 8 << 20          // bytes of what it is asked
	maxTrouble   = 4 << 10          // bytes of an error
)

// limits are what the kernel ends the process at.
type limits struct {
	CPU    uint64 `json:"cpu"`    // seconds of processor time
	Memory uint64 `json:"memory"` // bytes of data
}

var bounds = limits{CPU: 20, Memory: 1 << 30}

// request and response are what the two processes say to each other, as JSON.
type request struct {
	Root   string `json:"root"`
	Source Source `json:"source"`
	Target Target `json:"target"`
	Bounds limits `json:"bounds"`
}

type response struct {
	Objects []map[string]any `json:"objects,omitempty"`
	Hooks   []confinedHook   `json:"hooks,omitempty"`
	// Trouble is why there is nothing.
	Trouble string `json:"trouble,omitempty"`
}

type confinedHook struct {
	After    bool           `json:"after,omitempty"`
	Name     string         `json:"name"`
	Manifest map[string]any `json:"manifest"`
}

// confinedName is what this program is called when it is started to render.
const confinedName = "tidegate-render"

// The program is started again to render, whichever it is: a server, a command,
// a test. Nothing of it runs then but this.
func init() {
	if len(os.Args) != 1 || os.Args[0] != confinedName {
		return
	}
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// confined renders in a process of its own, without this one's environment:
// templates can find no secret there.
func confined(ctx context.Context, root string, source Source, target Target) (*Result, error) {
	absolute, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("rendering: %w", err)
	}
	asked, err := json.Marshal(request{absolute, source, target, bounds})
	if err != nil {
		return nil, fmt.Errorf("rendering: %w", err)
	}
	bounded, cancel := context.WithTimeout(ctx, confinedTime)
	defer cancel()
	command := exec.CommandContext(bounded, "/proc/self/exe")
	command.Args = []string{confinedName}
	command.Env = []string{"HOME=/nonexistent", "PATH=/nonexistent", "GOTRACEBACK=none"}
	command.Stdin = bytes.NewReader(asked)
	out, said := &capped{most: maxOutput}, &capped{most: maxTrouble}
	command.Stdout, command.Stderr = out, said
	err = command.Run()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case bounded.Err() != nil:
		return nil, fmt.Errorf("rendering %s took longer than %s: look for a template that loops", source.name(), confinedTime)
	case out.over:
		return nil, fmt.Errorf("rendering %s gave more than %d bytes", source.name(), maxOutput)
	case err != nil:
		return nil, fmt.Errorf("rendering %s needed more than %d s of processor time or %d MiB of memory, or failed: %w: %s",
			source.name(), bounds.CPU, bounds.Memory>>20, err, firstLine(said.String()))
	}
	var answer response
	decoder := json.NewDecoder(bytes.NewReader(out.Bytes()))
	if err := decoder.Decode(&answer); err != nil {
		return nil, fmt.Errorf("rendering %s: reading what was rendered: %w", source.name(), err)
	}
	if answer.Trouble != "" {
		return nil, errors.New(answer.Trouble)
	}
	return answer.result(source)
}

// result checks what the other process gave as if it came from a file.
func (a *response) result(source Source) (*Result, error) {
	result := &Result{}
	for _, object := range a.Objects {
		objects, err := manifest.Accept(source.name(), object)
		if err != nil {
			return nil, err
		}
		if result.Objects = append(result.Objects, objects...); len(result.Objects) > manifest.MaxObjects {
			return nil, fmt.Errorf("%s: more than %d objects", source.name(), manifest.MaxObjects)
		}
	}
	for _, hook := range a.Hooks {
		objects, err := manifest.Accept(source.name(), hook.Manifest)
		if err != nil {
			return nil, err
		}
		if len(objects) != 1 {
			return nil, fmt.Errorf("%s: hook %s is not one object", source.name(), hook.Name)
		}
		result.Hooks = append(result.Hooks, Hook{After: hook.After, Name: hook.Name, Manifest: objects[0]})
	}
	return result, nil
}

func (s Source) name() string {
	var names []string
	if s.Kustomize != "" {
		names = append(names, s.Kustomize)
	}
	if s.Helm != nil {
		names = append(names, s.Helm.Chart)
	}
	return strings.Join(append(names, s.Manifests...), ", ")
}

// serve is the other process: it takes a request from in, bounds itself, renders
// and answers. An error means that it could not answer.
func serve(in io.Reader, out io.Writer) error {
	// Nothing is fetched: what would be refused already is stopped here as well.
	http.DefaultTransport = refuseAll{}
	var asked request
	if err := json.NewDecoder(io.LimitReader(in, maxRequest)).Decode(&asked); err != nil {
		return fmt.Errorf("reading what to render: %w", err)
	}
	if err := asked.Bounds.confine(); err != nil {
		return fmt.Errorf("bounding the rendering: %w", err)
	}
	var answer response
	result, err := render(asked.Root, asked.Source, asked.Target)
	if err != nil {
		answer.Trouble = clip(err.Error())
	} else {
		answer.Objects = contents(result.Objects)
		for _, hook := range result.Hooks {
			answer.Hooks = append(answer.Hooks, confinedHook{hook.After, hook.Name, hook.Manifest.Object})
		}
	}
	return json.NewEncoder(out).Encode(answer)
}

func contents(objects []*unstructured.Unstructured) []map[string]any {
	all := make([]map[string]any, len(objects))
	for i, u := range objects {
		all[i] = u.Object
	}
	return all
}

// refuseAll is a transport to nowhere.
type refuseAll struct{}

func (refuseAll) RoundTrip(r *http.Request) (*http.Response, error) {
	return nil, fmt.Errorf("%s is not fetched: keep it in the repository", r.URL.Redacted())
}

// capped keeps the beginning of what is written and takes the rest.
type capped struct {
	bytes.Buffer
	most int
	over bool
}

func (c *capped) Write(p []byte) (int, error) {
	if room := c.most - c.Len(); len(p) > room {
		c.over = true
		c.Buffer.Write(p[:max(room, 0)])
		return len(p), nil
	}
	return c.Buffer.Write(p)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

func clip(s string) string {
	if len(s) <= maxTrouble {
		return s
	}
	return strings.ToValidUTF8(s[:maxTrouble], "") + " …"
}
