"""A web server with a photo, which misbehaves in the way that a path names."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class PhotoServer(ThreadingHTTPServer):
    """Serves `data` at /photo.png, and misbehaves at other paths until `end` is set. `asked` lists the requests."""

    daemon_threads, block_on_close = True, False

    def __init__(self, data: bytes):
        self.data, self.end, self.asked, self.gone = data, threading.Event(), [], threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    def url(self, path: str, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.server_port}/{path}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *args):
        self.end.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, path = self.server, self.path.partition("?")[0]
        server.asked.append((self.path, self.headers.get("Authorization")))
        try:
            if path == "/silent":
                server.end.wait(5)
            elif path == "/missing":
                self.send_error(404)
            elif path == "/headers":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                for _ in range(100):  # five seconds, should the client wait for so long
                    if server.end.wait(0.05):
                        break
                    self.wfile.write(b"x")
            elif path == "/round":
                self._redirect("/round")
            elif path == "/away":
                self._redirect("ftp://me:secret@here/photo.png?token=secret")
            elif path.startswith("/to/"):
                self._redirect(path[4:])
            else:
                self._body(path)
        except OSError:
            server.gone.set()  # the client has left

    def _redirect(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _body(self, path: str) -> None:
        data, end = self.server.data, self.server.end
        self.send_response(200)
        self.send_header("Content-Length", str(10**9 if path in ("/huge", "/trickle") else len(data)))
        self.end_headers()
        if path == "/photo.png":
            self.wfile.write(data)
        elif path == "/cut":
            self.wfile.write(data[:100])
        elif path == "/trickle":
            for _ in range(100):  # five seconds, should the client wait for so long
                if end.wait(0.05):
                    break
                self.wfile.write(b"x")
        elif path == "/huge":
            while not end.is_set():
                self.wfile.write(bytes(1 << 16))

    def log_message(self, *args):
        pass
