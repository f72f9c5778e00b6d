"""Files from the web: one time limit for all of a request, and on request public addresses only."""

import ipaddress
import os
import socket
import threading
import time
from contextlib import suppress
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

URL_BYTES, URL_SECONDS = 64 << 20, 20.0
PUBLIC_ONLY = (
    "LAVIEID_PUBLIC_URLS_ONLY"  # set to 1, it refuses private, loopback and other addresses that are not public
)
_REDIRECTS = 5
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def download(url: str) -> bytes:
    """Return what is at an http(s) URL.

    Without LAVIEID_PUBLIC_URLS_ONLY=1 in the environment, loopback and private addresses are fetched like any other: a
    service must not pass on the URLs of its users. With it they are refused, also where a redirect leads to them or a
    name resolves to them, and proxies are not used.

    Raises:
        ValueError: If the URL is not http(s), or the file has more than URL_BYTES.
        PermissionError: If an address is not public, but has to be.
        OSError: If the file was not there, whole, within URL_SECONDS for everything: name, redirects, headers, body.
    """
    name = shown_url(url)
    if not url.lower().startswith(("http://", "https://")):
        raise ValueError(f"'{name}' is neither http nor https: download it, and give the file.")
    fetch = _Fetch(url, name, public_only=os.environ.get(PUBLIC_ONLY, "").lower() in ("1", "true", "yes", "on"))
    # A thread, because neither the resolver nor a server that sends its headers byte by byte can be timed otherwise.
    thread = threading.Thread(target=fetch.run, daemon=True)
    thread.start()
    try:
        thread.join(URL_SECONDS)
        if thread.is_alive():
            raise _failed(name, f"not done after {URL_SECONDS:g} s")
    finally:
        fetch.stop()
    if fetch.error is not None:
        raise fetch.error
    return bytes(fetch.data)


def shown_url(url: str) -> str:
    """Return a URL as errors may show it: without user name and password, and without its query, which may be a key."""
    scheme, mark, rest = url.partition("://")
    for end in "?#":
        rest = rest.partition(end)[0]
    place, slash, path = rest.partition("/")
    return f"{scheme}{mark}{place.rpartition('@')[2]}{slash}{path}"


class _NotPublic(PermissionError):
    pass


class _Unusable(ValueError):
    pass


class _Fetch:
    """One download in a thread of its own, which ends when its connections are shut.

    Attributes:
        data: The bytes so far.
        error: The error to raise, if there was one.
    """

    def __init__(self, url: str, name: str, public_only: bool):
        self.data, self.error = bytearray(), None
        self._url, self._name, self._public_only = url, name, public_only
        self._deadline, self._connections, self._stopped = time.monotonic() + URL_SECONDS, [], False

    def run(self) -> None:
        """Download, and keep the data or the error."""
        try:
            with requests.Session() as session:
                session.trust_env = not self._public_only  # a proxy would resolve names itself
                for scheme in ("http://", "https://"):
                    session.mount(scheme, _Adapter(self))
                self._read(session)
        except (_NotPublic, _Unusable) as error:
            self.error = error
        except Exception as error:
            self.error = self._error(error)

    def stop(self) -> None:
        """Shut all connections, so that whatever waits for them returns."""
        self._stopped = True
        for connection in self._connections:
            if connection.sock is not None:
                with suppress(OSError, ValueError):
                    # Not SSLSocket.shutdown, which takes the TLS state from the thread that reads.
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def connected(self, connection: HTTPConnection, sock: socket.socket) -> socket.socket:
        """Take note of a new connection, or refuse it, before anything is sent.

        Raises:
            PermissionError: If its address is not public, but has to be.
        """
        try:
            if self._stopped:
                raise TimeoutError("stopped")
            if self._public_only:  # the name may resolve to another address than when it was checked
                self._check_address(sock.getpeername()[0])
        except OSError:
            sock.close()
            raise
        self._connections.append(connection)
        return sock

    def _read(self, session: requests.Session) -> None:
        url = self._url
        for _ in range(_REDIRECTS + 1):
            if self._public_only:
                self._check_host(url)
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise requests.Timeout
            response = session.get(url, stream=True, timeout=min(5, left), allow_redirects=False)
            with response:
                target = session.get_redirect_target(response)
                if target is None:
                    response.raise_for_status()
                    self._read_body(response)
                    return
            url = urljoin(url, target)
            if not url.lower().startswith(("http://", "https://")):
                raise _Unusable(f"'{self._name}' leads to '{shown_url(url)}', which is neither http nor https.")
        raise requests.TooManyRedirects

    def _read_body(self, response: requests.Response) -> None:
        while chunk := response.raw.read1(1 << 16, decode_content=True):  # what is there, without waiting for more
            self.data += chunk
            if len(self.data) > URL_BYTES:
                raise _Unusable(f"'{self._name}' has more than {URL_BYTES >> 20} MiB: give a smaller photo.")
            if time.monotonic() > self._deadline or self._stopped:
                raise requests.Timeout

    def _check_host(self, url: str) -> None:
        parts = urlsplit(url)
        for *_, address in socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_STREAM):
            self._check_address(address[0])

    def _check_address(self, text: str) -> None:
        if not _is_public(text):
            raise _NotPublic(
                f"'{self._name}' leads to {text}, which is not a public address, and {PUBLIC_ONLY} is set. Give a "
                "file, or the URL of a public server."
            )

    def _error(self, error: Exception) -> OSError:
        if isinstance(error, requests.HTTPError):
            reason = f"{error.response.status_code} {error.response.reason}"
        elif isinstance(error, requests.Timeout):
            reason = f"not done after {URL_SECONDS:g} s" if time.monotonic() > self._deadline else "no answer"
        elif isinstance(error, requests.TooManyRedirects):
            reason = f"more than {_REDIRECTS} redirects"
        elif isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema | UnicodeError):
            reason = "no valid address"
        else:
            # The innermost error says what happened; the outer ones repeat the URL, with its password.
            while (inner := _inner(error)) is not None:
                error = inner
            if isinstance(error, _NotPublic):
                return error
            reason = str(error) if isinstance(error, OSError | HTTPError) else type(error).__name__
        return _failed(self._name, reason)


class _Adapter(HTTPAdapter):
    """requests' way of sending, with connections that a fetch knows of."""

    def __init__(self, fetch: _Fetch):
        self._fetch = fetch
        super().__init__()

    def init_poolmanager(self, *args, **kwargs) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(self._fetch)

    def proxy_manager_for(self, proxy, **kwargs):
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _pool_classes(self._fetch)
        return manager


def _pool_classes(fetch: _Fetch) -> dict[str, type]:
    class Plain(HTTPConnection):
        def _new_conn(self):
            return fetch.connected(self, super()._new_conn())

    class Secure(HTTPSConnection):
        def _new_conn(self):
            return fetch.connected(self, super()._new_conn())

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if address.version == 6:
        inside = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inside = ipaddress.ip_address(int(address) & 0xFFFFFFFF)
        if inside is not None:
            address = inside
    return address.is_global and not address.is_multicast


def _inner(error: Exception) -> Exception | None:
    causes = (getattr(error, "reason", None), *reversed(error.args), error.__cause__)
    return next((cause for cause in causes if isinstance(cause, Exception)), None)


def _failed(name: str, reason: str) -> OSError:
    return OSError(
        f"Could not download '{name}' ({reason}). Check the address, or download the photo and pass the file."
    )
