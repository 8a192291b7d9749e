//go:build pins

package main

// Packages that are only ever built by name (build.sh); importing them here keeps `go mod tidy` from dropping what they need.
import (
	_ "k8s.io/kubernetes/test/e2e"
)
