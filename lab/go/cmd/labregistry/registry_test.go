package main

import (
	"archive/tar"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/net/dns/dnsmessage"

	"kube-pet.dev/lab/internal/ocistore"
)

const (
	public = "registry.k8s.io/pause"
	secret = "private.lab/e2e/pause"
)

// started serves a layout with one image under a public and a private name.
func started(t *testing.T) (*httptest.Server, ocispec.Descriptor) {
	t.Helper()
	store := ocistore.Open(t.TempDir())
	config, err := store.PutBytes(ocispec.MediaTypeImageConfig, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config})
	if err != nil {
		t.Fatal(err)
	}
	desc, err := store.PutBytes(ocispec.MediaTypeImageManifest, manifest)
	if err != nil {
		t.Fatal(err)
	}
	var images []ocispec.Descriptor
	for _, name := range []string{public + ":1", secret + ":1"} {
		desc.Annotations = map[string]string{ocispec.AnnotationRefName: name}
		images = append(images, desc)
	}
	if err := store.Publish(images); err != nil {
		t.Fatal(err)
	}
	registry := newRegistry(store, []string{"private.lab"}, "me", "pw")
	registry.scratch = ocistore.Open(t.TempDir())
	server := httptest.NewServer(registry)
	t.Cleanup(server.Close)
	return server, config
}

// expect sends a request and checks the status; credentials are "user:password", host overrides the Host header.
func expect(t *testing.T, server *httptest.Server, method, path, credentials, host string, status int) string {
	t.Helper()
	req, err := http.NewRequest(method, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if user, password, ok := strings.Cut(credentials, ":"); ok {
		req.SetBasicAuth(user, password)
	}
	if host != "" {
		req.Host = host
	}
	resp, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != status {
		t.Errorf("%s %s as %q at %q: %d, want %d: %s", method, path, credentials, host, resp.StatusCode, status, body)
	}
	return string(body)
}

func TestAnImageWithAProgramMore(t *testing.T) {
	server, _ := started(t)
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, []byte("it runs"), 0o600); err != nil {
		t.Fatal(err)
	}
	put := "/lab/images?ref=docker.io/test/more:1&from=" + public + ":1&as=bin/program&file="
	expect(t, server, "PUT", put+file+"-not", "", "", http.StatusInternalServerError)
	expect(t, server, "PUT", put+file, "", "", http.StatusOK)
	var manifest ocispec.Manifest
	if err := json.Unmarshal([]byte(expect(t, server, "GET", "/v2/docker.io/test/more/manifests/1", "", "", http.StatusOK)), &manifest); err != nil {
		t.Fatal(err)
	}
	blob := func(d digest.Digest) string {
		return expect(t, server, "GET", "/v2/docker.io/test/more/blobs/"+d.String(), "", "", http.StatusOK)
	}
	var image ocispec.Image
	if err := json.Unmarshal([]byte(blob(manifest.Config.Digest)), &image); err != nil {
		t.Fatal(err)
	}
	if len(manifest.Layers) != 1 || len(image.RootFS.DiffIDs) != 1 || image.RootFS.DiffIDs[0] != manifest.Layers[0].Digest {
		t.Fatalf("layers %v, of which the configuration has %v", manifest.Layers, image.RootFS.DiffIDs)
	}
	layer := tar.NewReader(strings.NewReader(blob(manifest.Layers[0].Digest)))
	header, err := layer.Next()
	if err != nil || header.Name != "bin/program" || header.Mode != 0o755 {
		t.Fatalf("%v, %v", header, err)
	}
	if data, err := io.ReadAll(layer); err != nil || string(data) != "it runs" {
		t.Fatalf("%q, %v", data, err)
	}
}

func TestPull(t *testing.T) {
	server, config := started(t)
	expect(t, server, "GET", "/v2/"+public+"/manifests/1", "", "", 200)
	expect(t, server, "GET", "/v2/"+public+"/manifests/2", "", "", 404)
	expect(t, server, "HEAD", "/v2/"+public+"/blobs/"+config.Digest.String(), "", "", 200)
	expect(t, server, "GET", "/v2/docker.io/other/blobs/"+config.Digest.String(), "", "", 404)
	expect(t, server, "GET", "/v2/"+public+"/blobs/sha256:..%2f..%2findex.json", "", "", 404)
	expect(t, server, "PUT", "/v2/"+public+"/manifests/3", "", "", 405)
	if pulls := expect(t, server, "GET", "/lab/pulls", "", "", 200); pulls != "1 "+public+":1\n1 "+public+":2\n" {
		t.Errorf("pulls: %q", pulls)
	}
}

func TestCredentials(t *testing.T) {
	server, _ := started(t)
	expect(t, server, "GET", "/v2/", "", "", 401)
	expect(t, server, "GET", "/v2/"+secret+"/manifests/1", "", "", 401)
	expect(t, server, "GET", "/v2/"+secret+"/manifests/1", "me:wrong", "", 401)
	expect(t, server, "GET", "/v2/"+secret+"/manifests/1", "me:pw", "", 200)
	expect(t, server, "GET", "/v2/e2e/pause/manifests/1", "me:pw", "private.lab:5555", 200)
	expect(t, server, "GET", "/v2/e2e/pause/manifests/1", "", "private.lab:5555", 401)
}

func TestControl(t *testing.T) {
	server, _ := started(t)
	late := "/v2/docker.io/test/late/manifests/1"
	expect(t, server, "GET", late, "", "", 404)
	expect(t, server, "PUT", "/lab/images?ref=docker.io/test/late:1&from=no/such:1", "", "", 404)
	expect(t, server, "PUT", "/lab/images?ref=docker.io/test/late:1&from="+public+":1", "", "", 200)
	expect(t, server, "GET", late, "", "", 200)
	expect(t, server, "PUT", "/lab/faults?repo=docker.io/test/late&status=503&count=1", "", "", 200)
	expect(t, server, "GET", late, "", "", 503)
	expect(t, server, "GET", late, "", "", 200)
	expect(t, server, "PUT", "/lab/faults?repo=docker.io/test/late&status=200", "", "", 400)
	expect(t, server, "DELETE", "/lab/images?ref=docker.io/test/late:1", "", "", 200)
	expect(t, server, "GET", late, "", "", 404)
}

func TestNames(t *testing.T) {
	names, err := newNameServer("10.1.2.3", []string{"Other.example=10.9.9.9"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"private.lab.": "10.1.2.3", "other.example.": "10.9.9.9", "registry.k8s.io.": ""} {
		query := dnsmessage.Message{Questions: []dnsmessage.Question{
			{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
		}}
		packed, err := query.Pack()
		if err != nil {
			t.Fatal(err)
		}
		var reply dnsmessage.Message
		if err := reply.Unpack(names.answer(packed)); err != nil {
			t.Fatal(err)
		}
		if want == "" {
			if reply.RCode != dnsmessage.RCodeNameError {
				t.Errorf("%s: %s, want NXDOMAIN", name, reply.RCode)
			}
			continue
		}
		if len(reply.Answers) != 1 || reply.Answers[0].Body.GoString() != addressBody(dnsmessage.TypeA, netip.MustParseAddr(want)).GoString() {
			t.Errorf("%s: %v, want %s", name, reply.Answers, want)
		}
	}
	if names.answer([]byte("not a query")) != nil {
		t.Error("rubbish was answered")
	}
}
