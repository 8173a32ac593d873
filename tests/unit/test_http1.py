"""HTTP/1.1 requests from bytes: what is read, what is refused, and that the pieces do not matter."""

import random

import pytest

from serving.local_server.http1 import MAX_HEAD_BYTES, HttpError, RequestReader

POST = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;name=value\r\nlo\r\n0\r\nTrailer: 1\r\n\r\n"
)


def read(data, step=None, max_body_bytes=1000):
    """Returns all requests of the bytes, fed in pieces."""
    reader, requests = RequestReader(max_body_bytes), []
    for start in range(0, len(data), step or len(data)):
        reader.feed(data[start : start + (step or len(data))])
        while (request := reader.next()) is not None:
            requests.append(request)
    return requests


@pytest.mark.parametrize("step", [None, 1, 7])
def test_requests_are_read_whatever_the_pieces(step):
    first, second, third = read(POST + b"\r\n" + CHUNKED + b"GET /readyz HTTP/1.0\n\n", step)
    assert (first.method, first.target, first.body) == ("POST", "/v1/models/m:predict", b"hello")
    assert first.headers == {b"host": b"a", b"content-length": b"5"} and first.keep_alive and not first.http10
    assert (second.body, third.method, third.target) == (b"hello", "GET", "/readyz")
    assert third.http10 and not third.keep_alive


@pytest.mark.parametrize(
    "upgrade",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n",
        b"Connection: upgrade\r\nUpgrade: TLS/1.0, anything\r\n",
    ],
)
def test_an_upgrade_is_ignored_and_the_body_is_kept(upgrade):
    (request,) = read(POST.replace(b"Host: a\r\n", upgrade))
    assert request.body == b"hello" and request.keep_alive


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"GET / HTTP/1.1\r\nConnection: close", False),
        (b"GET / HTTP/1.1\r\nConnection: Keep-Alive", True),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive", True),
        (b"GET / HTTP/1.0", False),
    ],
)
def test_keep_alive(head, keep_alive):
    assert read(head + b"\r\n\r\n")[0].keep_alive == keep_alive


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"http://host:1/v1/x?y=1", "/v1/x?y=1"), (b"HTTPS://host", "/"), (b"/a%3Ab", "/a%3Ab"), (b"*", "*")],
)
def test_targets(target, path):
    assert read(b"GET " + target + b" HTTP/1.1\r\n\r\n")[0].target == path


def test_a_client_that_waits_for_continue_is_recognized():
    reader = RequestReader(100)
    reader.feed(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert reader.next() is None and reader.expects_continue and reader.phase == "body"
    reader.feed(b"ab")
    assert reader.next().body == b"ab" and not reader.expects_continue


def test_phases():
    reader = RequestReader(100)
    assert reader.next() is None and reader.phase == "idle"
    reader.feed(b"POST / HTTP")
    assert reader.next() is None and reader.phase == "head" and reader.num_buffered == 11
    reader.feed(b"/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    assert reader.next() is None and reader.phase == "body" and reader.num_buffered == 5
    reader.feed(b"0\r\n\r\n")
    assert reader.next().body == b"hello" and reader.num_buffered == 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET /a b HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", 400),  # a TLS handshake
        (b"TRACE / HTTP/1.1\r\n\r\n", 501),
        (b"CONNECT host:1 HTTP/1.1\r\n\r\n", 501),
        (b"get / HTTP/1.1\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nname : value\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\na: b\r\n folded\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\na: b\0c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\na: b\rc: d\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n", 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"2\r\nab\r\n" * 501, 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 2000, 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 20_000, 431),
        (b"GET /" + b"x" * MAX_HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MAX_HEAD_BYTES // 6) + b"\r\n", 431),
    ],
)
@pytest.mark.parametrize("step", [None, 1009])
def test_refusals(data, status, step):
    with pytest.raises(HttpError) as raised:
        read(data, step)
    assert raised.value.status == status and raised.value.message


def test_mutated_bytes_are_requests_or_errors_whatever_the_pieces():
    """A fuzzer with a fixed seed: the same bytes give the same result in one piece and in many."""
    rng = random.Random(20_29)
    seeds = (POST, CHUNKED, POST + CHUNKED, b"GET / HTTP/1.1\r\nA: b\r\n\r\n" * 3)
    tokens = (b"\r\n", b"\n", b"\0", b"Content-Length: 7\r\n", b"chunked", b"9" * 20, b":", b" ", b"\xff", b"0\r\n\r\n")

    def outcome(data, step):
        try:
            return [(request.method, request.target, request.body) for request in read(data, step)]
        except HttpError as error:
            return error.status

    seen = set()
    for _ in range(1500):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(data))
            if rng.random() < 0.4:
                data[at:at] = rng.choice(tokens)
            elif rng.random() < 0.5:
                del data[at : at + rng.choice((1, 2, 9))]
            else:
                data[at] = rng.randrange(256)
            data = data or bytearray(b"x")
        whole = outcome(bytes(data), None)
        pieces = outcome(bytes(data), rng.choice((1, 3, 11)))
        assert pieces == whole, bytes(data)
        seen.add(whole if isinstance(whole, int) else len(whole))
    assert {0, 1, 2, 400, 501} <= seen
