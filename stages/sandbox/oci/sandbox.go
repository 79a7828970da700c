package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/tidegate-ci/tidegate/stages/sandbox"
	"github.com/tidegate-ci/tidegate/stages/sandbox/rootfs"
)

// Images finds images. An implementation knows registries, mirrors, credentials
// and this machine's platform.
type Images interface {
	Image(ctx context.Context, reference string) (v1.Image, error)
}

// ImageError is why an image could not be had.
type ImageError struct {
	Reference string
	Err       error
}

func (e *ImageError) Error() string { return fmt.Sprintf("image %s: %v", e.Reference, e.Err) }
func (e *ImageError) Unwrap() error { return e.Err }

// How often and how patiently a layer is fetched again after its stream broke.
const (
	layerTries     = 3
	layerPause     = 500 * time.Millisecond
	parallelLayers = 3
)

// Sandbox runs commands over an image, each in a root filesystem of its own that
// is thrown away afterwards. Env, working directory and user of the image apply
// where a command does not set its own. It implements sandbox.Sandbox.
type Sandbox struct {
	Runtime   *Runtime
	Store     *rootfs.Store
	Images    Images
	Reference string
	Limits    Limits
	// Progress, if set, is told what takes time before the command starts.
	Progress func(message string)

	mutex    sync.Mutex
	prepared *preparedImage
}

type preparedImage struct {
	config v1.Config
	layers []v1.Hash
}

// Prepare fetches the image and unpacks its layers. Run does so by itself;
// calling Prepare first tells a missing image from a failing command. Its errors
// are *ImageError.
func (s *Sandbox) Prepare(ctx context.Context) error {
	_, err := s.prepare(ctx)
	return err
}

// Config is the image's configuration, after Prepare.
func (s *Sandbox) Config(ctx context.Context) (v1.Config, error) {
	image, err := s.prepare(ctx)
	if err != nil {
		return v1.Config{}, err
	}
	return image.config, nil
}

func (s *Sandbox) prepare(ctx context.Context) (*preparedImage, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.prepared == nil {
		image, err := s.fetch(ctx)
		if err != nil {
			return nil, &ImageError{Reference: s.Reference, Err: err}
		}
		s.prepared = image
	}
	return s.prepared, nil
}

func (s *Sandbox) fetch(ctx context.Context) (*preparedImage, error) {
	s.report("fetch image " + s.Reference)
	image, err := s.Images.Image(ctx, s.Reference)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read its configuration: %w", err)
	}
	layers, err := image.Layers()
	if err != nil {
		return nil, fmt.Errorf("read its layers: %w", err)
	}
	if len(layers) != len(config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("its manifest has %d layers and its configuration %d: the image is damaged", len(layers), len(config.RootFS.DiffIDs))
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallelLayers)
	for i, layer := range layers {
		diffID := config.RootFS.DiffIDs[i]
		if s.Store.Has(diffID) {
			continue
		}
		group.Go(func() error { return s.unpack(groupCtx, diffID, layer) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return &preparedImage{config: config.Config, layers: config.RootFS.DiffIDs}, nil
}

// unpack tries again when a layer's stream breaks: the registry's client repeats
// requests, not the rest of a body.
func (s *Sandbox) unpack(ctx context.Context, diffID v1.Hash, layer v1.Layer) error {
	s.report("unpack layer " + shortID(diffID))
	pause := layerPause
	for try := 1; ; try++ {
		err := s.Store.Ensure(ctx, diffID, func() (io.ReadCloser, error) { return layer.Uncompressed() })
		if err == nil || try == layerTries || ctx.Err() != nil || !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
		pause *= 2
	}
}

func shortID(id v1.Hash) string { return id.Hex[:min(12, len(id.Hex))] }

func (s *Sandbox) report(message string) {
	if s.Progress != nil {
		s.Progress(message)
	}
}

// Run implements sandbox.Sandbox.
func (s *Sandbox) Run(ctx context.Context, command sandbox.Command) (err error) {
	image, err := s.prepare(ctx)
	if err != nil {
		return err
	}
	snapshot, err := s.Store.Mount(ctx, image.layers)
	if err != nil {
		return fmt.Errorf("image %s: %w", s.Reference, err)
	}
	defer func() {
		if closeErr := snapshot.Close(); closeErr != nil && err == nil {
			err = closeErr
		}
	}()
	return s.Runtime.Run(ctx, snapshot.Root, withDefaults(command, image.config), s.Limits)
}

// withDefaults fills in from the image what the command leaves open.
func withDefaults(command sandbox.Command, config v1.Config) sandbox.Command {
	env := map[string]string{}
	for _, pair := range config.Env {
		if name, value, ok := strings.Cut(pair, "="); ok && name != "" {
			env[name] = value
		}
	}
	maps.Copy(env, command.Env)
	command.Env = env
	if command.Dir == "" {
		command.Dir = config.WorkingDir
	}
	if command.User == "" {
		command.User = config.User
	}
	return command
}
