package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidegate-ci/tidegate/stages/image"
	"github.com/tidegate-ci/tidegate/stages/image/cache"
	"github.com/tidegate-ci/tidegate/stages/image/progress"
	"github.com/tidegate-ci/tidegate/stages/image/registry"
	"github.com/tidegate-ci/tidegate/stages/image/store"
)

// localScope is that of builds by `tidegate build`.
const localScope = "local"

func newCacheCommand() *cobra.Command {
	dir := os.Getenv("TIDEGATE_CACHE")
	command := &cobra.Command{
		Use:   "cache",
		Short: "See and prune what builds keep on this machine",
		Long: `What builds keep: layers (blob), records of steps (record), unpacked layers
(unpacked), cache mounts (mount) and full logs (log), all under the one cap of
"tidegate build --cache-size". What a running build uses is never removed.`,
		Example: `  tidegate cache list
  tidegate cache prune --keep 5GB`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	command.PersistentFlags().StringVar(&dir, "cache-dir", dir, "where layers are kept (TIDEGATE_CACHE; default the user's cache directory; a server's is its data directory)")
	open := func() (*store.Store, error) {
		at, err := cacheDirectory(dir)
		if err != nil {
			return nil, err
		}
		builder, err := image.NewLocal(at, registry.New(registry.Options{}), store.Options{})
		if err != nil {
			return nil, err
		}
		return builder.Store, nil
	}
	command.AddCommand(newCacheListCommand(open), newCachePruneCommand(open), newCacheExportCommand(open), newCacheImportCommand(open))
	return command
}

// cacheDirectory is where builds keep things: as given, or the user's.
func cacheDirectory(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", usageErrorf("no place to keep layers: %w; set --cache-dir", err)
	}
	return filepath.Join(base, "tidegate"), nil
}

type storeOpener func() (*store.Store, error)

var cacheKinds = []string{string(store.KindBlob), string(store.KindRecord), string(store.KindUnpacked), string(store.KindMount), string(store.KindLog)}

func parseKinds(texts []string) ([]store.EntryKind, error) {
	var kinds []store.EntryKind
	for _, text := range texts {
		if !slices.Contains(cacheKinds, text) {
			return nil, usageErrorf("--kind %s: use %s", text, strings.Join(cacheKinds, ", "))
		}
		kinds = append(kinds, store.EntryKind(text))
	}
	return kinds, nil
}

func newCacheListCommand(open storeOpener) *cobra.Command {
	var output string
	var kinds []string
	command := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls", "du"},
		Short:   "List what is kept, with size and last use, that used longest ago first",
		Example: "  tidegate cache list\n  tidegate cache list --kind mount --output json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			wanted, err := parseKinds(kinds)
			if err != nil {
				return err
			}
			kept, err := open()
			if err != nil {
				return err
			}
			all, err := kept.List(cmd.Context())
			if err != nil {
				return err
			}
			if len(wanted) > 0 {
				all = slices.DeleteFunc(all, func(e store.Entry) bool { return !slices.Contains(wanted, e.Kind) })
			}
			if output != "table" {
				return printDocument(cmd.OutOrStdout(), output, append([]store.Entry{}, all...))
			}
			return printLines(cmd.OutOrStdout(), cacheTable(all, time.Now()))
		},
	}
	flags := command.Flags()
	flags.StringVarP(&output, "output", "o", "table", "table, json or yaml")
	flags.StringSliceVar(&kinds, "kind", nil, "only "+strings.Join(cacheKinds, ", "))
	return command
}

func cacheTable(all []store.Entry, now time.Time) []string {
	rows := [][]string{{"KIND", "SIZE", "USED", "SCOPE", "NAME"}}
	var total int64
	for _, e := range all {
		total += e.Bytes
		rows = append(rows, []string{string(e.Kind), progress.Size(e.Bytes), lastUse(e.Used, now), e.Scope, e.Name})
	}
	return append(tableLines(0, rows), fmt.Sprintf("%d entries, %s", len(all), progress.Size(total)))
}

// lastUse words when something was used; what never will be has the Unix epoch.
func lastUse(used, now time.Time) string {
	if used.Unix() == 0 {
		return "surplus"
	}
	return age(now.Sub(used)) + " ago"
}

func newCachePruneCommand(open storeOpener) *cobra.Command {
	var keep byteSize
	var older time.Duration
	var kinds []string
	var output string
	command := &cobra.Command{
		Use:   "prune [NAME...]",
		Short: "Remove what is kept, that used longest ago first",
		Long: `Remove what is kept, that used longest ago first, except what running builds use.
Without flags everything goes; with NAMEs (of "tidegate cache list") only those.`,
		Example: `  tidegate cache prune --keep 5GB
  tidegate cache prune --older-than 168h
  tidegate cache prune --kind mount /root/.cache/go-build`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			wanted, err := parseKinds(kinds)
			if err != nil {
				return err
			}
			kept, err := open()
			if err != nil {
				return err
			}
			filter := store.Filter{Keep: int64(keep), Kinds: wanted}
			if older > 0 {
				filter.Before = time.Now().Add(-older)
			}
			if len(args) > 0 {
				filter.Only = func(e store.Entry) bool { return slices.Contains(args, e.Name) }
			}
			removed, err := kept.Prune(cmd.Context(), filter)
			if err != nil {
				return err
			}
			if output != "table" {
				return printDocument(cmd.OutOrStdout(), output, append([]store.Entry{}, removed...))
			}
			var total int64
			for _, e := range removed {
				total += e.Bytes
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "removed %d entries, %s\n", len(removed), progress.Size(total))
			return err
		},
	}
	flags := command.Flags()
	flags.Var(&keep, "keep", "how much may stay, such as 5GB (default nothing)")
	flags.DurationVar(&older, "older-than", 0, "only what has not been used for so long")
	flags.StringSliceVar(&kinds, "kind", nil, "only "+strings.Join(cacheKinds, ", "))
	flags.StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return command
}

func newCacheExportCommand(open storeOpener) *cobra.Command {
	var scope string
	command := &cobra.Command{
		Use:   "export ID [FILE]",
		Short: "Write the content of a cache mount to a file (tar, zstd) or standard output",
		Long: `Write the content of RUN --mount=type=cache to a file, to be read on another
machine with "tidegate cache import". ID is the mount's id, or its target when it
has none. To send it through a registry: --cache-to type=registry,ref=…,mounts=true.`,
		Example: "  tidegate cache export /root/.cache/go-build go-build.tar.zst",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			kept, err := open()
			if err != nil {
				return err
			}
			if !kept.HasCache(scope, args[0]) {
				return usageErrorf("there is no cache mount %q of scope %q: see tidegate cache list --kind mount", args[0], scope)
			}
			mount, err := kept.Cache(cmd.Context(), scope, args[0], store.Locked, store.CacheOwner{})
			if err != nil {
				return err
			}
			defer mount.Release()
			to := cmd.OutOrStdout()
			if len(args) == 2 && args[1] != "-" {
				file, err := os.Create(args[1])
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, file.Close()) }()
				to = file
			}
			return cache.Pack(cmd.Context(), mount.Path, to)
		},
	}
	command.Flags().StringVar(&scope, "scope", localScope, "whose mount it is")
	return command
}

func newCacheImportCommand(open storeOpener) *cobra.Command {
	var scope string
	command := &cobra.Command{
		Use:     "import ID [FILE]",
		Short:   "Fill a cache mount from a file that export wrote, or from standard input",
		Long:    `Fill a cache mount. One that has something in it is left as it is: prune it first.`,
		Example: "  tidegate cache import /root/.cache/go-build go-build.tar.zst",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			kept, err := open()
			if err != nil {
				return err
			}
			from := cmd.InOrStdin()
			if len(args) == 2 && args[1] != "-" {
				file, err := os.Open(args[1])
				if err != nil {
					return err
				}
				defer file.Close()
				from = file
			}
			return importMount(cmd, kept, scope, args[0], from)
		},
	}
	command.Flags().StringVar(&scope, "scope", localScope, "whose mount it is")
	return command
}

func importMount(cmd *cobra.Command, kept *store.Store, scope, id string, from io.Reader) (err error) {
	session, err := kept.Begin(cmd.Context())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, session.End()) }()
	mount, err := session.Cache(cmd.Context(), scope, id, store.Locked, store.CacheOwner{Mode: 0o755})
	if err != nil {
		return err
	}
	defer mount.Release()
	entries, err := os.ReadDir(mount.Path)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return usageErrorf("the cache mount %q has something in it: remove it first, with tidegate cache prune --kind mount %s", id, id)
	}
	return cache.Unpack(cmd.Context(), from, mount.Path, mount.Take)
}
