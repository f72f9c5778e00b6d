"""Downloads: one time limit for all of a request, no secrets in errors, and public addresses only where asked."""

import threading
import time
import traceback

import pytest
from support.photo_server import PhotoServer

from lavieid_adapters.files import download as module
from lavieid_adapters.files.download import PUBLIC_ONLY, download, shown_url

DATA = bytes(range(256)) * 8


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(PUBLIC_ONLY, raising=False)
    with PhotoServer(DATA) as server:
        yield server


def test_what_is_served_comes_back_also_after_redirects(server):
    assert download(server.url("photo.png")) == DATA
    assert download(server.url("to//photo.png")) == DATA
    assert download(server.url(f"to/{server.url('photo.png')}")) == DATA
    with pytest.raises(OSError, match=r"Could not download '.*/round' \(more than 5 redirects\)"):
        download(server.url("round"))


@pytest.mark.parametrize("scheme", ["ftp", "file", "s3"])
def test_other_schemes_are_refused(scheme, server):
    with pytest.raises(ValueError, match=rf"'{scheme}://here/photo\.png' is neither http nor https: download it"):
        download(f"{scheme}://here/photo.png")
    with pytest.raises(ValueError, match=rf"leads to '{scheme}://here/a', which is neither"):
        download(server.url(f"to/{scheme}://here/a"))


def test_a_url_that_cannot_be_had_is_an_os_error(server):
    for path, message in (("missing", "404"), ("cut", "")):
        with pytest.raises(OSError, match=rf"^Could not download 'http.*/{path}' \(.*{message}.*\)\. Check the "):
            download(server.url(path))
    with pytest.raises(OSError, match=r"Could not download 'http://127\.0\.0\.1:9/photo\.png' \(.*refused"):
        download("http://127.0.0.1:9/photo.png")
    for url in ("http://", "http://[", "http://a:b/"):
        with pytest.raises(OSError, match="Could not download 'http://"):
            download(url)


@pytest.mark.parametrize("path", ["silent", "trickle", "headers", "to//headers"])
def test_a_url_that_takes_too_long_is_given_up_and_its_connection_shut(server, monkeypatch, path):
    monkeypatch.setattr(module, "URL_SECONDS", 0.5)
    threads = set(threading.enumerate())
    begin = time.monotonic()
    with pytest.raises(OSError, match=rf"Could not download 'http.*/{path}' \((not done after 0\.5 s|no answer)\)"):
        download(server.url(path))
    assert time.monotonic() - begin < 4
    if path != "silent":
        assert server.gone.wait(5)
    for thread in set(threading.enumerate()) - threads:
        if "run" in thread.name:
            thread.join(5)
            assert not thread.is_alive()


def test_a_url_of_too_many_bytes_is_given_up(server, monkeypatch):
    monkeypatch.setattr(module, "URL_BYTES", 1 << 20)
    with pytest.raises(ValueError, match=r"/huge' has more than 1 MiB: give a smaller photo"):
        download(server.url("huge"))


@pytest.mark.parametrize("path", ["missing", "cut", "round", "huge", "silent", "away"])
def test_passwords_and_queries_are_sent_but_not_shown(server, monkeypatch, path):
    monkeypatch.setattr(module, "URL_SECONDS", 0.5)
    monkeypatch.setattr(module, "URL_BYTES", 1 << 20)
    url = server.url(f"{path}?token=secret", "me:secret@")
    with pytest.raises((OSError, ValueError)) as caught:
        download(url)
    assert server.asked[0] == (f"/{path}?token=secret", "Basic bWU6c2VjcmV0")
    shown = "".join(traceback.format_exception(caught.value))
    assert "127.0.0.1" in shown and "secret" not in shown


@pytest.mark.parametrize("url", ["http://me:secret@127.0.0.1:9/a", "http://me:secret@/a", "http://me:secret@[/a"])
def test_passwords_are_not_shown_where_nothing_is_sent(url):
    with pytest.raises(OSError, match="Could not download") as caught:
        download(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_a_url_as_errors_show_it():
    assert shown_url("https://me:pass@host:8/a/b.jpg?key=1#x") == "https://host:8/a/b.jpg"
    assert shown_url("https://host/a@b") == "https://host/a@b"
    assert shown_url("https://host?to=me@x/y") == "https://host"


def test_addresses_that_are_not_public_are_refused_where_that_is_asked(server, monkeypatch):
    assert download(server.url("photo.png")) == DATA
    monkeypatch.setenv(PUBLIC_ONLY, "1")
    asked = len(server.asked)
    hosts = (
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "10.0.0.1",
        "192.168.1.1",
        "2130706433",
    )
    for host in (*hosts, "169.254.169.254", "[fe80::1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "224.0.0.1"):
        with pytest.raises(PermissionError, match=rf"leads to .*, which is not a public address, and {PUBLIC_ONLY}"):
            download(f"http://me:secret@{host}:{server.server_port}/photo.png")
    assert len(server.asked) == asked


def test_redirects_and_names_that_change_are_held_to_public_addresses_too(server, monkeypatch):
    monkeypatch.setenv(PUBLIC_ONLY, "1")
    real, hosts = module._is_public, []

    def once(address):  # the first hop counts as public: when it is resolved, and when it is connected
        hosts.append(address)
        return len(hosts) <= 2 or real(address)

    monkeypatch.setattr(module, "_is_public", once)
    with pytest.raises(PermissionError, match=r"leads to 127\.0\.0\.1, which is not a public"):
        download(server.url("to//photo.png"))
    assert [path for path, _ in server.asked] == ["/to//photo.png"]
    server.asked.clear()
    hosts.clear()
    hosts.append("")  # public when it is resolved, and private when it is connected
    with pytest.raises(PermissionError, match=r"leads to 127\.0\.0\.1, which is not a public"):
        download(server.url("photo.png"))
    assert not server.asked
    assert real("8.8.8.8") and real("2606:4700:4700::1111") and not real("fd00::1")
