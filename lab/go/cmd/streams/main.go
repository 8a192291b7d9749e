// Command streams runs a command in a container with client-go's executors, over the protocol that it is told: what programs do that are not kubectl.
//
//	streams -kubeconfig F -namespace N -pod P [-container C] -protocol spdy|websocket [-stdin] [-tty COLUMNSxROWS] COMMAND…
//
// It exits with the command's code, and with 125 when there is none.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
)

func main() {
	kubeconfig := flag.String("kubeconfig", "", "credentials")
	namespace := flag.String("namespace", "default", "the pod's namespace")
	pod := flag.String("pod", "", "the pod")
	container := flag.String("container", "", "the container")
	protocol := flag.String("protocol", "", "spdy or websocket")
	stdin := flag.Bool("stdin", false, "carry stdin")
	tty := flag.String("tty", "", "a terminal of this size")
	flag.Parse()
	err := run(*kubeconfig, *namespace, *pod, *protocol, *tty, &corev1.PodExecOptions{
		Container: *container, Command: flag.Args(), Stdin: *stdin, Stdout: true, Stderr: *tty == "", TTY: *tty != "",
	})
	var code exec.CodeExitError
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(code.Code)
	default:
		fmt.Fprintln(os.Stderr, "streams:", err)
		os.Exit(125)
	}
}

func run(kubeconfig, namespace, pod, protocol, tty string, options *corev1.PodExecOptions) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	request := client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(options, scheme.ParameterCodec)
	executor, err := newExecutor(config, protocol, request)
	if err != nil {
		return err
	}
	streams := remotecommand.StreamOptions{Stdout: os.Stdout, Tty: options.TTY}
	if options.Stdin {
		streams.Stdin = os.Stdin
	}
	if options.Stderr {
		streams.Stderr = os.Stderr
	}
	if tty != "" {
		size := &once{}
		if _, err := fmt.Sscanf(strings.ReplaceAll(tty, "x", " "), "%d %d", &size.size.Width, &size.size.Height); err != nil {
			return fmt.Errorf("-tty %s: %w", tty, err)
		}
		streams.TerminalSizeQueue = size
	}
	return executor.StreamWithContext(context.Background(), streams)
}

func newExecutor(config *rest.Config, protocol string, request *rest.Request) (remotecommand.Executor, error) {
	switch protocol {
	case "spdy":
		return remotecommand.NewSPDYExecutor(config, "POST", request.URL())
	case "websocket":
		return remotecommand.NewWebSocketExecutor(config, "GET", request.URL().String())
	}
	return nil, fmt.Errorf("-protocol %q is neither spdy nor websocket", protocol)
}

// once is a terminal whose size is told once.
type once struct {
	size remotecommand.TerminalSize
	told bool
}

func (o *once) Next() *remotecommand.TerminalSize {
	if o.told {
		return nil
	}
	o.told = true
	return &o.size
}
