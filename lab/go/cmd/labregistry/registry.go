package main

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"kube-pet.dev/lab/internal/ocistore"
)

// registry answers the pull half of the OCI distribution protocol.
//
// The first component of a repository's path is the registry host that the user wrote, so this one server stands for all of them: clients are
// told to find "registry.k8s.io" at "ADDR:PORT/registry.k8s.io" (registries.conf: prefix and location; containerd: hosts.toml with
// override_path). A request whose Host header is a name under .lab gets that name put in front instead, so "private.lab:PORT/e2e/pause:1" also
// works as a registry of its own, with its own entry in the client's credentials.
type registry struct {
	store          *ocistore.Store
	scratch        *ocistore.Store // of images that tests have made; nil: none can be
	private        []string
	user, password string
	verbose        bool

	mu      sync.Mutex
	overlay map[string]*ocispec.Descriptor // what tests added; nil: removed
	faults  map[string]*fault
	pulls   map[string]int
}

// fault is how requests to a repository go wrong.
type fault struct {
	status int
	delay  time.Duration
	count  int // how many requests are left; negative: no limit
}

func newRegistry(store *ocistore.Store, private []string, user, password string) *registry {
	return &registry{
		store: store, private: private, user: user, password: password,
		overlay: map[string]*ocispec.Descriptor{}, faults: map[string]*fault{}, pulls: map[string]int{},
	}
}

var repoPath = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs|tags)/([^/]+)$`)

func (g *registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.verbose {
		log.Printf("%s %s%s", r.Method, r.Host, r.URL.Path)
	}
	if strings.HasPrefix(r.URL.Path, "/lab/") {
		g.serveControl(w, r)
		return
	}
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read-only")
		return
	}
	if r.URL.Path == "/v2/" || r.URL.Path == "/v2" {
		// Clients learn here, before they name a repository, how to authenticate; public repositories then ignore what they send.
		if r.Header.Get("Authorization") == "" {
			challenge(w)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, "{}")
		return
	}
	m := repoPath.FindStringSubmatch(r.URL.Path)
	if m == nil {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "no such path")
		return
	}
	repo, kind, ref := m[1], m[2], m[3]
	if host := hostname(r.Host); strings.HasSuffix(host, ".lab") {
		repo = host + "/" + repo
	}
	if kind == "manifests" && r.Method == http.MethodGet {
		g.countPull(repo, ref)
	}
	if g.needsAuth(repo) && !g.authorized(r) {
		challenge(w)
		return
	}
	if status := g.takeFault(repo); status != 0 {
		refuse(w, status, "UNKNOWN", "a fault that the lab was asked for")
		return
	}
	switch kind {
	case "manifests":
		g.serveManifest(w, r, repo, ref)
	case "blobs":
		g.serveBlob(w, r, repo, digest.Digest(ref))
	default:
		g.serveTags(w, repo)
	}
}

func (g *registry) serveManifest(w http.ResponseWriter, r *http.Request, repo, ref string) {
	names, err := g.names()
	if err != nil {
		refuse(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	name, want := repo+":"+ref, digest.Digest(ref)
	if want.Validate() == nil {
		name = repo + "@" + ref
		if !knows(names, repo) {
			refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "repository "+repo+" is not known")
			return
		}
	} else if desc, ok := names[name]; ok {
		want = desc.Digest
	} else {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest for "+name+" is not known")
		return
	}
	data, err := g.readBlob(want)
	if err != nil {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest for "+name+" is not known")
		return
	}
	var head struct {
		MediaType string `json:"mediaType"`
	}
	if json.Unmarshal(data, &head) != nil || head.MediaType == "" {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", name+" is not a manifest")
		return
	}
	w.Header().Set("Content-Type", head.MediaType)
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.Header().Set("Docker-Content-Digest", want.String())
	if r.Method == http.MethodGet {
		_, _ = w.Write(data)
	}
}

func (g *registry) serveBlob(w http.ResponseWriter, r *http.Request, repo string, want digest.Digest) {
	names, err := g.names()
	if err != nil {
		refuse(w, http.StatusInternalServerError, "UNKNOWN", err.Error())
		return
	}
	path, err := g.blobPath(want)
	if err != nil || !knows(names, repo) {
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob is not known")
		return
	}
	f, err := os.Open(path)
	if err != nil {
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob is not known")
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", want.String())
	http.ServeContent(w, r, "", time.Time{}, f)
}

func (g *registry) serveTags(w http.ResponseWriter, repo string) {
	names, err := g.names()
	if err != nil || !knows(names, repo) {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "repository "+repo+" is not known")
		return
	}
	tags := []string{}
	for name := range names {
		if tag, ok := strings.CutPrefix(name, repo+":"); ok {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"name": repo, "tags": tags})
}

// names is what the layout holds, with the tests' changes.
func (g *registry) names() (map[string]ocispec.Descriptor, error) {
	stored, err := g.store.Names()
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make(map[string]ocispec.Descriptor, len(stored)+len(g.overlay))
	for name, desc := range stored {
		all[name] = desc
	}
	for name, desc := range g.overlay {
		if desc == nil {
			delete(all, name)
		} else {
			all[name] = *desc
		}
	}
	return all, nil
}

func knows(names map[string]ocispec.Descriptor, repo string) bool {
	for name := range names {
		if strings.HasPrefix(name, repo+":") {
			return true
		}
	}
	return false
}

func (g *registry) needsAuth(repo string) bool {
	return slices.ContainsFunc(g.private, func(p string) bool { return repo == p || strings.HasPrefix(repo, p+"/") })
}

func (g *registry) authorized(r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	return ok && subtle.ConstantTimeCompare([]byte(user), []byte(g.user)) == 1 &&
		subtle.ConstantTimeCompare([]byte(password), []byte(g.password)) == 1
}

// takeFault uses up one of the repository's faults: it waits as long as asked for and returns the status to answer with, or 0.
func (g *registry) takeFault(repo string) int {
	g.mu.Lock()
	f := g.faults[repo]
	if f == nil || f.count == 0 {
		g.mu.Unlock()
		return 0
	}
	f.count--
	status, delay := f.status, f.delay
	g.mu.Unlock()
	time.Sleep(delay)
	return status
}

// countPull counts what was asked for, not what was granted: a test of back-off wants the failures too.
func (g *registry) countPull(repo, ref string) {
	separator := ":"
	if digest.Digest(ref).Validate() == nil {
		separator = "@"
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pulls[repo+separator+ref]++
}

func challenge(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Basic realm="lab"`)
	refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return hostport
}
