// mockd: a light SSH server for the benchmark only. It lets anyone in, runs nothing, and plays one recorded answer.
//
// Every write is held back for one round trip (-rtt), in order, as a distant host would seem to the client; the first one
// (the banner) for two, since on loopback the TCP handshake itself costs nothing. An answer takes as long as the script does
// (-exec).
// On an address of -hang the TCP connection is accepted and nothing is ever said.
//
// The recorded answer holds the nonces of its recording as \x01<index>\x01; they are replaced by those that the client
// sends, in order of appearance. Commands other than the recorded one get the answer as plain text at once.
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

var (
	nonces     = regexp.MustCompile(`(?:RB)?[0-9a-f]{32}`)
	command    = flag.String("command", "", "the exec request whose stdin holds the nonces")
	terminator = flag.String("terminator", "", "the last bytes of what the client sends")
	rtt        = flag.Duration("rtt", 0, "round trip time")
	execTime   = flag.Duration("exec", 0, "how long a script takes")
	template   [2][]byte
	plain      []byte
)

// delayed is a connection whose writes arrive one round trip later.
type delayed struct {
	net.Conn
	queue chan packet
	once  sync.Once
	begun bool
}

type packet struct {
	due  time.Time
	data []byte
}

func delay(c net.Conn) net.Conn {
	d := &delayed{Conn: c, queue: make(chan packet, 256)}
	go func() {
		for p := range d.queue {
			time.Sleep(time.Until(p.due))
			if p.data == nil {
				c.Close()
				continue
			}
			c.Write(p.data)
		}
	}()
	return d
}

func (d *delayed) Write(b []byte) (n int, err error) {
	defer func() {
		if recover() != nil {
			err = net.ErrClosed
		}
	}()
	due := time.Now().Add(*rtt)
	if !d.begun {
		d.begun = true
		due = due.Add(*rtt)
	}
	d.queue <- packet{due, append([]byte(nil), b...)}
	return len(b), nil
}

func (d *delayed) Close() error {
	d.once.Do(func() {
		d.queue <- packet{time.Now().Add(*rtt), nil}
		close(d.queue)
	})
	return nil
}

func fill(t []byte, found [][]byte) []byte {
	for i, nonce := range found {
		t = bytes.ReplaceAll(t, []byte(fmt.Sprintf("\x01%d\x01", i)), nonce)
	}
	return t
}

func answer(ch ssh.Channel, cmd string) {
	defer ch.Close()
	if cmd != *command {
		time.Sleep(*execTime)
		ch.Write(plain)
	} else {
		var got []byte
		buffer := make([]byte, 32768)
		for !bytes.HasSuffix(got, []byte(*terminator)) {
			n, err := ch.Read(buffer)
			got = append(got, buffer[:n]...)
			if err != nil {
				return
			}
		}
		var found [][]byte
		seen := map[string]bool{}
		for _, m := range nonces.FindAll(got, -1) {
			if !seen[string(m)] {
				seen[string(m)] = true
				found = append(found, m)
			}
		}
		time.Sleep(*execTime)
		ch.Write(fill(template[0], found))
		ch.Stderr().Write(fill(template[1], found))
	}
	ch.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
	ch.CloseWrite()
}

func serve(c net.Conn, config *ssh.ServerConfig) {
	if *rtt > 0 {
		c = delay(c)
	}
	defer c.Close()
	connection, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	defer connection.Close()
	go ssh.DiscardRequests(requests)
	for new := range channels {
		if new.ChannelType() != "session" {
			new.Reject(ssh.UnknownChannelType, "")
			continue
		}
		ch, incoming, err := new.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range incoming {
				ok := r.Type == "exec"
				if r.WantReply {
					r.Reply(ok, nil)
				}
				if ok {
					go answer(ch, string(r.Payload[4:]))
				}
			}
		}()
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		log.Fatal(err)
	}
	return b
}

func main() {
	key := flag.String("key", "", "host key file")
	addresses := flag.String("addresses", "", "file of ip:port lines; a line 'hang ip:port' never speaks")
	stdout := flag.String("stdout", "", "recorded stdout")
	stderr := flag.String("stderr", "", "recorded stderr")
	plainFile := flag.String("plain", "", "the answer as plain text")
	flag.Parse()
	template[0], template[1] = must(os.ReadFile(*stdout)), must(os.ReadFile(*stderr))
	plain = must(os.ReadFile(*plainFile))
	signer, err := ssh.ParsePrivateKey(must(os.ReadFile(*key)))
	if err != nil {
		log.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
		return nil, nil
	}}
	config.AddHostKey(signer)
	file, err := os.Open(*addresses)
	if err != nil {
		log.Fatal(err)
	}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		address := strings.TrimPrefix(lines.Text(), "hang ")
		hang := address != lines.Text()
		if !strings.HasPrefix(address, "127.") {
			log.Fatal("mockd listens on loopback addresses only: ", address)
		}
		listener, err := net.Listen("tcp", address)
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			for {
				c, err := listener.Accept()
				if err != nil {
					return
				}
				if hang {
					go io.Copy(io.Discard, c) // read what comes, until the client goes; say nothing
					continue
				}
				go serve(c, config)
			}
		}()
	}
	fmt.Println("ready")
	// Its starter holds stdin: when that is gone, so is the fleet.
	os.Stdin.Read(make([]byte, 1))
}
