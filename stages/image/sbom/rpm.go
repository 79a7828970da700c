package sbom

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	rpmdb "github.com/anchore/go-rpmdb/pkg"
	_ "modernc.org/sqlite" // registers the driver that RPM's databases of today need

	"github.com/tidegate-ci/tidegate/internal/confined"
)

// rpmDatabases are RPM's, in each format it has had: SQLite (rpmdb.sqlite), its own
// (Packages.db) and Berkeley DB (Packages).
var rpmDatabases = map[string]bool{
	"var/lib/rpm/rpmdb.sqlite": true, "var/lib/rpm/Packages.db": true, "var/lib/rpm/Packages": true,
	"usr/lib/sysimage/rpm/rpmdb.sqlite": true, "usr/lib/sysimage/rpm/Packages.db": true, "usr/lib/sysimage/rpm/Packages": true,
	"usr/share/rpm/rpmdb.sqlite": true, // of rpm-ostree
}

// maxRPM bounds a database, in bytes: it holds the names of every installed file.
const maxRPM = 512 << 20

// listing reads a database elsewhere: the library's own goroutines panic on a
// broken one, allocate what it says, and stay behind where it fails.
var listing = confined.Part[rpmRequest, rpmAnswer]{
	Name:   "tidegate-rpm",
	Bounds: confined.Bounds{Time: time.Minute, CPU: 30, Memory: 1 << 30, Output: 64 << 20},
	Serve:  listRPM,
}

func init() { listing.Main() }

type rpmRequest struct{ Database string }

type rpmAnswer struct {
	Packages []Package
	// Trouble is why there are none.
	Trouble string
}

// rpm reads a database. One that cannot be read is named with the reason: it is
// the image's, and may be anything.
func rpm(ctx context.Context, name string, content io.Reader) (f *found, err error) {
	dir, err := os.MkdirTemp("", "tidegate-rpm-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	database := filepath.Join(dir, "database")
	file, err := os.OpenFile(database, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(file, content)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	answer, err := listing.Ask(ctx, rpmRequest{database})
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		answer.Trouble = err.Error()
	}
	if answer.Trouble != "" {
		return &found{unread: fmt.Sprintf("rpm (/%s: %.200s)", name, answer.Trouble)}, nil
	}
	for i := range answer.Packages {
		answer.Packages[i].Found = "/" + name
	}
	return &found{packages: answer.Packages}, nil
}

// listRPM is what the other process does.
func listRPM(request rpmRequest) rpmAnswer {
	database, err := rpmdb.Open(request.Database)
	if err != nil {
		return rpmAnswer{Trouble: err.Error()}
	}
	listed, err := database.ListPackages()
	if err != nil {
		return rpmAnswer{Trouble: err.Error()}
	}
	var answer rpmAnswer
	for _, one := range listed {
		// Keys that packages are verified with are kept as packages without files.
		if one.Name == "gpg-pubkey" || one.Name == "" || one.Version == "" {
			continue
		}
		p := Package{Type: "rpm", Name: one.Name, Version: one.Version, Architecture: one.Arch, License: one.License}
		if one.Release != "" {
			p.Version += "-" + one.Release
		}
		if one.Epoch != nil {
			p.Epoch = *one.Epoch
		}
		answer.Packages = append(answer.Packages, p)
	}
	return answer
}
