package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/require"
)

// TestMain lets the test binary be one of several processes that use a store.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TIDEGATE_TEST_STORE"); dir != "" {
		if err := fillStore(dir, os.Getenv("TIDEGATE_TEST_SEED")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const testCap = 8 << 20

// fillStore behaves like builds that write far more than the cap in all, and
// never more than a fifth of it each.
func fillStore(dir, seed string) error {
	number, err := strconv.ParseUint(seed, 10, 64)
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(number, 1))
	s, err := Open(dir, Options{MaxBytes: testCap})
	if err != nil {
		return err
	}
	written, full := 0, 0
	for range 30 {
		session, err := s.Begin(context.Background())
		if err != nil {
			return err
		}
		for range 3 {
			data := make([]byte, random.IntN(testCap/15))
			for i := range data {
				data[i] = byte(random.Uint32())
			}
			err := putPiecewise(session, data)
			var noRoom *FullError
			if errors.As(err, &noRoom) {
				full++
				break
			}
			if err != nil {
				return err
			}
			written += len(data)
			sum := sha256.Sum256(data)
			// What the session made is there as long as it lasts.
			if !s.Has(v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])}, int64(len(data))) {
				return errors.New("a file in use was evicted")
			}
		}
		if err := session.End(); err != nil {
			return err
		}
	}
	if written < testCap {
		return fmt.Errorf("only %d bytes were written, %d times the store was full", written, full)
	}
	return nil
}

func putPiecewise(session *Session, data []byte) error {
	file, err := session.Temporary()
	if err != nil {
		return err
	}
	defer file.Discard()
	for piece := range bytes.SplitSeq(data, []byte{7, 7}) {
		if _, err := file.Write(append(bytes.Clone(piece), 7, 7)); err != nil {
			return err
		}
	}
	if err := file.Truncate(int64(len(data))); err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	return file.Keep(v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum[:])})
}

// stored is what all files of the store have in them.
func stored(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() == grantedName {
			return nil //nolint:nilerr // files come and go
		}
		if info, err := entry.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total
}

func TestTheCapHoldsAtEveryMomentForManyProcesses(t *testing.T) {
	dir := t.TempDir()
	ended := make(chan error, 4)
	for i := range cap(ended) {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), "TIDEGATE_TEST_STORE="+dir, "TIDEGATE_TEST_SEED="+strconv.Itoa(i))
		child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		var out bytes.Buffer
		child.Stdout, child.Stderr = &out, &out
		require.NoError(t, child.Start())
		go func() {
			err := child.Wait()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out.String())
			}
			ended <- err
		}()
	}
	var most int64
	for left := cap(ended); left > 0; {
		select {
		case err := <-ended:
			require.NoError(t, err)
			left--
		default:
			// A walk is no instant: a file may be counted under its old and its
			// new name, but not often.
			now := stored(dir)
			if now > testCap {
				now = min(now, stored(dir), stored(dir))
			}
			most = max(most, now)
		}
	}
	require.LessOrEqual(t, most, int64(testCap))
	require.Greater(t, most, int64(testCap/2), "the cap was never approached: the test shows nothing")
}

func TestABuildThatNeedsMoreThanTheCapIsToldSo(t *testing.T) {
	s := open(t, 1<<20)
	session, err := s.Begin(context.Background())
	require.NoError(t, err)
	file, err := session.Temporary()
	require.NoError(t, err)
	var full *FullError
	for range 100 {
		if _, err = file.Write(make([]byte, 64<<10)); err != nil {
			break
		}
	}
	require.ErrorAs(t, err, &full)
	require.ErrorContains(t, err, "this build needs more than the build cache may hold: its cap is 1.0 MB")
	require.LessOrEqual(t, stored(s.dir), int64(1<<20))
	file.Discard()
	// What was thrown away makes room again.
	file, err = session.Temporary()
	require.NoError(t, err)
	_, err = file.Write(make([]byte, 900<<10))
	require.NoError(t, err)
	require.NoError(t, session.End())
}

func TestTheGrantsOfAKilledBuildEndWithIt(t *testing.T) {
	s := open(t, 1<<20)
	session, err := s.Begin(context.Background())
	require.NoError(t, err)
	require.NoError(t, session.Take(1000<<10))
	other, err := s.Begin(context.Background())
	require.NoError(t, err)
	var full *FullError
	require.ErrorAs(t, other.Take(100<<10), &full)
	require.Equal(t, 2, full.Builds)
	require.NoError(t, session.lock.Close()) // as the kernel does for a killed process
	require.NoError(t, other.Take(100<<10))
}

func TestCacheMountsCountAndGoWhenOld(t *testing.T) {
	s := open(t, 1<<20)
	owner := CacheOwner{Mode: 0o755, UID: os.Getuid(), GID: os.Getgid()}
	fill := func(id string, bytes int) {
		session, err := s.Begin(context.Background())
		require.NoError(t, err)
		mount, err := session.Cache(context.Background(), "scope", id, Shared, owner)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(mount.Path, "file"), make([]byte, bytes), 0o600))
		require.NoError(t, mount.Charge(context.Background()))
		mount.Release()
		require.NoError(t, session.End())
	}
	fill("old", 400<<10)
	fill("new", 400<<10)
	all, err := s.List(context.Background())
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "old", all[0].Name)
	require.Greater(t, all[0].Bytes, int64(400<<10))
	fill("third", 400<<10)
	all, err = s.List(context.Background())
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "new", all[0].Name)

	session, err := s.Begin(context.Background())
	require.NoError(t, err)
	mount, err := session.Cache(context.Background(), "scope", "fourth", Shared, owner)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(mount.Path, "file"), make([]byte, 2<<20), 0o600))
	var full *FullError
	require.ErrorAs(t, mount.Charge(context.Background()), &full)
	mount.Release()
	require.NoError(t, session.End())
}

func TestPruneTakesWhatItIsAllowedTo(t *testing.T) {
	s := open(t, 0)
	session, err := s.Begin(context.Background())
	require.NoError(t, err)
	require.NoError(t, session.PutBlob(hash(0), make([]byte, 100)))
	require.NoError(t, session.Put("kind", hash(1), "x"))
	require.NoError(t, session.End())
	removed, err := s.Prune(context.Background(), Filter{Kinds: []EntryKind{KindRecord}})
	require.NoError(t, err)
	require.Len(t, removed, 1)
	require.Equal(t, KindRecord, removed[0].Kind)
	removed, err = s.Prune(context.Background(), Filter{Keep: 100})
	require.NoError(t, err)
	require.Empty(t, removed)
	removed, err = s.Prune(context.Background(), Filter{Before: time.Unix(1, 0)})
	require.NoError(t, err)
	require.Empty(t, removed)
	held, err := s.Begin(context.Background())
	require.NoError(t, err)
	require.True(t, s.Has(hash(0), 100))
	removed, err = s.Prune(context.Background(), Filter{})
	require.NoError(t, err)
	require.Empty(t, removed, "a running build uses it")
	require.NoError(t, held.End())
	removed, err = s.Prune(context.Background(), Filter{})
	require.NoError(t, err)
	require.Len(t, removed, 1)
	require.True(t, strings.HasPrefix(removed[0].Name, "sha256:"))
}
