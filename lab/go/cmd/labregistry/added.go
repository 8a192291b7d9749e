package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// withFile makes an image that is another one with a program added, under the path as. What is new of it goes into the scratch folder: the
// layout that is served belongs to others, too.
func (g *registry) withFile(base ocispec.Descriptor, file, as string) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	if g.scratch == nil {
		return none, errors.New("file= needs a registry that was started with --scratch")
	}
	var manifest ocispec.Manifest
	var image ocispec.Image
	if err := g.readDocument(base.Digest, &manifest); err != nil {
		return none, err
	}
	if err := g.readDocument(manifest.Config.Digest, &image); err != nil {
		return none, err
	}
	layer, err := g.scratch.Put(ocispec.MediaTypeImageLayer, func(w io.Writer) error { return archive(w, file, as) })
	if err != nil {
		return none, err
	}
	image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, layer.Digest)
	image.History = append(image.History, ocispec.History{CreatedBy: "labregistry"})
	if manifest.Config, err = g.putDocument(ocispec.MediaTypeImageConfig, image); err != nil {
		return none, err
	}
	manifest.Layers = append(manifest.Layers, layer)
	return g.putDocument(ocispec.MediaTypeImageManifest, manifest)
}

// archive writes a layer of one program.
func archive(w io.Writer, file, as string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	layer := tar.NewWriter(w)
	if err := layer.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: as, Size: info.Size(), Mode: 0o755, Format: tar.FormatPAX}); err != nil {
		return err
	}
	if _, err := io.Copy(layer, f); err != nil {
		return err
	}
	return layer.Close()
}

func (g *registry) putDocument(mediaType string, value any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return g.scratch.PutBytes(mediaType, data)
}

func (g *registry) readDocument(d digest.Digest, value any) error {
	data, err := g.readBlob(d)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, value); err != nil {
		return fmt.Errorf("parsing %s: %w", d, err)
	}
	return nil
}

func (g *registry) readBlob(d digest.Digest) ([]byte, error) {
	path, err := g.blobPath(d)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// blobPath is where a blob is: in the layout, else in the scratch folder.
func (g *registry) blobPath(d digest.Digest) (string, error) {
	path, err := g.store.BlobPath(d)
	if err != nil || g.scratch == nil {
		return path, err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return g.scratch.BlobPath(d)
}
