"""What Python programs do with a pod's streams: the official client's, over WebSocket. Each check raises where it fails.

usage: streams.py KUBECONFIG NAMESPACE POD CONTAINER
       streams.py --node URL CERTIFICATE KEY NAMESPACE POD CONTAINER     straight to the node's port, without an API server
       streams.py --slow URL CERTIFICATE KEY NAMESPACE POD CONTAINER BYTES RATE       so too, but slowly
"""

import json
import ssl
import struct
import sys
import time

import websocket
from kubernetes import client, config
from kubernetes.stream import portforward, stream


def expect(what, got, wanted):
    if got != wanted:
        raise SystemExit(f"{what}: {got!r}, not {wanted!r}")
    print("ok", what)


def through_the_api_server(kubeconfig, namespace, pod, container):
    config.load_kube_config(kubeconfig)
    core = client.CoreV1Api()

    def run(command, **options):
        streams = {"stdin": False, "stdout": True, "stderr": True, "tty": False, **options}
        return stream(core.connect_get_namespaced_pod_exec, pod, namespace, container=container, command=command, **streams)

    expect("output", run(["echo", "hello world"]), "hello world\n")

    session = run(["sh", "-c", "echo out; echo err >&2; exit 42"], _preload_content=False)
    session.run_forever(timeout=60)
    expect("stdout", session.read_stdout(), "out\n")
    expect("stderr", session.read_stderr(), "err\n")
    expect("exit code", session.returncode, 42)

    session = run(["nosuch"], _preload_content=False)
    session.run_forever(timeout=60)
    stderr, status = session.read_stderr(), session.read_channel(3)
    expect("a missing program is named", ("nosuch" in stderr + status, "unixpacket" in stderr, json.loads(status)["status"]), (True, False, "Failure"))

    session = run(["sh"], stdin=True, _preload_content=False)
    session.write_stdin("echo $((6 * 7))\n")
    expect("a line of a shell", session.readline_stdout(timeout=60), "42")
    session.write_stdin("exit 3\n")
    session.run_forever(timeout=60)
    expect("exit code of a shell", session.returncode, 3)

    session = run(["sh"], stdin=True, stderr=False, tty=True, _preload_content=False)
    session.write_channel(4, json.dumps({"Width": 97, "Height": 31}))
    deadline, text = time.monotonic() + 60, ""
    while "31 97" not in text and time.monotonic() < deadline:
        session.write_stdin("stty size\n")
        session.update(timeout=1)
        text += session.read_stdout(timeout=1) or ""
    expect("the terminal's size", "31 97" in text, True)
    session.close()

    # More than any buffer holds.
    session = run(["head", "-c", "20000000", "/dev/zero"], _preload_content=False, binary=True)
    count = 0
    while session.is_open():
        session.update(timeout=10)
        count += len(session.read_stdout() or b"")
    expect("bytes of a large output", count, 20000000)

    forward = portforward(core.connect_get_namespaced_pod_portforward, pod, namespace, ports="8080")
    socket = forward.socket(8080)
    socket.setblocking(True)
    socket.settimeout(60)
    socket.sendall(b"GET /hostname HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
    answer = b""
    while piece := socket.recv(65536):
        answer += piece
    expect("an answer over port-forward", answer.startswith(b"HTTP/1.1 200") and answer.endswith(pod.encode()), True)
    expect("no error over port-forward", forward.error(8080), None)

    # Logs over WebSocket: the API server speaks it to the client, and plain HTTP to the node.
    settings = core.api_client.configuration
    tls = {"certfile": settings.cert_file, "keyfile": settings.key_file, "ca_certs": settings.ssl_ca_cert}
    url = f"{settings.host.replace('https', 'wss')}/api/v1/namespaces/{namespace}/pods/{pod}/log?container=talker&follow=true"
    log = websocket.create_connection(url, sslopt=tls, subprotocols=["binary.k8s.io"], timeout=60)
    text = b""
    while b"\n" not in text:
        text += log.recv()
    expect("a followed log over WebSocket", text, b"a line\n")
    log.close()


def connect(url, certificate, key, path, protocol):
    tls = {"certfile": certificate, "keyfile": key, "cert_reqs": ssl.CERT_NONE}
    return websocket.create_connection(f"{url}{path}", sslopt=tls, subprotocols=[protocol] if protocol else [], timeout=60)


def straight_to_the_node(url, certificate, key, namespace, pod, container):
    def open_session(path, protocol):
        return connect(url, certificate, key, path, protocol)

    def read(session):
        """Everything, by channel, until the server closes."""
        channels = {}
        while True:
            try:
                message = session.recv()
            except websocket.WebSocketConnectionClosedException:
                return channels
            if not message:
                return channels
            message = message if isinstance(message, bytes) else message.encode()
            channels[message[0]] = channels.get(message[0], b"") + message[1:]

    target = f"/exec/{namespace}/{pod}/{container}"
    for protocol in ["v5.channel.k8s.io", "v4.channel.k8s.io"]:
        session = open_session(f"{target}?command=sh&command=-c&command=echo+hi;+exit+5&output=1&error=1", protocol)
        expect(f"{protocol} is chosen", session.getsubprotocol(), protocol)
        channels = read(session)
        expect(f"stdout over {protocol}", channels.get(1), b"hi\n")
        status = json.loads(channels[3])
        expect(f"exit code over {protocol}", status["details"]["causes"], [{"reason": "ExitCode", "message": "5"}])

    session = open_session(f"{target}?command=cat&input=1&output=1", "v5.channel.k8s.io")
    session.send_binary(b"\0from a client")
    session.send_binary(b"\xff\0")
    channels = read(session)
    expect("stdin ends over v5", (channels.get(1), json.loads(channels[3])["status"]), (b"from a client", "Success"))

    session = open_session(f"{target}?command=echo&command=hi&output=1", None)
    expect("the oldest protocol has no status", {number: data for number, data in read(session).items() if data}, {1: b"hi\n"})

    session = open_session(f"/portForward/{namespace}/{pod}?ports=8080", "v4.channel.k8s.io")
    session.send_binary(b"\0GET /hostname HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
    data, error = session.recv(), session.recv()
    expect("ports come first", (data, error), (struct.pack("<BH", 0, 8080), struct.pack("<BH", 1, 8080)))
    answer = b""
    while not answer.endswith(pod.encode()):
        message = session.recv()
        expect("data", message[0], 0)
        answer += message[1:]
    session.close()

    try:
        open_session(f"{target}?command=id&output=1", "v9.example.org")
    except websocket.WebSocketBadStatusException as refusal:
        expect("an unknown protocol", refusal.status_code, 403)
    else:
        raise SystemExit("an unknown protocol was accepted")


def slowly(url, certificate, key, namespace, pod, container, size, rate):
    """Reads a large output at `rate` bytes per second, with a ping every second: none of it is missing, and the status comes last."""
    size, rate = int(size), int(rate)
    path = f"/exec/{namespace}/{pod}/{container}?command=head&command=-c&command={size}&command=/dev/zero&output=1"
    session = connect(url, certificate, key, path, "v4.channel.k8s.io")
    began, pinged, count = time.monotonic(), time.monotonic(), 0
    while True:
        message = session.recv()
        if message[0] == 3:
            break
        count += len(message) - 1
        time.sleep(max(0, began + count / rate - time.monotonic()))
        if time.monotonic() > pinged + 1:
            session.ping()
            pinged = time.monotonic()
    expect("all bytes of a slow reader", (count, json.loads(message[1:])["status"]), (size, "Success"))
    session.close()


if __name__ == "__main__":
    if sys.argv[1] == "--node":
        straight_to_the_node(*sys.argv[2:])
    elif sys.argv[1] == "--slow":
        slowly(*sys.argv[2:])
    else:
        through_the_api_server(*sys.argv[1:])
