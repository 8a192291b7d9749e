// Command metrics-server is the metrics-server of its own module: what `kubectl top` and the HorizontalPodAutoscaler ask. It is a module of its own
// because it is released against an older Kubernetes than the lab's.
package main

import (
	"os"

	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/cli"
	"sigs.k8s.io/metrics-server/cmd/metrics-server/app"
)

func main() {
	os.Exit(cli.Run(app.NewMetricsServerCommand(genericapiserver.SetupSignalHandler())))
}
