package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layer writes one layer's archive. The first error sticks, and whoever reads the layer's descriptor gets it.
type layer struct {
	tar *tar.Writer
	err error
}

// made is the one time stamp of everything in the images, so that equal contents make equal digests.
var made = time.Unix(1767225600, 0).UTC()

// layer stores what write puts into an archive. Layers are not compressed: they only ever travel over this machine's loopback.
func (b *builder) layer(write func(*layer)) ocispec.Descriptor {
	if b.err != nil {
		return ocispec.Descriptor{}
	}
	desc, err := b.store.Put(ocispec.MediaTypeImageLayer, func(w io.Writer) error {
		l := &layer{tar: tar.NewWriter(w)}
		write(l)
		return errors.Join(l.err, l.tar.Close())
	})
	b.err = err
	return desc
}

func (l *layer) add(header *tar.Header, write func(io.Writer) error) {
	if l.err != nil {
		return
	}
	header.ModTime, header.AccessTime, header.ChangeTime = made, time.Time{}, time.Time{}
	header.Uname, header.Gname = "", ""
	header.Format = tar.FormatPAX
	err := l.tar.WriteHeader(header)
	if err == nil && write != nil {
		err = write(l.tar)
	}
	if err != nil {
		l.err = fmt.Errorf("adding %s: %w", header.Name, err)
	}
}

func (l *layer) dir(name string, mode int64) {
	l.add(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode}, nil)
}

func (l *layer) link(name, target string) {
	l.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

func (l *layer) text(name, data string) {
	l.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: 0o644}, func(w io.Writer) error {
		_, err := io.WriteString(w, data)
		return err
	})
}

// extended adds the file that a tree has under this name, with more text at its end.
func (l *layer) extended(name, tree, more string) {
	data, err := os.ReadFile(filepath.Join(tree, name))
	if err != nil {
		l.err = errors.Join(l.err, err)
		return
	}
	l.text(name, string(data)+more)
}

// file adds the contents of the file src.
func (l *layer) file(name, src string, mode int64) {
	if l.err != nil {
		return
	}
	info, err := os.Stat(src)
	if err != nil {
		l.err = err
		return
	}
	l.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: info.Size(), Mode: mode}, copyFrom(src))
}

// tree adds everything below the folder dir, with its owners and modes. Hard links become copies.
func (l *layer) tree(dir string) {
	if l.err != nil {
		return
	}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		target := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		header, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		if header.Name, err = filepath.Rel(dir, path); err != nil {
			return err
		}
		if info.IsDir() {
			header.Name += "/"
		}
		if info.Mode().IsRegular() {
			l.add(header, copyFrom(path))
		} else {
			l.add(header, nil)
		}
		return l.err
	})
	l.err = errors.Join(l.err, err)
}

func copyFrom(path string) func(io.Writer) error {
	return func(w io.Writer) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	}
}
