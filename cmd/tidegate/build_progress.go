package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/tidegate-ci/tidegate/stages/image"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
)

func summary(r *image.Result) string {
	text := fmt.Sprintf("built %s: %d steps made, %d cached", r.Digest, r.Stats.Made, r.Stats.Cached)
	if len(r.Pushed) > 0 {
		text += "; pushed " + strings.Join(r.Pushed, ", ")
	}
	return text
}

var progressKinds = []string{"auto", "tty", "plain", "quiet", "json", "rawjson"}

// fallbackWidth is taken for a terminal that does not tell its width.
const fallbackWidth = 80

func newRenderer(kind string, to io.Writer) (progress.Renderer, error) {
	file, isFile := to.(*os.File)
	terminal := isFile && term.IsTerminal(int(file.Fd()))
	switch {
	case kind == "json", kind == "rawjson":
		return progress.JSON(to), nil
	case kind == "quiet":
		return progress.Quiet(), nil
	case kind == "plain", kind == "auto" && !terminal:
		return progress.Plain(to), nil
	case kind == "tty", kind == "auto":
		return progress.TTY(to, progress.Terminal{
			Width: func() int {
				if isFile {
					if width, _, err := term.GetSize(int(file.Fd())); err == nil && width > 0 {
						return width
					}
				}
				return fallbackWidth
			},
			Color: os.Getenv("NO_COLOR") == "", Now: time.Now,
		}), nil
	}
	return nil, usageErrorf("--progress %s: use %s", kind, strings.Join(progressKinds, ", "))
}
