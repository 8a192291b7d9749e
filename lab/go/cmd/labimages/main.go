// Command labimages writes the images that the lab's pods run into an OCI image layout, under the names of the real images that they stand in for.
// See lab/README.md.
package main

import (
	"flag"
	"fmt"
	"log"

	"kube-pet.dev/lab/internal/ocistore"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("labimages: ")
	out := flag.String("out", "", "folder of the OCI image layout to write")
	trees := flag.String("trees", "", "what images/trees.sh made")
	programs := flag.String("programs", "", "folder with the Go programs that the images hold")
	coredns := flag.String("coredns", "", "the CoreDNS program")
	kubernetes := flag.String("kubernetes", "", "Kubernetes' source, for the images' data files")
	flag.Parse()
	if *out == "" || *trees == "" || *programs == "" || *coredns == "" || *kubernetes == "" || flag.NArg() > 0 {
		log.Fatal("--out, --trees, --programs, --coredns and --kubernetes are needed")
	}
	b := &builder{store: ocistore.Open(*out)}
	if err := b.testImages(sources{*trees, *programs, *coredns, *kubernetes}); err != nil {
		log.Fatal(err)
	}
	if err := b.store.Publish(b.images); err != nil {
		log.Fatal(err)
	}
	for _, image := range b.images {
		fmt.Println(image.Annotations["org.opencontainers.image.ref.name"])
	}
}
