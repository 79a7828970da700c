package image

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/tidegate-ci/tidegate/stages/image/plan"
	"github.com/tidegate-ci/tidegate/stages/sandbox"
)

// agentVariable is where programs look for an SSH agent.
const agentVariable = "SSH_AUTH_SOCK"

// maxAgentConnections bounds the connections to one agent at once.
const maxAgentConnections = 64

// sshMount shows a socket of an SSH agent that signs and does nothing else.
func (r *stepRun) sshMount(ctx context.Context, mounts *stepMounts, m *plan.Mount) error {
	keys, ok := r.request.SSH[m.AgentID]
	if !ok {
		if m.Required {
			return fmt.Errorf("the SSH agent %q was not given: pass it with --ssh %s", m.AgentID, m.AgentID)
		}
		return nil
	}
	dir, err := r.temporary(mounts, memory)
	if err != nil {
		return err
	}
	socket := filepath.Join(dir, "agent")
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return err
	}
	server := &agentServer{keys: signingAgent{keys}, listener: listener, slots: make(chan struct{}, maxAgentConnections), open: map[net.Conn]bool{}}
	server.done.Go(server.serve)
	mounts.undo = append(mounts.undo, server.close)
	if err := os.Chown(socket, int(m.UID), int(m.GID)); err != nil && os.Geteuid() == 0 {
		return err
	}
	if err := os.Chmod(socket, os.FileMode(*m.Mode).Perm()); err != nil {
		return err
	}
	mounts.binds = append(mounts.binds, sandbox.Mount{Source: socket, Target: m.Target})
	if !mounts.agent {
		mounts.agent = true
		mounts.env = append(mounts.env, agentVariable+"="+m.Target)
	}
	return nil
}

// agentServer answers on a socket until it is closed.
type agentServer struct {
	keys     agent.Agent
	listener net.Listener
	slots    chan struct{}
	done     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   map[net.Conn]bool
}

func (s *agentServer) serve() {
	for {
		s.slots <- struct{}{}
		connection, err := s.listener.Accept()
		if err != nil {
			return // closed
		}
		if !s.keep(connection) {
			return
		}
		s.done.Go(func() {
			defer func() { <-s.slots }()
			// The command's own trouble; it sees the connection end.
			_ = agent.ServeAgent(s.keys, connection)
			s.drop(connection)
		})
	}
}

func (s *agentServer) keep(connection net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = connection.Close() // nobody reads from it
		return false
	}
	s.open[connection] = true
	return true
}

func (s *agentServer) drop(connection net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, connection)
	_ = connection.Close() // all is said
}

func (s *agentServer) close() {
	_ = s.listener.Close() // serve ends
	s.mu.Lock()
	s.closed = true
	for connection := range s.open {
		_ = connection.Close() // the command is gone
	}
	s.mu.Unlock()
	select {
	case <-s.slots: // serve may wait for a slot
	default:
	}
	s.done.Wait()
}

// signingAgent lists keys and signs with them. A command may not change what
// the agent holds.
type signingAgent struct{ agent.Agent }

var errSigningOnly = errors.New("this agent signs and does nothing else")

// SignWithFlags signs with the algorithm the flags ask for.
func (a signingAgent) SignWithFlags(key ssh.PublicKey, data []byte, flags agent.SignatureFlags) (*ssh.Signature, error) {
	if extended, ok := a.Agent.(agent.ExtendedAgent); ok {
		return extended.SignWithFlags(key, data, flags)
	}
	return a.Agent.Sign(key, data)
}

// Extension knows none.
func (signingAgent) Extension(string, []byte) ([]byte, error) {
	return nil, agent.ErrExtensionUnsupported
}

// Add, Remove, RemoveAll, Lock and Unlock are refused.
func (signingAgent) Add(agent.AddedKey) error       { return errSigningOnly }
func (signingAgent) Remove(ssh.PublicKey) error     { return errSigningOnly }
func (signingAgent) RemoveAll() error               { return errSigningOnly }
func (signingAgent) Lock([]byte) error              { return errSigningOnly }
func (signingAgent) Unlock([]byte) error            { return errSigningOnly }
func (signingAgent) Signers() ([]ssh.Signer, error) { return nil, errSigningOnly }
