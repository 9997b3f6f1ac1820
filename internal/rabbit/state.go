package rabbit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	stateFile    = "state.json"
	stateVersion = 1
	// lastFile is the state of the instance that Down took down last. A shell may
	// still have its URIs.
	lastFile = "last.json"
)

// Node is one broker of an instance and where it listens. All ports are on
// loopback. They are chosen when the instance is made and never change, so
// that a client reconnects to the same place after a restart.
type Node struct {
	Name           string `json:"name"` // n1, n2 or n3
	StreamPort     int    `json:"stream_port"`
	StreamTLSPort  int    `json:"stream_tls_port"`
	AMQPPort       int    `json:"amqp_port"`
	ManagementPort int    `json:"management_port"`
	DistPort       int    `json:"dist_port"` // Erlang distribution
}

// erlangName is the node's name inside the cluster. Nodes of several instances
// have the same names; each instance has its own epmd, so they never meet.
func (n Node) erlangName() string { return n.Name + "@localhost" }

// state is what an instance remembers between two commands.
type state struct {
	Version   int      `json:"version"`
	Provider  Provider `json:"provider"`
	Nodes     []Node   `json:"nodes"`
	EpmdPort  int      `json:"epmd_port"`
	OsirisMin int      `json:"osiris_min_port"` // replicas of streams listen in this range
	OsirisMax int      `json:"osiris_max_port"`
	Cookie    string   `json:"cookie"` // Erlang's shared secret, valid for this instance only
}

// loadState reads the state of the instance in dir; ErrNoInstance when there
// is none.
func loadState(dir string) (*state, error) { return loadStateFile(dir, stateFile) }

// loadLast reads the state of the instance that was in dir before; nil when it
// is not known.
func loadLast(dir string) *state {
	s, err := loadStateFile(dir, lastFile)
	if err != nil {
		return nil
	}
	return s
}

func loadStateFile(dir, name string) (*state, error) {
	path := filepath.Join(dir, name)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoInstance, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read the instance's state: %w", err)
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("%s is damaged (%w): stop its brokers by hand and remove %s", path, err, dir)
	}
	if s.Version != stateVersion || len(s.Nodes) == 0 {
		return nil, fmt.Errorf("%s has version %d and %d nodes, this tool writes version %d: take the instance down with the tool that made it",
			path, s.Version, len(s.Nodes), stateVersion)
	}
	return &s, nil
}

// save writes the state so that a reader sees the old one or the new one,
// never half of it.
func (s *state) save(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeFileAtomic(filepath.Join(dir, stateFile), append(data, '\n'), 0o600)
}

func writeFileAtomic(path string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // a no-op after the rename
	_, err = tmp.Write(data)
	if err := errors.Join(err, tmp.Chmod(mode), tmp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(tmp.Name(), path)
}
