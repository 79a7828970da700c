package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/tidegate-ci/tidegate/internal/process"
)

// runPeer starts another tool's controller, a binary from the folder of peers.
func (b *bench) runPeer(ctx context.Context, binary string, arguments ...string) (*process.Process, error) {
	path, err := filepath.Abs(filepath.Join(b.peers, binary))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w: compile it with `make peers-rollout`", err)
	}
	return process.Start(ctx, filepath.Join(b.dir, binary+".log"), path, arguments...)
}

// define creates the custom resource definitions of a peer's module, from the
// files that it ships, and returns how to remove them.
func (b *bench) define(ctx context.Context, module, path string, files ...string) (remove func() error, err error) {
	list := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", path)
	list.Dir = filepath.Join("internal", "peers", module)
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("finding the module %s: %w", path, err)
	}
	client := b.dynamic.Resource(definitions)
	var made []string
	remove = func() error {
		var failed []error
		for _, name := range made {
			if err := client.Delete(context.WithoutCancel(ctx), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				failed = append(failed, err)
			}
		}
		return errors.Join(failed...)
	}
	for _, file := range files {
		objects, err := readObjects(filepath.Join(strings.TrimSpace(string(out)), file))
		if err != nil {
			return nil, errors.Join(err, remove())
		}
		for _, u := range objects {
			if _, err := client.Create(ctx, u, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
				return nil, errors.Join(fmt.Errorf("creating %s: %w", u.GetName(), err), remove())
			}
			made = append(made, u.GetName())
		}
	}
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, name := range made {
		if err := until(bounded, client, name, established); err != nil {
			return nil, errors.Join(fmt.Errorf("waiting for %s: %w", name, err), remove())
		}
	}
	return remove, nil
}

func readObjects(path string) ([]*unstructured.Unstructured, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var objects []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(file, 4096); ; {
		u := &unstructured.Unstructured{}
		switch err := decoder.Decode(u); {
		case errors.Is(err, io.EOF):
			return objects, nil
		case err != nil:
			return nil, fmt.Errorf("%s: %w", path, err)
		case len(u.Object) > 0:
			objects = append(objects, u)
		}
	}
}

func established(u *unstructured.Unstructured) bool {
	conditions, _, err := unstructured.NestedSlice(u.Object, "status", "conditions")
	if err != nil {
		return false
	}
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == "Established" && c["status"] == "True" {
			return true
		}
	}
	return false
}

// memory reads a process's resident set in bytes, now and at most.
func memory(pid int) (now, peak int64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		var kilobytes int64
		if _, err := fmt.Sscanf(strings.TrimSpace(value), "%d kB", &kilobytes); err != nil {
			continue
		}
		switch name {
		case "VmRSS":
			now = kilobytes << 10
		case "VmHWM":
			peak = kilobytes << 10
		}
	}
	if now == 0 {
		return 0, 0, fmt.Errorf("/proc/%d/status tells no memory", pid)
	}
	return now, peak, nil
}
