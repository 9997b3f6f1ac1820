package rabbit

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// enabledPlugins is what every node runs besides the core.
const enabledPlugins = "[rabbitmq_management,rabbitmq_stream,rabbitmq_stream_management].\n"

// layout is where the broker sees things. base is the instance directory as
// the broker's processes see it (another path than ours when they live in a
// root of their own), listen the address its listeners bind.
type layout struct {
	base    string
	listen  string
	plugins string // where the plugins are, when the tools do not find them; else empty
}

// nodeConf is the node's rabbitmq.conf.
func nodeConf(s *state, n Node, l layout) string {
	var b strings.Builder
	set := func(key string, value any) { fmt.Fprintf(&b, "%s = %v\n", key, value) }
	addr := func(port int) string { return fmt.Sprintf("%s:%d", l.listen, port) }
	set("listeners.tcp.1", addr(n.AMQPPort))
	set("stream.listeners.tcp.1", addr(n.StreamPort))
	set("stream.listeners.ssl.1", addr(n.StreamTLSPort))
	set("stream.advertised_host", "localhost")
	set("stream.advertised_port", n.StreamPort)
	set("stream.advertised_tls_host", "localhost")
	set("stream.advertised_tls_port", n.StreamTLSPort)
	set("ssl_options.cacertfile", path.Join(l.base, certDir, caFile))
	set("ssl_options.certfile", path.Join(l.base, certDir, certFile))
	set("ssl_options.keyfile", path.Join(l.base, certDir, keyFile))
	set("ssl_options.verify", "verify_none")
	set("management.tcp.ip", l.listen)
	set("management.tcp.port", n.ManagementPort)
	// A test machine with a nearly full disk must not block publishers.
	set("disk_free_limit.absolute", "1MB")
	if l.listen != "127.0.0.1" {
		set("loopback_users", "none") // clients come from another address
	}
	if len(s.Nodes) > 1 {
		// The nodes find each other while they boot: no join_cluster, which
		// costs three runs of rabbitmqctl for every node.
		set("cluster_formation.peer_discovery_backend", "classic_config")
		for i, peer := range s.Nodes {
			set(fmt.Sprintf("cluster_formation.classic_config.nodes.%d", i+1), peer.erlangName())
		}
	}
	return b.String()
}

// advancedConf is the node's advanced.config: what rabbitmq.conf cannot say.
// A replica of a stream listens in the range until its leader has connected
// with the token it was given, some milliseconds. It binds every interface, and
// has no setting for that; the range keeps instances apart.
func advancedConf(s *state) string {
	return fmt.Sprintf("[{osiris, [{port_range, {%d, %d}}]}].\n", s.OsirisMin, s.OsirisMax)
}

// nodeEnv is the environment of the node's processes, server and tools alike.
func nodeEnv(s *state, n Node, l layout) []string {
	home := path.Join(l.base, n.Name)
	env := []string{
		"HOME=" + path.Join(l.base, "home"),
		"LANG=C.UTF-8",
		"ERL_CRASH_DUMP=" + path.Join(home, "log", "erl_crash.dump"),
		"ERL_EPMD_ADDRESS=127.0.0.1",
		fmt.Sprintf("ERL_EPMD_PORT=%d", s.EpmdPort),
		"RABBITMQ_NODENAME=" + n.erlangName(),
		fmt.Sprintf("RABBITMQ_DIST_PORT=%d", n.DistPort),
		"RABBITMQ_MNESIA_BASE=" + path.Join(home, "data"),
		"RABBITMQ_LOG_BASE=" + path.Join(home, "log"),
		"RABBITMQ_SCHEMA_DIR=" + path.Join(home, "schema"),
		"RABBITMQ_GENERATED_CONFIG_DIR=" + path.Join(home, "config"),
		// Not the machine's own configuration.
		"RABBITMQ_CONF_ENV_FILE=" + path.Join(home, "rabbitmq-env.conf"),
		"RABBITMQ_CONFIG_FILES=" + path.Join(home, "conf.d", "*.conf"),
		"RABBITMQ_CONFIG_FILE=" + path.Join(home, "rabbitmq.conf"),
		"RABBITMQ_ADVANCED_CONFIG_FILE=" + path.Join(home, "advanced.config"),
		"RABBITMQ_ENABLED_PLUGINS_FILE=" + path.Join(home, "enabled_plugins"),
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1}",
		// The script then becomes the broker instead of watching over it, so
		// that the process we started is the one to signal.
		"RUNNING_UNDER_SYSTEMD=true",
	}
	if l.plugins != "" {
		env = append(env, "RABBITMQ_PLUGINS_DIR="+l.plugins)
	}
	return env
}

// writeInstanceFiles makes what the instance's nodes read, where missing.
func writeInstanceFiles(dir string, s *state, l layout) error {
	if err := ensureCerts(filepath.Join(dir, certDir)); err != nil {
		return err
	}
	home := filepath.Join(dir, "home")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return err
	}
	cookie := filepath.Join(home, ".erlang.cookie")
	if _, err := os.Stat(cookie); err != nil {
		if err := os.WriteFile(cookie, []byte(s.Cookie), 0o400); err != nil {
			return err
		}
	}
	for _, n := range s.Nodes {
		if err := writeNodeFiles(dir, s, n, l); err != nil {
			return err
		}
	}
	return nil
}

// writeNodeFiles makes the node's directory and configuration, where missing:
// what somebody changed by hand to try something stays until down.
func writeNodeFiles(dir string, s *state, n Node, l layout) error {
	home := filepath.Join(dir, n.Name)
	for _, sub := range []string{"data", "log", "schema", "config", "conf.d"} {
		if err := os.MkdirAll(filepath.Join(home, sub), 0o755); err != nil {
			return err
		}
	}
	files := map[string]string{
		"rabbitmq.conf":   nodeConf(s, n, l),
		"advanced.config": advancedConf(s),
		"enabled_plugins": enabledPlugins,

		"rabbitmq-env.conf": "",
	}
	for name, content := range files {
		path := filepath.Join(home, name)
		if _, err := os.Stat(path); err == nil {
			continue
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}
