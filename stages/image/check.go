package image

import (
	"context"
	"errors"

	"github.com/tidegate-ci/tidegate/stages/image/plan"
)

// Finding is what a build check found, with the lines of the Dockerfile it is about.
type Finding struct {
	plan.Warning
	Excerpt string
}

// Check runs the build checks and builds nothing: on all stages, or on the
// request's target. Base images are looked up for their configuration. Findings
// made before an error come with it.
func (b *Builder) Check(ctx context.Context, request Request) (found []Finding, err error) {
	if request, err = request.withDefaults(); err != nil {
		return nil, err
	}
	session, err := b.Store.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, session.End()) }()
	files, err := openContext(ctx, request, session.Dir())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, files.Close()) }()
	document, err := plan.Parse(files.dockerfileName, files.dockerfile)
	if err != nil {
		return nil, invalid(err)
	}
	e := newExecution(b, request, files, document, session)
	warnings, err := document.Check(ctx, e.planOptions(request.Platforms[0]))
	for _, w := range warnings {
		found = append(found, Finding{w, document.Excerpt(w.Pos)})
	}
	return found, classify(err)
}
