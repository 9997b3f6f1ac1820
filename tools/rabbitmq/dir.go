package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tidemark-go/tidemark/internal/rabbit"
)

// instanceDir is --dir, or the default below the module's root.
func (c command) instanceDir() (string, error) {
	if c.dir != "" {
		return filepath.Abs(c.dir)
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	return filepath.Join(root, ".rabbitmq", "default"), nil
}

// dirFlag is how to name the same instance again.
func (c command) dirFlag() string {
	if c.dir == "" {
		return ""
	}
	return " --dir " + c.dir
}

// moduleRoot is the nearest directory above the working directory with a go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("not inside the repository: run it there, or say where with --dir")
		}
		dir = parent
	}
}

// open returns the instance, or the external broker in its stead.
func (c command) open() (*rabbit.Instance, error) {
	dir, err := c.instanceDir()
	if err != nil {
		return nil, err
	}
	i, err := rabbit.Open(dir)
	if errors.Is(err, rabbit.ErrNoInstance) {
		return nil, fmt.Errorf("%w: run \"go run ./tools/rabbitmq up%s\" first", err, c.dirFlag())
	}
	return i, err
}
