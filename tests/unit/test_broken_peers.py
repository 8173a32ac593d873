"""Peers that reset, truncate or send TLS alerts at every point: a transport raises ServerError and nothing else."""

import asyncio
import contextlib
import socket
import ssl
import struct
import threading

import pytest
import trustme

from serving import client as clients

BODY = b'{"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {"error_message": ""}}]}'
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"
# A fatal alert in plain text, where the client expects an encrypted record.
ALERT = b"\x15\x03\x03\x00\x02\x02\x74"
SETTINGS, GOAWAY = b"\0\0\0\x04\0\0\0\0\0", b"\0\0\x08\x07\0\0\0\0\0" + b"\0" * 7 + b"\x02"
RESET_STREAM = b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x02"
# A HEADERS frame for stream 1 with :status 200 and content-type application/grpc (HPACK, without compression).
GRPC_HEADERS = b"\x88\x40\x0ccontent-type\x10application/grpc"
HEADERS = b"\0\0%c\x01\x04\0\0\0\x01" % len(GRPC_HEADERS) + GRPC_HEADERS
DATA = b"\0\0\x0a\0\0\0\0\0\x01\0\0\0\0\x05hello"


def reset(connection):
    """Closes with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def peer(misbehave):
    """Calls `misbehave` with every connection, then closes it; provides the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept():
            # Ends when the socket is shut down.
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    connection.settimeout(0.5)
                    with connection, contextlib.suppress(OSError):
                        misbehave(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def outcomes(make, port, sync):
    """Sends two requests, so that a kept connection is used too; returns results or errors."""
    results = []
    if sync:
        with make(port) as client:
            for _ in range(2):
                try:
                    results.append(client.status())
                except clients.ServerError as error:
                    results.append(error)
        return results

    async def run():
        async with make(port) as client:
            for _ in range(2):
                try:
                    results.append(await client.status())
                except clients.ServerError as error:
                    results.append(error)

    asyncio.run(run())
    return results


REST = {
    "sync": lambda port, **options: clients.RestClient(f"http://127.0.0.1:{port}", "m", **options),
    "async": lambda port, **options: clients.AsyncRestClient(f"http://127.0.0.1:{port}", "m", **options),
}
TLS = {
    "sync": lambda port, **options: clients.RestClient(f"https://127.0.0.1:{port}", "m", **options),
    "async": lambda port, **options: clients.AsyncRestClient(f"https://127.0.0.1:{port}", "m", **options),
}
OPTIONS = {"retries": 0, "timeout_s": 1.0}


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("end", ["close", "reset", "garbage"])
@pytest.mark.parametrize(
    "sent", [None, 0, 1, 9, 17, 40, len(RESPONSE) - len(BODY), len(RESPONSE) - 1, len(RESPONSE)], ids=str
)
def test_rest(kind, end, sent):
    response = CHUNKED if end == "garbage" else RESPONSE

    def misbehave(connection):
        if sent is not None:
            connection.recv(65536)
            connection.sendall(response[:sent])
        if end == "garbage":
            connection.sendall(b"\xff\0garbage\r\n" * 20)
        elif end == "reset":
            reset(connection)

    with peer(misbehave) as port:
        results = outcomes(lambda port: REST[kind](port, **OPTIONS), port, kind == "sync")
    assert len(results) == 2
    if sent == len(RESPONSE) and end == "close":
        assert results[0] == [(1, "AVAILABLE")]


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def ca_file(authority, tmp_path_factory):
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("end", ["close", "reset", "alert", "close_notify", "client certificate"])
@pytest.mark.parametrize("point", ["connect", "hello", "handshake", "request", "head", "body", "response"])
def test_tls(kind, end, point, certificate, ca_file):
    def finish(connection, secure=None):
        if end == "reset":
            reset(connection)
        elif end == "alert":
            connection.sendall(ALERT)
        elif end == "close_notify" and secure:
            secure.unwrap()

    def misbehave(connection):
        if point == "connect":
            finish(connection)
            return
        if point == "hello":
            connection.recv(65536)
            finish(connection)
            return
        # A duplicate of the descriptor stays usable for plain bytes.
        plain = connection.dup()
        certificate.verify_mode = ssl.CERT_REQUIRED if end == "client certificate" else ssl.CERT_NONE
        with plain, certificate.wrap_socket(connection, server_side=True) as secure:
            if point != "handshake":
                secure.recv(65536)
                length = {"request": 0, "head": 20, "body": len(RESPONSE) - 3}.get(point, len(RESPONSE))
                secure.sendall(RESPONSE[:length])
            finish(plain, secure)

    if end == "client certificate":
        certificate.load_verify_locations(ca_file)
    with peer(misbehave) as port:
        results = outcomes(lambda port: TLS[kind](port, ca_file=ca_file, **OPTIONS), port, kind == "sync")
    assert len(results) == 2
    if point == "response" and end == "close":
        assert results[0] == [(1, "AVAILABLE")]


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        SETTINGS[:5],
        SETTINGS,
        SETTINGS + GOAWAY,
        SETTINGS + RESET_STREAM,
        SETTINGS + HEADERS[:12],
        SETTINGS + HEADERS,
        SETTINGS + HEADERS + DATA[:12],
        SETTINGS + HEADERS + DATA,
        SETTINGS + HEADERS + DATA + RESET_STREAM,
        b"\xff" * 64,
    ],
    ids=range(12),
)
def test_grpc(kind, end, sent):
    def misbehave(connection):
        connection.recv(65536)
        connection.sendall(sent)
        if len(sent) > len(SETTINGS):
            connection.recv(65536)
        if end == "reset":
            reset(connection)

    make = clients.GrpcClient if kind == "sync" else clients.AsyncGrpcClient
    with peer(misbehave) as port:
        results = outcomes(lambda port: make(f"127.0.0.1:{port}", "m", retries=0, timeout_s=0.4), port, kind == "sync")
    assert [isinstance(result, clients.ServerError) for result in results] == [True, True]
