package main

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestRun runs the story, which checks itself, and holds the README to it.
func TestRun(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out); err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	port := regexp.MustCompile(`127\.0\.0\.1:\d+`)
	story := port.ReplaceAllString(out.String(), "ADDR")
	if !strings.Contains(port.ReplaceAllString(string(readme), "ADDR"), "```\n"+story+"```\n") {
		t.Errorf("README.md does not show what the quickstart prints:\n%s", out.String())
	}
}
