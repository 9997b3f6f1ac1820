package rabbit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

const (
	probeTimeout  = 2 * time.Second
	probeInterval = 50 * time.Millisecond
)

// probeStream reports whether a stream listener at addr answers the handshake's
// first command. An open port is not enough: the listener accepts before the
// broker is ready to answer.
func probeStream(ctx context.Context, addr string) error {
	return withConn(ctx, addr, func(conn net.Conn) error {
		// PeerProperties, version 1, correlation id 1, no properties.
		request := []byte{0, 0, 0, 12, 0, 0x11, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0}
		if _, err := conn.Write(request); err != nil {
			return err
		}
		var head [8]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return err
		}
		if key := binary.BigEndian.Uint16(head[4:]); key != 0x8011 {
			return fmt.Errorf("%s answered PeerProperties with command 0x%04x: not a RabbitMQ stream listener", addr, key)
		}
		return nil
	})
}

// probeAMQP reports whether an AMQP 0-9-1 listener at addr opens a connection.
func probeAMQP(ctx context.Context, addr string) error {
	return withConn(ctx, addr, func(conn net.Conn) error {
		if _, err := conn.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, make([]byte, 7)) // the header of Connection.Start
		return err
	})
}

// probeHTTP reports whether the management API at addr answers.
func probeHTTP(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/api/whoami", nil)
	if err != nil {
		return err
	}
	req.SetBasicAuth(user, password)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("management API at %s: %s", addr, resp.Status)
	}
	return nil
}

func withConn(ctx context.Context, addr string, do func(net.Conn) error) error {
	d := net.Dialer{Timeout: probeTimeout}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(probeTimeout)); err != nil {
		return err
	}
	return do(conn)
}

// ready returns nil when every listener of the node answers.
func (n Node) ready(ctx context.Context) error {
	at := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	if err := probeStream(ctx, at(n.StreamPort)); err != nil {
		return err
	}
	return errors.Join(probeAMQP(ctx, at(n.AMQPPort)), probeHTTP(ctx, at(n.ManagementPort)))
}

// sleep waits for d or for the end of ctx, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
