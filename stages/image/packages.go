package image

import (
	"context"
	"errors"

	"github.com/tidegate-ci/tidegate/stages/image/attest"
	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/sbom"
)

// packagesRecord keeps what was found in a chain of layers. The number changes
// when the scanner finds more than before.
const (
	packagesRecord  = "packages"
	packagesVersion = "2"
)

// sbom lists the packages of an image.
func (e *execution) sbom(ctx context.Context, image *Image) (attest.Statement, error) {
	id := "sbom " + plan.FormatPlatform(image.Platform)
	start := e.now()
	e.emit(progress.Event{Kind: progress.Start, Step: id, Text: "list the packages of " + plan.FormatPlatform(image.Platform)})
	packages, kept, err := e.packages(ctx, image)
	if err != nil {
		e.emit(stepFailed(id, err, e.now().Sub(start)))
		return attest.Statement{}, err
	}
	for _, unread := range packages.Unread {
		e.emit(progress.Event{Kind: progress.Warning, Text: "packages of " + unread + " are not in the SBOM: that database could not be read"})
	}
	kind := progress.Done
	if kept {
		kind = progress.Cached
	}
	e.emit(progress.Event{Kind: kind, Step: id, Duration: e.now().Sub(start)})
	names, err := e.subjects(image.Platform)
	if err != nil {
		return attest.Statement{}, err
	}
	name := attest.Unnamed
	if len(names) > 0 {
		name = names[0]
	}
	return attest.NewStatement(names, image.Digest, attest.PredicateSPDX, sbom.SPDX(name, image.Digest.Hex, packages, e.request.Epoch))
}

func (e *execution) packages(ctx context.Context, image *Image) (found sbom.Packages, kept bool, err error) {
	k := newKeyer("packages")
	k.text("version", packagesVersion)
	for _, link := range image.layers {
		k.text("layer", link.Digest.String()) // not the config's word: what was read
	}
	key := k.sum()
	if kept, err = e.Store.Record(packagesRecord, key, &found); err == nil && kept {
		return found, true, nil
	}
	scanner := sbom.NewScanner()
	defer func() { err = errors.Join(err, scanner.Close()) }()
	for _, link := range image.layers {
		content, err := e.unpacked(ctx, link)
		if err != nil {
			return found, false, err
		}
		if err := errors.Join(scanner.Layer(ctx, content), content.Close()); err != nil {
			return found, false, err
		}
	}
	found = scanner.Packages()
	return found, false, e.session.Put(packagesRecord, key, found)
}
