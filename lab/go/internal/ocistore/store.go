// Package ocistore reads and writes an OCI image layout in which each image is known by its full reference
// (registry host, repository and tag), kept in the org.opencontainers.image.ref.name annotation of the layout's index.
package ocistore

import (
	_ "crypto/sha256" // the algorithm of the digests
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store is an OCI image layout on disk.
type Store struct {
	dir string

	mu      sync.Mutex
	names   map[string]ocispec.Descriptor
	readAt  time.Time // modification time of the index that names was read from
	readLen int64
}

// Open names the layout in dir; nothing is read or created yet.
func Open(dir string) *Store { return &Store{dir: dir} }

// BlobPath is where a blob of this digest is or would be.
func (s *Store) BlobPath(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w", d, err)
	}
	return filepath.Join(s.dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), nil
}

// ReadBlob returns the contents of a small blob (a manifest or a configuration).
func (s *Store) ReadBlob(d digest.Digest) ([]byte, error) {
	path, err := s.BlobPath(d)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// PutBytes stores data and describes it.
func (s *Store) PutBytes(mediaType string, data []byte) (ocispec.Descriptor, error) {
	return s.Put(mediaType, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// Put stores what write produces, without holding it in memory, and describes it. The blob appears by rename.
func (s *Store) Put(mediaType string, write func(io.Writer) error) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	blobs := filepath.Join(s.dir, ocispec.ImageBlobsDir, digest.SHA256.String())
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return none, err
	}
	tmp, err := os.CreateTemp(blobs, ".new-*")
	if err != nil {
		return none, err
	}
	defer os.Remove(tmp.Name())
	sum := digest.SHA256.Digester()
	err = write(io.MultiWriter(tmp, sum.Hash()))
	size, sizeErr := tmp.Seek(0, io.SeekCurrent)
	if err := errors.Join(err, sizeErr, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return none, fmt.Errorf("writing a blob of type %s: %w", mediaType, err)
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: sum.Digest(), Size: size}
	path, err := s.BlobPath(desc.Digest)
	if err != nil {
		return none, err
	}
	return desc, os.Rename(tmp.Name(), path)
}

// Names returns every image's manifest descriptor by the image's full name. The index is read again when it has changed.
func (s *Store) Names() (map[string]ocispec.Descriptor, error) {
	path := filepath.Join(s.dir, ocispec.ImageIndexFile)
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("no image layout: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names != nil && info.ModTime().Equal(s.readAt) && info.Size() == s.readLen {
		return s.names, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("parsing %s: %w", path, err)
	}
	names := make(map[string]ocispec.Descriptor, len(index.Manifests))
	for _, m := range index.Manifests {
		if name := m.Annotations[ocispec.AnnotationRefName]; name != "" {
			names[name] = m
		}
	}
	s.names, s.readAt, s.readLen = names, info.ModTime(), info.Size()
	return names, nil
}

// Publish makes these images, in this order, the layout's whole contents. Readers see the old index or the new one, never a mixture.
// Blobs that no image needs any more are removed afterwards.
func (s *Store) Publish(manifests []ocispec.Descriptor) error {
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: manifests,
	}
	for file, value := range map[string]any{
		ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion},
		ocispec.ImageIndexFile:  index,
	} {
		data, err := json.MarshalIndent(value, "", " ")
		if err != nil {
			return err
		}
		path := filepath.Join(s.dir, file)
		if err := os.WriteFile(path+".new", append(data, '\n'), 0o644); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	}
	return s.sweep(manifests)
}

func (s *Store) sweep(manifests []ocispec.Descriptor) error {
	keep := map[string]bool{}
	for _, desc := range manifests {
		keep[desc.Digest.Encoded()] = true
		data, err := s.ReadBlob(desc.Digest)
		if err != nil {
			return err
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(data, &m); err != nil {
			return fmt.Errorf("parsing manifest %s: %w", desc.Digest, err)
		}
		keep[m.Config.Digest.Encoded()] = true
		for _, l := range m.Layers {
			keep[l.Digest.Encoded()] = true
		}
	}
	blobs := filepath.Join(s.dir, ocispec.ImageBlobsDir, digest.SHA256.String())
	entries, err := os.ReadDir(blobs)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if keep[e.Name()] {
			continue
		}
		if err := os.Remove(filepath.Join(blobs, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
