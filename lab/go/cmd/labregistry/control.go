package main

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// serveControl is the tests' side of the registry, under /lab/.
func (g *registry) serveControl(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	switch r.Method + " " + r.URL.Path {
	case "GET /lab/images":
		names, err := g.names()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		printSorted(w, names, func(name string) string { return name })

	case "PUT /lab/images":
		ref, from := q.Get("ref"), q.Get("from")
		names, err := g.names()
		desc, ok := names[from]
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		case ref == "":
			http.Error(w, "ref= is missing", http.StatusBadRequest)
		case !ok:
			http.Error(w, fmt.Sprintf("from=%q: no such image", from), http.StatusNotFound)
		default:
			if file := q.Get("file"); file != "" {
				if desc, err = g.withFile(desc, file, q.Get("as")); err != nil {
					http.Error(w, err.Error(), http.StatusInternalServerError)
					return
				}
			}
			g.mu.Lock()
			g.overlay[ref] = &desc
			g.mu.Unlock()
			fmt.Fprintln(w, desc.Digest)
		}

	case "DELETE /lab/images":
		g.mu.Lock()
		g.overlay[q.Get("ref")] = nil
		g.mu.Unlock()

	case "GET /lab/pulls":
		g.mu.Lock()
		defer g.mu.Unlock()
		printSorted(w, g.pulls, func(name string) string { return fmt.Sprint(g.pulls[name], " ", name) })

	case "PUT /lab/faults":
		f, err := parseFault(q.Get("status"), q.Get("delay"), q.Get("count"))
		if err != nil || q.Get("repo") == "" {
			http.Error(w, fmt.Sprintf("want repo=, and status= or delay=, and count=: %v", err), http.StatusBadRequest)
			return
		}
		g.mu.Lock()
		g.faults[q.Get("repo")] = f
		g.mu.Unlock()

	case "DELETE /lab/faults":
		g.mu.Lock()
		delete(g.faults, q.Get("repo"))
		g.mu.Unlock()

	default:
		http.Error(w, "see lab/README.md for what /lab/ has", http.StatusNotFound)
	}
}

func parseFault(status, delay, count string) (*fault, error) {
	f := &fault{count: -1}
	var err error
	if status != "" {
		if f.status, err = strconv.Atoi(status); err != nil || f.status < 400 || f.status > 599 {
			return nil, fmt.Errorf("status=%q is not an HTTP error", status)
		}
	}
	if delay != "" {
		if f.delay, err = time.ParseDuration(delay); err != nil {
			return nil, err
		}
	}
	if count != "" && count != "0" {
		if f.count, err = strconv.Atoi(count); err != nil {
			return nil, err
		}
	}
	return f, nil
}

func printSorted[V any](w http.ResponseWriter, m map[string]V, line func(string) string) {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		fmt.Fprintln(w, line(k))
	}
}
