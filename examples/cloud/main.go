// Command cloud makes a whole cloud network on this machine from one file:
// hosts, networks, routers, DHCP, metadata, security groups, and servers that
// boot in it; and shows that it does what the model says.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vnet-go/vnet"
	"github.com/vnet-go/vnet/examples/internal/machine"
	"github.com/vnet-go/vnet/examples/internal/topology"
	"github.com/vnet-go/vnet/examples/internal/vm"
)

const usage = `usage: cloud COMMAND [flags] [arguments]

  up -f FILE        make the cloud, or bring it in line with the file
  plan -f FILE      say what up would do
  status            what runs, with leases and metadata
  limits            what ports, gateways and floating IPs may do, measured
  matrix            who reaches whom, seen beside what the model says
  explain WHAT ...  what carries a thing, or what decides over a packet:
                    port NAME, network NAME, router NAME, floatingip NAME,
                    portforward NAME, rule GROUP/NUMBER, group NAME, scope NAME,
                    packet FROM TO [icmp | tcp PORT | udp PORT]
  graph [-f FILE]   the topology as a drawing (--format svg or mermaid)
  exec VM -- CMD... run a command inside a virtual machine
  schema            the JSON Schema of topology files
  down              take all away

flags: --json          print for programs
       --name NAME     which cloud, when several are up
       --backend NAME  what carries it: linux (as it is by default), ovn or ovs
       --client NAME   DHCP client the machines boot with: builtin, udhcpc, dhclient, dhcpcd
       --force         delete as much as it takes (up)
       --state-dir DIR where clouds keep their state (default /run/vnet-cloud)
`

// errUsage makes the exit status 2.
var errUsage = errors.New("usage")

// errMismatch makes the exit status 1 without another word: the matrix has said it.
var errMismatch = errors.New("what was seen is not what the model says")

// cli is one invocation.
type cli struct {
	file, backend, name, stateDir, format, client string
	json, force                                   bool
	args                                          []string
	out, progress                                 io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	var exit *exitError
	switch {
	case err == nil:
	case errors.Is(err, errUsage):
		if err != errUsage {
			fmt.Fprintln(os.Stderr, "cloud:", strings.TrimSuffix(err.Error(), ": "+errUsage.Error()))
		}
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	case errors.As(err, &exit):
		os.Exit(exit.code)
	case errors.As(err, new(topology.Problems)):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "cloud:", err)
		os.Exit(1)
	}
}

// exitError passes on the exit status of a command run by exec.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	cmd, args := args[0], args[1:]
	// These two are this program started again by itself.
	switch cmd {
	case "vm":
		return vm.Run(ctx, args[0])
	case "agent":
		return agentMain(ctx, args[0], args[1])
	case "hook":
		return vm.Hook(args[0], args[1:])
	}
	commands := map[string]func(*cli, context.Context) error{
		"up": (*cli).up, "plan": (*cli).plan, "status": (*cli).status, "limits": (*cli).limits, "matrix": (*cli).matrix, "explain": (*cli).explain,
		"graph": (*cli).graph, "exec": (*cli).exec, "schema": (*cli).schema, "down": (*cli).down,
	}
	f, ok := commands[cmd]
	switch {
	case cmd == "help" || cmd == "-h" || cmd == "--help":
		fmt.Print(usage)
		return nil
	case !ok:
		return fmt.Errorf("no command %q: %w", cmd, errUsage)
	}
	c, err := parse(cmd, args)
	if err != nil {
		return err
	}
	return f(c, ctx)
}

func parse(cmd string, args []string) (*cli, error) {
	c := &cli{out: os.Stdout, progress: os.Stderr}
	fs := flag.NewFlagSet(cmd, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&c.file, "f", "", "")
	fs.StringVar(&c.backend, "backend", "linux", "")
	fs.StringVar(&c.name, "name", "", "")
	fs.StringVar(&c.stateDir, "state-dir", "/run/vnet-cloud", "")
	fs.StringVar(&c.format, "format", "svg", "")
	fs.StringVar(&c.client, "client", "builtin", "")
	fs.BoolVar(&c.json, "json", false, "")
	fs.BoolVar(&c.force, "force", false, "")
	// Flags may stand among the arguments, up to "--".
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", cmd, err, errUsage)
		}
		used := len(args) - fs.NArg()
		if used > 0 && args[used-1] == "--" || fs.NArg() == 0 {
			c.args = append(c.args, fs.Args()...)
			break
		}
		c.args, args = append(c.args, fs.Arg(0)), fs.Args()[1:]
		if cmd == "exec" && len(args) > 0 && args[0] == "--" {
			c.args = append(c.args, args[1:]...)
			break
		}
	}
	switch {
	case (cmd == "up" || cmd == "plan") && c.file == "":
		return nil, fmt.Errorf("%s needs -f FILE: %w", cmd, errUsage)
	case !slices.Contains(topology.Backends, c.backend):
		return nil, fmt.Errorf("no backend %q, there are %s: %w", c.backend, strings.Join(topology.Backends, " and "), errUsage)
	case !slices.Contains(vm.Clients, c.client):
		return nil, fmt.Errorf("no DHCP client %q, there are %s: %w", c.client, strings.Join(vm.Clients, ", "), errUsage)
	case c.format != "svg" && c.format != "mermaid":
		return nil, fmt.Errorf("no format %q, there are svg and mermaid: %w", c.format, errUsage)
	case cmd == "exec" && len(c.args) < 2:
		return nil, fmt.Errorf("exec VM -- CMD...: %w", errUsage)
	case cmd == "explain" && len(c.args) < 2:
		return nil, fmt.Errorf("explain WHAT NAME: %w", errUsage)
	case cmd != "exec" && cmd != "explain" && len(c.args) > 0:
		return nil, fmt.Errorf("%s: what is %q?: %w", cmd, c.args[0], errUsage)
	}
	return c, nil
}

// read parses the topology file.
func (c *cli) read() (*topology.Cloud, error) {
	text, err := os.ReadFile(c.file)
	if err != nil {
		return nil, err
	}
	t, err := topology.Parse(c.file, text, c.backend)
	if err != nil {
		return nil, err
	}
	switch c.backend {
	case topology.OVN:
		t.Limits = limitsOVN()
	case topology.OVS:
		t.Limits = limitsOVS()
	}
	return t, nil
}

// running finds the cloud that a command without a file is about.
func (c *cli) running() (*machine.Machine, *topology.Cloud, error) {
	if c.name == "" {
		entries, _ := os.ReadDir(c.stateDir)
		var names []string
		for _, e := range entries {
			if e.IsDir() {
				names = append(names, e.Name())
			}
		}
		switch len(names) {
		case 0:
			return nil, nil, errors.New("no cloud is up")
		case 1:
			c.name = names[0]
		default:
			return nil, nil, fmt.Errorf("several clouds are up (%s), --name says which: %w", strings.Join(names, ", "), errUsage)
		}
	}
	m := c.machine(c.name)
	var t topology.Cloud
	b, err := os.ReadFile(filepath.Join(m.Dir, cloudFile))
	if err == nil {
		err = json.Unmarshal(b, &t)
	}
	if err != nil {
		return m, nil, fmt.Errorf("cloud %s is not up, or only half: %w", c.name, err)
	}
	return m, &t, nil
}

func (c *cli) machine(name string) *machine.Machine {
	return &machine.Machine{Name: name, Dir: filepath.Join(c.stateDir, name)}
}

func (c *cli) printJSON(v any) error {
	e := json.NewEncoder(c.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func (c *cli) schema(context.Context) error { return c.printJSON(topology.Schema()) }

// plan prints what up would do. It changes nothing.
func (c *cli) plan(ctx context.Context) error {
	t, err := c.read()
	if err != nil {
		return err
	}
	m := c.machine(t.Name)
	p, err := planAll(ctx, m, t, c.client)
	if err != nil {
		return err
	}
	if c.json {
		if p.Changes == nil {
			p.Changes = []vnet.Change{}
		}
		return c.printJSON(p)
	}
	fmt.Fprint(c.out, p)
	return nil
}
