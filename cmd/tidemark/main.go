// Command tidemark is the command-line tool of the tidemark library.
//
// Without arguments it lists its subcommands. Each subcommand lists its flags
// with -h.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
)

// subcommand is one of the tool's commands; each lives in a file of its own.
type subcommand struct {
	summary string
	// run gets the arguments after the subcommand's name and returns when ctx
	// ends. It returns flag.ErrHelp if it has shown the help, and errUsage if
	// it has told the user what is wrong with the arguments.
	run func(ctx context.Context, args []string, stdout, stderr io.Writer) error
}

var subcommands = map[string]subcommand{
	"broker": {"run the in-process broker as a process, for development and tests", runBroker},
}

// errUsage says that the arguments are wrong and that the user knows.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes a subcommand and returns the exit code: 0 done, 1 failed, 2
// wrong usage.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		usage(stderr)
		return 2
	}
	cmd, known := subcommands[args[0]]
	if !known {
		if args[0] == "-h" || args[0] == "-help" || args[0] == "--help" || args[0] == "help" {
			usage(stdout)
			return 0
		}
		fmt.Fprintf(stderr, "tidemark: unknown command %q\n", args[0])
		usage(stderr)
		return 2
	}
	switch err := cmd.run(ctx, args[1:], stdout, stderr); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.Is(err, errUsage):
		return 2
	default:
		fmt.Fprintf(stderr, "tidemark %s: %v\n", args[0], err)
		return 1
	}
}

func usage(w io.Writer) {
	fmt.Fprintln(w, "Usage: tidemark COMMAND [flags]\n\nCommands:")
	names := make([]string, 0, len(subcommands))
	for name := range subcommands {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(w, "  %-10s %s\n", name, subcommands[name].summary)
	}
	fmt.Fprintln(w, "\nRun tidemark COMMAND -h for the flags of a command.")
}
