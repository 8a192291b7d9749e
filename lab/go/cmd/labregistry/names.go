package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer answers at once: names under .lab and the ones it was told have addresses, nothing else exists. A machine whose own resolver never
// answers would hold up each pull of an image that does not exist for a minute.
type nameServer struct {
	lab   netip.Addr
	hosts map[string]netip.Addr // by lower-case name with the final dot
}

func newNameServer(lab string, hosts []string) (*nameServer, error) {
	addr, err := netip.ParseAddr(lab)
	if err != nil {
		return nil, fmt.Errorf("--dns-answer: %w", err)
	}
	s := &nameServer{lab: addr, hosts: map[string]netip.Addr{}}
	for _, h := range hosts {
		name, ip, _ := strings.Cut(h, "=")
		addr, err := netip.ParseAddr(ip)
		if err != nil || name == "" {
			return nil, fmt.Errorf("--host %q: want NAME=IP", h)
		}
		s.hosts[strings.ToLower(strings.TrimSuffix(name, "."))+"."] = addr
	}
	return s, nil
}

// listen serves UDP and TCP on the same port and returns the address.
func (s *nameServer) listen(addr string, failed chan<- error) (string, error) {
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return "", fmt.Errorf("name server: %w", err)
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		return "", fmt.Errorf("name server: %w", err)
	}
	go func() { failed <- s.serveUDP(udp) }()
	go func() { failed <- s.serveTCP(tcp) }()
	return tcp.Addr().String(), nil
}

func (s *nameServer) serveUDP(conn net.PacketConn) error {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("name server: %w", err)
		}
		if reply := s.answer(buf[:n]); reply != nil {
			_, _ = conn.WriteTo(reply, from)
		}
	}
}

func (s *nameServer) serveTCP(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return fmt.Errorf("name server: %w", err)
		}
		go s.serveConn(conn)
	}
}

func (s *nameServer) serveConn(conn net.Conn) {
	defer conn.Close()
	for {
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		var size uint16
		if binary.Read(conn, binary.BigEndian, &size) != nil {
			return
		}
		query := make([]byte, size)
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		reply := s.answer(query)
		if reply == nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)); err != nil {
			return
		}
	}
}

// answer returns the reply to a query, or nil for what is not one.
func (s *nameServer) answer(query []byte) []byte {
	var p dnsmessage.Parser
	head, err := p.Start(query)
	if err != nil || head.Response {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	name := strings.ToLower(q.Name.String())
	addr, found := s.hosts[name]
	if !found && strings.HasSuffix(name, ".lab.") {
		addr, found = s.lab, true
	}
	msg := dnsmessage.Message{
		Header: dnsmessage.Header{
			ID: head.ID, Response: true, Authoritative: true, RecursionDesired: head.RecursionDesired, RecursionAvailable: true,
		},
		Questions: []dnsmessage.Question{q},
	}
	if !found {
		msg.RCode = dnsmessage.RCodeNameError
	} else if body := addressBody(q.Type, addr); body != nil {
		msg.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 5}, Body: body}}
	}
	reply, err := msg.Pack()
	if err != nil {
		return nil
	}
	return reply
}

func addressBody(t dnsmessage.Type, addr netip.Addr) dnsmessage.ResourceBody {
	switch {
	case t == dnsmessage.TypeA && addr.Is4():
		return &dnsmessage.AResource{A: addr.As4()}
	case t == dnsmessage.TypeAAAA && addr.Is6():
		return &dnsmessage.AAAAResource{AAAA: addr.As16()}
	default:
		return nil
	}
}
