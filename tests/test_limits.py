"""Misbehaving clients of the server, and requests from other pages and machines."""

import contextlib
import json
import random
import socket as sockets
import urllib.request

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from serving.limits import Limits, is_loopback
from serving.messages import ConversationEnded, check_hello
from serving.web import bind
from tests.local_server import (
    FAST,
    HELLO,
    QUESTION,
    connected,
    converse,
    next_message,
    running_server,
    status_of,
)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("talks"), FAST) as found:
        yield found


# ---- misbehaving clients


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        ({"version": 2, "rate_hz": 16_000}, "hello"),
        ({"version": True, "rate_hz": 16_000}, "hello"),
        ({"version": 1, "rate_hz": 48_000}, "rate"),
        ({"version": 1, "rate_hz": "16000"}, "rate"),
        ({"version": 1, "rate_hz": float("nan")}, "rate"),
        ({"rate_hz": 16_000}, "hello"),
        ([], "hello"),
        (3, "hello"),
        (None, "hello"),
    ],
)
def test_a_wrong_hello_is_refused(hello, reason):
    with pytest.raises(ConversationEnded) as end:
        check_hello(json.dumps(hello), 16_000)
    assert end.value.reason == reason


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (["[" * 60_000], "hello"), ([b"\0\0"], "hello"), ([json.dumps(HELLO), "hello?"], "audio"),
        ([json.dumps(HELLO), b""], "audio"), ([json.dumps(HELLO), b"\0\0\0"], "audio"),
    ],
)  # fmt: skip
def test_an_unexpected_message_ends_the_conversation(address, messages, reason):
    with connect(f"ws://{address}/talk", compression=None) as socket:
        for message in messages:
            socket.send(message)
        found = next_message(socket)
        assert (next_message(socket) if found["type"] == "ready" else found)["reason"] == reason


def test_a_message_that_is_too_large_is_refused(address):
    with connected(address) as socket:
        assert next_message(socket)["type"] == "ready"
        socket.send(bytes(70_000))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(10)
        assert closed.value.rcvd.code == 1009


pieces = st.one_of(
    st.binary(max_size=40), st.text(max_size=40), st.just(json.dumps(HELLO)), st.just(bytes(6400))
)


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(pieces, max_size=6), st.binary(max_size=200))
def test_arbitrary_input_does_not_affect_other_clients(address, messages, junk):
    with connected(address) as good:
        assert next_message(good)["type"] == "ready"
        host, port = address.split(":")
        with sockets.create_connection((host, int(port))) as raw:  # junk, then a disconnect
            raw.sendall(b"GET /talk HTTP/1.1\r\nHost: localhost\r\n" + junk + b"\r\n\r\n")
        try:
            with connect(f"ws://{address}/talk", compression=None, close_timeout=0.2) as bad:
                for message in messages:
                    bad.send(message)
                if random.random() < 0.5:
                    bad.socket.close()
        except (ConnectionClosed, OSError):
            pass
        good.send(QUESTION[:3200].tobytes())
        assert next_message(good)["slice"] == 0


def test_invalid_frames_end_one_connection_only(address):
    with connected(address) as good:
        assert next_message(good)["type"] == "ready"
        for frame in (
            b"\xff\xff",
            b"\x82\x05abc",
            b"\x82\xff" + b"\xff" * 8,
            b"\x01\x80\0\0\0\0",
            b"\x81\x82\0\0\0\0\xc3\x28",
        ):
            with connect(f"ws://{address}/talk", compression=None, close_timeout=0.2) as bad:
                bad.socket.sendall(frame)
                with contextlib.suppress(
                    OSError
                ):  # the server may have ended the connection already
                    bad.socket.shutdown(sockets.SHUT_WR)
        good.send(QUESTION[:3200].tobytes())
        assert next_message(good)["slice"] == 0


def test_many_silent_connections_do_not_block_others(tmp_path):
    limits = Limits(1, hello_timeout_s=1.0, max_handshakes=3)
    with running_server(tmp_path, limits) as address, contextlib.ExitStack() as opened:
        silent = [
            opened.enter_context(connect(f"ws://{address}/talk", close_timeout=0.2))
            for _ in range(5)
        ]
        reasons = sorted(next_message(socket)["reason"] for socket in silent)
        assert reasons == ["busy", "busy", "hello", "hello", "hello"]
        assert converse(address, QUESTION[:3200])[0]["type"] == "ready"


# ---- access


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Host": "[::1]"}, 200),
        ({"Host": "["}, 403),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example:8765"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
    ],
)
def test_requests_from_other_pages_are_refused(address, headers, status):
    assert status_of(address, "/about", **headers) == status


def test_websockets_from_other_pages_are_refused(address):
    with (
        pytest.raises(InvalidStatus, match="403"),
        connect(f"ws://{address}/talk", origin="http://evil.example"),
    ):
        pass
    with connect(f"ws://{address}/talk", origin=f"http://{address}", compression=None) as socket:
        socket.send(json.dumps(HELLO))
        assert next_message(socket)["type"] == "ready"


def test_with_a_token_every_request_needs_it(tmp_path):
    with running_server(
        tmp_path, FAST, token="secret", origins=["https://talk.example"]
    ) as address:
        assert (
            status_of(address, "/") == 401
            and status_of(address, "/about", Authorization="Bearer wrong") == 401
        )
        assert status_of(address, "/about", Cookie="duplexmamba=wrong") == 401
        assert status_of(address, "/about", Cookie="\x01;=;") == 401
        assert (
            status_of(address, "/?token=wrong") == 401
            and status_of(address, "/about?token=s%C3%A9cret") == 401
        )
        assert (
            status_of(address, "/about", Authorization="Bearer secret", Host="any.example") == 200
        )
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(f"http://{address}/?token=secret", timeout=20) as answer:
            assert answer.url == f"http://{address}/" and b"DuplexMamba" in answer.read()
        with pytest.raises(InvalidStatus, match="403"), connect(f"ws://{address}/talk"):
            pass
        headers = {"Authorization": "Bearer secret"}
        with connected(
            address, additional_headers=headers, origin="https://talk.example"
        ) as socket:
            assert next_message(socket)["type"] == "ready"


@pytest.mark.parametrize(
    "path",
    [
        "/conversations/none.wav",
        "/conversations/..%2Fx.wav",
        "/conversations/x.txt",
        "/..%2fserver.py",
        "/clips/none.wav",
    ],
)
def test_no_other_file_is_served(address, path):
    assert status_of(address, path) == 404


def test_is_loopback():
    assert all(map(is_loopback, ["127.0.0.1", "localhost", "::1", "[::1]"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.1.2", "example.com", ""]))


def test_an_address_in_use_is_named():
    with (
        bind("127.0.0.1", 0) as bound,
        pytest.raises(ValueError, match="HOST=127.0.0.1 PORT=.*choose another"),
    ):
        bind("127.0.0.1", bound.getsockname()[1])
