"""Connections of the REST server with hostile, slow and impatient clients; the application is a stub."""

import contextlib
import gc
import socket
import threading
import time

import pytest

from serving.local_server import connections
from serving.local_server.connections import ConnectionServer, Limits, Response

LIMITS = Limits(1_000_000, idle_s=1.2, head_s=0.6, request_s=1.0, drain_s=1.0)
POST = b"POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"


class Echo:
    """Returns the body; `/wait` waits for `gate` or until the caller is gone, `/large` returns 8 MB."""

    def __init__(self):  # noqa: D107
        self.gate, self.cancelled, self.seen = threading.Event(), threading.Event(), []

    def respond(self, request, caller, reply):  # noqa: D102
        gate = threading.Event()
        if request.target == "/wait":
            self.gate = gate
        self.seen.append(request.target)
        if request.target == "/fail":
            raise RuntimeError("a fault")
        if request.target == "/wait":

            def wait():
                try:
                    caller.wait(gate)
                    reply(Response(200, b"waited"))
                except Exception:
                    self.cancelled.set()

            threading.Thread(target=wait).start()
        else:
            reply(Response(200, bytes(2**23) if request.target == "/large" else request.body))

    def error(self, status, message):  # noqa: D102
        return Response(status, message.encode())


@contextlib.contextmanager
def serving(limits=LIMITS):
    app, listener = Echo(), socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = ConnectionServer(app, limits)
    thread = threading.Thread(target=server.run, args=(listener,))
    thread.start()
    app.port, app.server = listener.getsockname()[1], server
    try:
        yield app
    finally:
        server.stop(0.5)
        thread.join(10)
        assert not thread.is_alive()
        listener.close()


@pytest.fixture(scope="module")
def app():
    with serving() as running:
        yield running


@pytest.fixture
def connect(app):
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection(("127.0.0.1", app.port), timeout=10))


def response(connection):
    """Reads one response: (status, headers, body)."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    if status == 100:
        return 100, head, body
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    while len(body) < length:
        body += connection.recv(65536)
    return status, head, body


def is_closed(connection, within_s):
    """Whether the server closes the connection in time."""
    connection.settimeout(within_s)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


def test_responses_and_pipelining(connect):
    connection = connect()
    connection.sendall(POST + POST.replace(b"hello", b"world"))
    bodies = b""
    while bodies.count(b"HTTP/1.1 200 OK") < 2 or not bodies.endswith(b"world"):
        bodies += connection.recv(65536)
    assert bodies.index(b"hello") < bodies.index(b"world")
    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    status, head, _ = response(connection)
    assert status == 200 and b"Connection: close" in head and is_closed(connection, 1)


def test_continue(connect):
    connection = connect()
    connection.sendall(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert response(connection)[0] == 100
    connection.sendall(b"hello")
    assert response(connection)[2] == b"hello"


def test_head_has_no_body(connect):
    connection = connect()
    connection.sendall(b"HEAD /large HTTP/1.1\r\n\r\n" + POST)
    data = b""
    while not data.endswith(b"hello"):
        data += connection.recv(65536)
    assert b"Content-Length: 8388608" in data and len(data) < 1000


def test_a_fault_of_the_application_is_a_response(connect, caplog):
    connection = connect()
    connection.sendall(b"GET /fail HTTP/1.1\r\n\r\n")
    assert response(connection)[0] == 500
    assert "A request failed." in caplog.text
    connection.sendall(POST)
    assert response(connection)[2] == b"hello"


@pytest.mark.parametrize("data", [b"\0\1\2\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n"])
def test_a_refused_client_reads_the_response_before_the_connection_ends(connect, data):
    connection = connect()
    connection.sendall(data)
    with contextlib.suppress(ConnectionError):
        for _ in range(20):  # more than the buffers of the sockets
            connection.sendall(bytes(500_000))
    status, head, _ = response(connection)
    assert status in (400, 413) and b"Connection: close" in head


def test_many_headers_are_refused_quickly_and_do_not_stall_others(connect):
    flood, other = connect(), connect()
    flood.sendall(b"GET / HTTP/1.1\r\n")
    with contextlib.suppress(ConnectionError):
        for _ in range(400):
            flood.sendall(b"name: value\r\n" * 2000)
    started = time.monotonic()
    other.sendall(POST)
    assert response(other)[2] == b"hello" and time.monotonic() - started < 4
    with contextlib.suppress(ConnectionError):
        assert response(flood)[0] == 431


def test_slow_heads_slow_bodies_and_idle_connections_end(connect):
    head, body, idle, fresh = connect(), connect(), connect(), connect()
    head.sendall(b"GET / HT")
    body.sendall(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nh")
    started = time.monotonic()
    assert response(head)[0] == 408 and 0.5 < time.monotonic() - started < 4
    assert response(body)[0] == 504 and is_closed(head, 5) and is_closed(body, 5)
    assert is_closed(idle, 5) and 1.1 < time.monotonic() - started < 8
    with contextlib.suppress(ConnectionError):
        fresh.sendall(POST)  # closed meanwhile, too


def test_bytes_that_arrive_slowly_do_not_extend_the_time_of_a_head(connect):
    connection, started = connect(), time.monotonic()
    with contextlib.suppress(ConnectionError):
        for _ in range(30):
            connection.sendall(b"G")
            time.sleep(0.05)
    assert response(connection)[0] == 408 and time.monotonic() - started < 3


@pytest.fixture
def patient():
    """A server whose limits of time are never reached, and a function that connects to it."""
    limits = Limits(1_000_000, connections=40, buffered_bytes=3_000_000)
    with serving(limits) as app, contextlib.ExitStack() as stack:
        app.connect = lambda: stack.enter_context(socket.create_connection(("127.0.0.1", app.port), timeout=10))
        yield app


def test_slow_clients_take_no_place_of_others(patient):
    slow = [patient.connect() for _ in range(60)]  # more than the server keeps open
    for connection in slow:
        with contextlib.suppress(ConnectionError):
            connection.sendall(POST[:-1])
    fast = patient.connect()
    fast.sendall(POST)
    assert response(fast)[2] == b"hello"
    assert len(patient.server.connections) <= 40
    # The oldest are closed, the newest are not.
    assert is_closed(slow[0], 5) and not is_closed(slow[-1], 0.05)


def test_large_incomplete_bodies_are_limited_together(patient):
    senders = [patient.connect() for _ in range(8)]
    for connection in senders:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: 900000\r\n\r\n" + bytes(899_999))
    closed, deadline = [False], time.monotonic() + 10
    while sum(closed) < 5 and time.monotonic() < deadline:
        closed = [is_closed(connection, 0.3) for connection in senders]
    assert 5 <= sum(closed) <= 7 and patient.server.num_buffered <= 3_000_000
    kept = senders[closed.index(False)]
    kept.settimeout(10)
    kept.sendall(b"x")
    assert response(kept)[0] == 200
    for connection in senders:
        connection.close()
    end = time.monotonic() + 5
    while patient.server.num_buffered and time.monotonic() < end:
        time.sleep(0.01)
    assert patient.server.num_buffered == 0


def test_a_reader_that_does_not_read_is_closed(connect):
    connection = connect()
    connection.sendall(b"GET /large HTTP/1.1\r\n\r\n" * 3)
    time.sleep(2.5)
    received = 0
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(2**20):
            received += len(part)
    assert received < 3 * 2**23


@pytest.mark.parametrize("leave", [lambda s: s.close(), lambda s: s.shutdown(socket.SHUT_WR)])
def test_a_client_that_leaves_cancels_its_request(app, connect, leave):
    app.cancelled.clear()
    connection = connect()
    connection.sendall(b"GET /wait HTTP/1.1\r\n\r\n")
    while not app.seen or app.seen[-1] != "/wait":
        time.sleep(0.01)
    time.sleep(0.15)  # ended with the request, it would wait for the response
    leave(connection)
    assert app.cancelled.wait(0.8)
    app.seen.clear()


def test_a_client_may_end_its_side_before_the_response(connect):
    connection = connect()
    connection.sendall(POST)
    connection.shutdown(socket.SHUT_WR)
    assert response(connection)[2] == b"hello" and is_closed(connection, 1)


def test_a_client_that_ends_its_side_with_the_request_may_wait(patient):
    connection = patient.connect()
    connection.sendall(b"GET /wait HTTP/1.1\r\n\r\n")
    connection.shutdown(socket.SHUT_WR)
    while not patient.seen:
        time.sleep(0.01)
    time.sleep(0.05)
    patient.gate.set()
    assert response(connection)[2] == b"waited"


def test_a_request_that_takes_too_long_gets_504_and_the_connection_continues(connect):
    connection, started = connect(), time.monotonic()
    connection.sendall(b"GET /wait HTTP/1.1\r\n\r\n")
    assert response(connection)[0] == 504 and 0.8 < time.monotonic() - started < 5
    connection.sendall(POST)
    assert response(connection)[2] == b"hello"


def test_stop_completes_requests_in_progress_and_in_transmission():
    with serving(Limits(1000, request_s=5.0)) as app, contextlib.ExitStack() as stack:
        running, sending, idle = (
            stack.enter_context(socket.create_connection(("127.0.0.1", app.port), timeout=10)) for _ in range(3)
        )
        running.sendall(b"GET /wait HTTP/1.1\r\n\r\n")
        sending.sendall(POST[:-2])
        while not app.seen or len(app.server.connections) < 3:
            time.sleep(0.01)
        app.server.stop(5.0)
        assert is_closed(idle, 2)
        sending.sendall(POST[-2:])
        assert response(sending)[2] == b"hello" and is_closed(sending, 2)
        app.gate.set()
        status, head, body = response(running)
        assert (status, body) == (200, b"waited") and b"Connection: close" in head


def test_stop_does_not_wait_longer_than_its_grace_period():
    started = time.monotonic()
    with serving(Limits(1000, request_s=60.0)) as app, socket.create_connection(("127.0.0.1", app.port)) as client:
        client.sendall(b"GET /wait HTTP/1.1\r\n\r\n")
        while not app.seen:
            time.sleep(0.01)
    assert time.monotonic() - started < 5


def test_a_connection_that_arrives_as_the_server_stops_is_closed():
    for _ in range(5):
        with serving() as app:
            while app.server._loop is None:
                time.sleep(0.001)
            time.sleep(0.005)
            with socket.create_connection(("127.0.0.1", app.port)):
                app.server.stop(0.5)
    # A transport that nobody has closed warns, and warnings are errors. It is young: older objects need no visit.
    gc.collect(1)


def test_every_status_has_a_reason():
    assert connections._reason(431) == "Request Header Fields Too Large"
    assert connections._reason(499) == "Unknown"
