"""A server of files on the loopback, from which models are downloaded, and what a download leaves in a folder."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def served(files: dict[str, bytes], cut: bool = False):
    """The URL of a server of these files on the loopback; with `cut`, the connection breaks in the middle of one."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            body = files.get(self.path.rsplit("/", 1)[1])
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            if body and self.command == "GET":
                self.wfile.write(body[: len(body) // 2] if cut else body)

        do_GET = do_HEAD

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def left_in(folder: Path) -> list[str]:
    """The files in a folder, by their paths in it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
