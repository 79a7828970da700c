package image

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// maxKey bounds a private key, in bytes.
const maxKey = 100 << 10

// KeyAgent makes an agent of this process that holds private keys, each in PEM.
func KeyAgent(keys ...[]byte) (agent.Agent, error) {
	held := agent.NewKeyring()
	for _, data := range keys {
		if len(data) > maxKey {
			return nil, fmt.Errorf("a private key has more than %d bytes", maxKey)
		}
		key, err := ssh.ParseRawPrivateKey(data)
		var locked *ssh.PassphraseMissingError
		switch {
		case errors.As(err, &locked):
			return nil, errors.New("the private key has a passphrase: add it to an SSH agent and pass that")
		case err != nil:
			return nil, errors.New("it is not a private key in PEM") // the library's words may hold some of it
		}
		if err := held.Add(agent.AddedKey{PrivateKey: key}); err != nil {
			return nil, fmt.Errorf("add a private key: %w", err)
		}
	}
	return held, nil
}

// ParseSSH reads the value of --ssh: "ID" for the agent that SSH_AUTH_SOCK
// names, or "ID=PATH[,PATH]…" for an agent's socket or files of private keys.
func ParseSSH(text string) (id string, paths []string, err error) {
	id, list, given := strings.Cut(text, "=")
	if id == "" || strings.ContainsAny(id, "/\x00 ") {
		return "", nil, fmt.Errorf("--ssh %q: want ID or ID=PATH, such as default or default=$HOME/.ssh/id_ed25519", text)
	}
	if !given {
		return id, nil, nil
	}
	for path := range strings.SplitSeq(list, ",") {
		if path == "" {
			return "", nil, fmt.Errorf("--ssh %q: a path is empty", text)
		}
		paths = append(paths, path)
	}
	return id, paths, nil
}

// OpenAgent opens what ParseSSH gave; socket is SSH_AUTH_SOCK.
func OpenAgent(paths []string, socket string) (agent.Agent, error) {
	if len(paths) == 0 {
		if socket == "" {
			return nil, errors.New("no SSH agent runs (SSH_AUTH_SOCK is not set): start one, or name a key with ID=PATH")
		}
		paths = []string{socket}
	}
	var keys [][]byte
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.Mode()&os.ModeSocket != 0 {
			if len(paths) > 1 {
				return nil, fmt.Errorf("%s is an agent's socket: give it alone", path)
			}
			return dialledAgent(path), nil
		}
		key, err := readKey(path)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return KeyAgent(keys...)
}

func readKey(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxKey+1))
}

// dialledAgent is the agent behind a socket. Each question has a connection of
// its own: none is left open, and none outlives the agent.
type dialledAgent string

func (d dialledAgent) ask(question func(agent.ExtendedAgent) error) error {
	connection, err := net.Dial("unix", string(d)) //nolint:noctx // a local socket, and the agent interface has no context
	if err != nil {
		return fmt.Errorf("reach the SSH agent: %w", err)
	}
	return errors.Join(question(agent.NewClient(connection)), connection.Close())
}

// List names the keys.
func (d dialledAgent) List() (keys []*agent.Key, err error) {
	err = d.ask(func(a agent.ExtendedAgent) error { keys, err = a.List(); return err })
	return keys, err
}

// Sign signs with a key.
func (d dialledAgent) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	return d.SignWithFlags(key, data, 0)
}

// SignWithFlags signs with the algorithm the flags ask for.
func (d dialledAgent) SignWithFlags(key ssh.PublicKey, data []byte, flags agent.SignatureFlags) (signature *ssh.Signature, err error) {
	err = d.ask(func(a agent.ExtendedAgent) error { signature, err = a.SignWithFlags(key, data, flags); return err })
	return signature, err
}

// Signers sign through the agent.
func (d dialledAgent) Signers() ([]ssh.Signer, error) {
	keys, err := d.List()
	if err != nil {
		return nil, err
	}
	var signers []ssh.Signer
	for _, key := range keys {
		signers = append(signers, &dialledSigner{d, key})
	}
	return signers, nil
}

type dialledSigner struct {
	agent dialledAgent
	key   ssh.PublicKey
}

func (s *dialledSigner) PublicKey() ssh.PublicKey { return s.key }

func (s *dialledSigner) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	return s.agent.Sign(s.key, data)
}

// SignWithAlgorithm serves RSA keys, whose oldest algorithm servers refuse.
func (s *dialledSigner) SignWithAlgorithm(_ io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	var flags agent.SignatureFlags
	switch algorithm {
	case ssh.KeyAlgoRSASHA256:
		flags = agent.SignatureFlagRsaSha256
	case ssh.KeyAlgoRSASHA512:
		flags = agent.SignatureFlagRsaSha512
	}
	return s.agent.SignWithFlags(s.key, data, flags)
}

// Extension knows none; what holds the keys is not changed from here.
func (dialledAgent) Extension(string, []byte) ([]byte, error) {
	return nil, agent.ErrExtensionUnsupported
}
func (dialledAgent) Add(agent.AddedKey) error   { return errSigningOnly }
func (dialledAgent) Remove(ssh.PublicKey) error { return errSigningOnly }
func (dialledAgent) RemoveAll() error           { return errSigningOnly }
func (dialledAgent) Lock([]byte) error          { return errSigningOnly }
func (dialledAgent) Unlock([]byte) error        { return errSigningOnly }
