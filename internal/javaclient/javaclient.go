// Package javaclient finds RabbitMQ's Java client on this machine, for tests and
// measurements beside it. pom.xml pins its version. Nothing is written into the
// repository.
package javaclient

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed pom.xml
var pom []byte

// mavenTimeout leaves room for the download of the Java client, and
// compileTimeout for a file or two on a busy machine.
const (
	mavenTimeout   = 10 * time.Minute
	compileTimeout = 2 * time.Minute
)

// Installed returns an error that names the remedy if this machine lacks a
// program that the other functions run, or java.
func Installed() error {
	for _, program := range []string{"java", "javac", "mvn"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("RabbitMQ's Java client needs a JDK of version 11 or later and Maven: install both, so that java, javac and mvn are found: %w", err)
		}
	}
	return nil
}

// ClassPath returns the class path of the Java client and of what it needs. It
// blocks until Maven has found them, and downloaded them the first time.
func ClassPath(ctx context.Context) (string, error) {
	if err := Installed(); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "javaclient")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	file, out := filepath.Join(dir, "pom.xml"), filepath.Join(dir, "classpath")
	if err := os.WriteFile(file, pom, 0o600); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, mavenTimeout)
	defer cancel()
	err = runProgram(ctx, "mvn", "-B", "-q", "-f", file, "dependency:build-classpath", "-Dmdep.outputFile="+out)
	if err != nil {
		return "", fmt.Errorf("find RabbitMQ's Java client by Maven: %w", err)
	}
	path, err := os.ReadFile(out)
	return strings.TrimSpace(string(path)), err
}

// Compile compiles a Java file into a directory. It returns the class path of the
// result, which has the directory before classPath.
func Compile(ctx context.Context, file, dir, classPath string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, compileTimeout)
	defer cancel()
	if err := runProgram(ctx, "javac", "-cp", classPath, "-d", dir, file); err != nil {
		return "", fmt.Errorf("compile %s, which takes a JDK of version 11 or later: %w", filepath.Base(file), err)
	}
	return dir + string(os.PathListSeparator) + classPath, nil
}

// runProgram puts what the program said into its error.
func runProgram(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", name, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("%s: %w\n%s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}
