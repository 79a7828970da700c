package engine

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A worker that stops ends the attempts of one run after the other. A deploy
// that has waited must not begin in the moment between, in the place of the one
// that is to be continued.
func TestAHandedOverDeployKeepsItsEnvironment(t *testing.T) {
	s := newSlots(1)
	production := claim{repository: "octo/shop", environment: "production"}
	young, old := holder{"young", "ship"}, holder{"old", "ship"}
	ok, _ := s.acquire(young, production, func() {})
	require.True(t, ok)
	woken := 0
	ok, busy := s.acquire(old, production, func() { woken++ })
	require.False(t, ok)
	require.Equal(t, "young", busy)

	s.leaveRun("young")
	require.Zero(t, woken)
	ok, busy = s.acquire(old, production, func() { woken++ })
	require.False(t, ok)
	require.Equal(t, "young", busy)
	// The slot itself is free for others, and for the deploy when it goes on.
	other := holder{"other", "test"}
	ok, _ = s.acquire(other, claim{repository: "octo/shop"}, func() {})
	require.True(t, ok)
	s.release(other)
	ok, _ = s.acquire(young, production, func() {})
	require.True(t, ok)

	s.releaseRun("young")
	require.Equal(t, 1, woken)
	ok, _ = s.acquire(old, production, func() {})
	require.True(t, ok)
}

// What a run that is handed over has asked for is not given to it any more.
func TestAHandedOverRunLeavesTheQueue(t *testing.T) {
	s := newSlots(1)
	first, second, third := holder{"a", "x"}, holder{"b", "x"}, holder{"c", "x"}
	ok, _ := s.acquire(first, claim{repository: "r"}, func() {})
	require.True(t, ok)
	woken := ""
	for _, h := range []holder{second, third} {
		ok, _ := s.acquire(h, claim{repository: "r"}, func() { woken += h.run })
		require.False(t, ok)
	}
	s.leaveRun("b")
	s.leaveRun("a")
	require.Equal(t, "c", woken)
}
