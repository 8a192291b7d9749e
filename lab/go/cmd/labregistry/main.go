// Command labregistry is the lab's image registry and its name server. It serves an OCI image layout read-only under the names that the images
// really have, can require credentials for some of them, and lets a test make images appear, disappear and fail. See lab/README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"kube-pet.dev/lab/internal/ocistore"
)

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(v string) error { *l = append(*l, v); return nil }

func main() {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	log.SetPrefix("labregistry: ")
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	var private, hosts list
	images := flag.String("images", "", "folder with the OCI image layout to serve")
	scratch := flag.String("scratch", "", "folder for what is new in images that tests make; none can be made when empty")
	addr := flag.String("addr", "127.0.0.1:5555", "address of the registry (plain HTTP)")
	dnsAddr := flag.String("dns", "", "address of the name server; none when empty")
	dnsAnswer := flag.String("dns-answer", "", "address that names under .lab have (default: the host part of --addr)")
	flag.Var(&hosts, "host", "NAME=IP that the name server answers (repeatable)")
	flag.Var(&private, "private", "repositories at or below this path need credentials (repeatable; default private.lab and gcr.io/k8s-authenticated-test)")
	user := flag.String("user", "lab", "user of the private repositories")
	password := flag.String("password", "lab-secret", "password of the private repositories")
	withParent := flag.Bool("with-parent", false, "stop when the process that started this one is gone")
	verbose := flag.Bool("verbose", false, "log each request")
	flag.Parse()
	if *images == "" || flag.NArg() > 0 {
		return errors.New("usage: labregistry --images DIR [flags]; --help lists them")
	}
	if len(private) == 0 {
		private = list{"private.lab", "gcr.io/k8s-authenticated-test"}
	}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if *withParent {
		go stopWithParent(os.Getppid(), stop)
	}

	store := ocistore.Open(*images)
	if _, err := store.Names(); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	reg := newRegistry(store, private, *user, *password)
	reg.verbose = *verbose
	if *scratch != "" {
		reg.scratch = ocistore.Open(*scratch)
	}
	server := &http.Server{Handler: reg, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 3)
	go func() { failed <- server.Serve(listener) }()

	ready := "ready registry=" + listener.Addr().String()
	if *dnsAddr != "" {
		answer := *dnsAnswer
		if answer == "" {
			answer, _, _ = net.SplitHostPort(listener.Addr().String())
		}
		names, err := newNameServer(answer, hosts)
		if err != nil {
			return err
		}
		bound, err := names.listen(*dnsAddr, failed)
		if err != nil {
			return err
		}
		ready += " dns=" + bound
	}
	fmt.Println(ready)

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return server.Close()
	}
}

// stopWithParent polls, because the kernel's parent-death signal follows the parent's thread: it would fire when a thread that merely started this
// process ends.
func stopWithParent(parent int, stop context.CancelFunc) {
	for os.Getppid() == parent {
		time.Sleep(200 * time.Millisecond)
	}
	stop()
}
