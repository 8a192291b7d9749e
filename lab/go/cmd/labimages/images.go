package main

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kube-pet.dev/lab/internal/ocistore"
)

type builder struct {
	store  *ocistore.Store
	images []ocispec.Descriptor
	err    error // the first; everything after it does nothing
}

// sources is where the images' contents come from.
type sources struct{ trees, programs, coredns, kubernetes string }

func (s sources) tree(name string) string    { return filepath.Join(s.trees, "trees", name) }
func (s sources) program(name string) string { return filepath.Join(s.programs, name) }
func (s sources) data(name string) string {
	return filepath.Join(s.kubernetes, "test/images", name)
}

const (
	release = "registry.k8s.io/"
	e2e     = release + "e2e-test-images/"
	// private is a registry that asks for credentials.
	private = "private.lab/e2e/"
)

// testImages makes the images that the official suite's node, network and apps specs use, and a few that manifests of all kinds use.
// Names and versions are those of test/utils/image/manifest.go.
func (b *builder) testImages(s sources) error {
	tools := b.layer(func(l *layer) { l.tree(s.tree("tools")) })
	perl := b.layer(func(l *layer) { l.tree(s.tree("perl")) })
	nginx := b.layer(func(l *layer) { l.tree(s.tree("nginx")) })
	conntrack := b.layer(func(l *layer) { l.tree(s.tree("conntrack")) })
	busybox := b.busybox(filepath.Join(s.trees, "bin/busybox"))
	pause := b.layer(func(l *layer) { l.file("pause", filepath.Join(s.trees, "bin/pause"), 0o755) })
	one := func(name, program string, mode int64) ocispec.Descriptor {
		return b.layer(func(l *layer) { l.file(name, program, mode) })
	}

	// agnhost's fake registry serves the pause image, so it comes first.
	pauseImage := b.image(ocispec.ImageConfig{Entrypoint: []string{"/pause"}, User: "65535:65535"}, pause)
	b.name(pauseImage, release+"pause:3.10.2", release+"pause:3.10.1", release+"pause:3.10", release+"pause:3.9", private+"pause:1")

	agnhost := b.agnhost(s, pauseImage)
	agnhostConfig := ocispec.ImageConfig{
		Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, ExposedPorts: ports(80, 5000, 8080, 8081, 9376),
	}
	b.name(b.image(agnhostConfig, tools, agnhost),
		e2e+"agnhost:2.66.1", e2e+"agnhost:2.55", private+"agnhost:1", "gcr.io/k8s-authenticated-test/agnhost:2.6")
	for _, name := range []string{"kitten", "nautilus"} {
		html := b.layer(func(l *layer) { l.tree(filepath.Join(s.data(name), "html")) })
		b.name(b.image(ocispec.ImageConfig{Entrypoint: []string{"/agnhost"}, Cmd: []string{"test-webserver"}}, tools, agnhost, html), e2e+name+":1.8")
	}

	shell := ocispec.ImageConfig{Cmd: []string{"sh"}}
	b.name(b.image(shell, busybox), e2e+"busybox:1.37.0-2", e2e+"busybox:1.36.1-1", private+"busybox:1",
		"docker.io/library/busybox:latest", "docker.io/library/busybox:1.37", "docker.io/library/busybox:1.37.0")
	bash := ocispec.ImageConfig{Cmd: []string{"bash"}}
	b.name(b.image(bash, tools), e2e+"glibc-dns-testing:2.1.1", e2e+"ipc-utils:1.4")
	b.name(b.image(ocispec.ImageConfig{Cmd: []string{"bash"}, User: "1234"}, tools), e2e+"nonroot:1.5")
	b.name(b.image(ocispec.ImageConfig{Cmd: []string{"perl", "-de0"}}, tools, perl), e2e+"perl:5.26")
	b.name(b.image(bash, tools, conntrack), release+"build-image/distroless-iptables:v0.9.7")
	web := ocispec.ImageConfig{Cmd: []string{"nginx", "-g", "daemon off;"}, ExposedPorts: ports(80), StopSignal: "SIGQUIT"}
	b.name(b.image(web, tools, nginx), e2e+"nginx:1.27.0-2", e2e+"nginx:1.28.0-2",
		"docker.io/library/nginx:latest", "docker.io/library/nginx:1.27", "docker.io/library/nginx:1.28")

	b.name(b.image(ocispec.ImageConfig{Cmd: []string{"nnp"}}, busybox, one("usr/local/bin/nnp", s.program("nnp"), 0o6755)), e2e+"nonewprivs:1.4")
	b.name(b.image(ocispec.ImageConfig{Entrypoint: []string{"/regression-issue-74839"}}, busybox,
		one("regression-issue-74839", s.program("regression-issue-74839"), 0o755)), e2e+"regression-issue-74839:1.5")
	consumer := b.layer(func(l *layer) {
		l.file("consumer", s.program("consumer"), 0o755)
		l.file("consume-cpu", s.program("consume-cpu"), 0o755)
	})
	b.name(b.image(ocispec.ImageConfig{Entrypoint: []string{"/consumer"}, ExposedPorts: ports(8080)}, tools, consumer), e2e+"resource-consumer:1.14")
	b.name(b.image(ocispec.ImageConfig{Entrypoint: []string{"/sample-apiserver"}}, busybox,
		one("sample-apiserver", s.program("sample-apiserver"), 0o755)), e2e+"sample-apiserver:1.29.2")
	b.name(b.image(ocispec.ImageConfig{Cmd: []string{"/usr/local/bin/etcd"}}, busybox,
		one("usr/local/bin/etcd", s.program("etcd"), 0o755)), release+"etcd:3.7.0-0")
	b.name(b.image(ocispec.ImageConfig{Entrypoint: []string{"/coredns"}, ExposedPorts: ports(53)}, one("coredns", s.coredns, 0o755)),
		release+"coredns/coredns:v1.14.0")
	return b.err
}

func (b *builder) busybox(program string) ocispec.Descriptor {
	return b.layer(func(l *layer) {
		applets, err := exec.Command(program, "--list").Output()
		if err != nil {
			l.err = fmt.Errorf("asking %s for its applets: %w", program, err)
			return
		}
		for _, d := range []string{"bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "usr/bin", "usr/local", "usr/local/bin", "var"} {
			l.dir(d, 0o755)
		}
		l.dir("tmp", 0o1777)
		l.dir("var/tmp", 0o1777)
		l.file("bin/busybox", program, 0o755)
		for _, applet := range strings.Fields(string(applets)) {
			if applet != "busybox" {
				l.link("bin/"+applet, "busybox")
			}
		}
		l.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nbin:x:2:2:bin:/bin:/bin/false\n"+
			"nobody:x:65534:65534:nobody:/home:/bin/false\n")
		l.text("etc/group", "root:x:0:\ndaemon:x:1:\nbin:x:2:\nnobody:x:65534:\n")
		l.text("etc/nsswitch.conf", "hosts: files dns\n")
	})
}

// agnhost is what the real image's Dockerfile adds to its base.
func (b *builder) agnhost(s sources, pause ocispec.Descriptor) ocispec.Descriptor {
	return b.layer(func(l *layer) {
		l.extended("etc/passwd", s.tree("tools"), "user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh\n")
		l.extended("etc/group", s.tree("tools"), "user-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n")
		// The ImageVolume specs assert that the words "Alpine Linux", the real image's base, are in here.
		l.text("etc/os-release", "PRETTY_NAME=\"Debian GNU/Linux 12, standing in for Alpine Linux\"\nNAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_ID=12\n")
		l.dir("uploads", 0o755)
		l.file("localhost.crt", s.data("agnhost/porter/localhost.crt"), 0o644)
		l.file("localhost.key", s.data("agnhost/porter/localhost.key"), 0o644)
		l.file("agnhost", s.program("agnhost"), 0o755)
		l.link("agnhost-2", "agnhost")
		l.file("coredns", s.coredns, 0o755)
		b.fakeRegistry(l, pause)
	})
}

// fakeRegistry adds the folder that `agnhost fake-registry-server` serves pause:testing from, as prepare_registry.sh lays it out.
func (b *builder) fakeRegistry(l *layer, image ocispec.Descriptor) {
	const base = "var/registry/pause/"
	put := func(folder string, d digest.Digest, data []byte) {
		l.text(fmt.Sprintf("%s%s/%s/%s/%s/data", base, folder, d.Algorithm(), d.Encoded()[:2], d.Encoded()), string(data))
	}
	image.Platform = &ocispec.Platform{Architecture: "amd64", OS: "linux"}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{image},
	})
	if err != nil {
		l.err = err
		return
	}
	data, err := b.store.ReadBlob(image.Digest)
	if err != nil {
		l.err = err
		return
	}
	var manifest ocispec.Manifest
	if l.err = json.Unmarshal(data, &manifest); l.err != nil {
		return
	}
	put("manifests", digest.FromBytes(index), index)
	put("manifests", image.Digest, data)
	l.text(base+"manifests/testing", digest.FromBytes(index).String()+"\n")
	for _, part := range append(manifest.Layers, manifest.Config) {
		data, err := b.store.ReadBlob(part.Digest)
		if err != nil {
			l.err = err
			return
		}
		put("blobs", part.Digest, data)
	}
}

// image stores an image's configuration and manifest.
func (b *builder) image(config ocispec.ImageConfig, layers ...ocispec.Descriptor) ocispec.Descriptor {
	if b.err != nil {
		return ocispec.Descriptor{}
	}
	config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	image := ocispec.Image{
		Created: &made, Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}, Config: config,
		RootFS: ocispec.RootFS{Type: "layers"},
	}
	for _, l := range layers {
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, l.Digest)
		image.History = append(image.History, ocispec.History{Created: &made, CreatedBy: "labimages"})
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: layers}
	manifest.Config = b.document(ocispec.MediaTypeImageConfig, image)
	return b.document(ocispec.MediaTypeImageManifest, manifest)
}

func (b *builder) document(mediaType string, value any) ocispec.Descriptor {
	data, err := json.Marshal(value)
	if err != nil {
		b.err = err
	}
	if b.err != nil {
		return ocispec.Descriptor{}
	}
	desc, err := b.store.PutBytes(mediaType, data)
	b.err = err
	return desc
}

// name publishes an image under these names.
func (b *builder) name(image ocispec.Descriptor, names ...string) {
	for _, name := range names {
		image.Annotations = map[string]string{ocispec.AnnotationRefName: name}
		b.images = append(b.images, image)
	}
}

func ports(numbers ...int) map[string]struct{} {
	set := map[string]struct{}{}
	for _, n := range numbers {
		set[fmt.Sprintf("%d/tcp", n)] = struct{}{}
	}
	return set
}
