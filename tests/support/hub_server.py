"""A small Hugging Face Hub on 127.0.0.1, for pushing and pulling adapter folders with the real client.

`HubServer` keeps model repositories in memory and answers what `huggingface_hub` (and, through it, diffusers) asks:

- `POST /api/repos/create`, `POST /api/validate-yaml`
- `POST /api/models/{repo}/preupload/{revision}`, git-LFS `POST /{repo}.git/info/lfs/objects/batch` with the "basic"
  transfer, `PUT /lfs/{oid}` and `POST /lfs/{oid}` (verify), `POST /api/models/{repo}/commit/{revision}`
- `GET /api/models/{repo}`, also with `/revision/{revision}` or (recursive only) `/tree/{revision}/{folder}`
- `HEAD` and `GET /{repo}/resolve/{revision}/{path}`, with `Range`

A repository has one revision, the newest: "main", or its commit sha, which is a digest of what is stored (so that it
also changes when a test edits `hub.repos`). Datasets, Spaces, branches, pull requests and permissions are left out.

    with HubServer() as hub:
        point_client_at(hub.url, monkeypatch, tmp_path / "cache")
        huggingface_hub.upload_folder(repo_id="me/adapter", folder_path=folder)

Xet: a client that finds hf_xet installed uploads through it without asking the server, so it has to be told not to:
HF_HUB_DISABLE_XET=1 in the environment before the import, or the constant, which `point_client_at` sets. Downloads
go through Xet only where the server advertises it, and this one does not.
"""

import base64
import hashlib
import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

CUT_AT = 4096  # where `break_downloads` cuts unless `break_after` says: a config passes, weights do not


class HubServer:
    """The server, as a context manager. What it stores and how it misbehaves can be read and set at any time.

    Attributes:
        url: where it listens.
        repos: repo id -> path in the repo -> content.
        requests: "METHOD path" of every request so far.
        break_after: if set, the next download of a file of more than this many bytes stops there: the headers promise
            the whole file and the connection closes early. Later downloads work.
        break_downloads: every such download stops there (at `break_after`, or at `CUT_AT` bytes), resumed ones too.
        break_uploads: the connection closes half-way through every LFS upload.
    """

    def __init__(self):
        self.repos: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.break_after: int | None = None
        self.break_downloads = False
        self.break_uploads = False
        self.lfs_objects: dict[str, bytes] = {}  # sha256 -> content: uploaded, for a commit to name
        self.lock = threading.Lock()  # the client sends several requests at once
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exc_info) -> None:
        self._server.shutdown()
        self._server.server_close()

    def cut(self, start: int, size: int) -> int | None:
        """How many bytes to send, from `start` of a file of `size`, before the connection breaks; None: it holds."""
        with self.lock:
            limit = CUT_AT if self.break_downloads and self.break_after is None else self.break_after
            if limit is None or size <= limit:
                return None
            if not self.break_downloads:
                self.break_after = None
            return max(0, limit - start)  # counted from the start of the file: a resumed download gets no further


class _Refused(Exception):
    """An answer of 400 or more; `code` is what the client tells its exceptions apart by."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str):
        self.status, self.message, self.headers = status, message, {"X-Error-Code": code, **headers}


def _is_lfs(path: str, size: int) -> bool:
    return size > 10_000_000 or (size > 0 and path.endswith((".bin", ".ckpt", ".mp4", ".pt", ".pth", ".safetensors")))


def _oid(path: str, content: bytes) -> str:
    """What the Hub calls a file by, in its ETag and elsewhere: git's blob id, or the sha256 of a file in LFS."""
    if _is_lfs(path, len(content)):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _blob(path: str, content: bytes) -> dict:
    """A file as the Hub describes it; some of its endpoints use one set of names, some the other."""
    oid, size = _oid(path, content), len(content)
    lfs = {"lfs": {"oid": oid, "sha256": oid, "size": size, "pointerSize": 134}} if _is_lfs(path, size) else {}
    return {"oid": oid, "blobId": oid, "size": size, **lfs}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes; together with delayed ACKs Nagle costs 40 ms

    def answer(self):
        url = urlsplit(self.path)
        self.hub, self.query = self.server.hub, parse_qs(url.query)
        self.hub.requests.append(f"{self.command} {unquote(url.path)}")
        size = int(self.headers.get("Content-Length") or 0)
        if self.command == "PUT" and self.hub.break_uploads:
            self.rfile.read(size // 2)
            self.close_connection = True
            return
        self.body = self.rfile.read(size)  # always, or it would be taken for the next request
        try:
            for pattern, method in self.ROUTES:
                if match := re.fullmatch(pattern, f"{self.command} {url.path}"):
                    return method(self, **{key: unquote(value or "") for key, value in match.groupdict().items()})
            raise _Refused(404, f"This server does not answer {self.command} {url.path}")
        except _Refused as refused:
            self.send(refused.status, {"error": refused.message}, **refused.headers)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def send(self, status: int, body, cut: int | None = None, **headers: str) -> None:
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
            self.close_connection = self.close_connection or cut is not None

    def log_message(self, format, *args):
        pass

    def stored(self, repo: str, revision: str = "main") -> tuple[dict[str, bytes], str]:
        """The files of `repo` and their commit, as they are now."""
        with self.hub.lock:
            if repo not in self.hub.repos:
                raise _Refused(404, "Repository not found", "RepoNotFound")
            files = dict(sorted(self.hub.repos[repo].items()))
        sha = hashlib.sha1(repr([(path, _oid(path, files[path])) for path in files]).encode()).hexdigest()
        if revision not in ("", "main", sha):
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return files, sha

    def create_repo(self):
        request = json.loads(self.body)
        repo = f"{request.get('organization') or 'tester'}/{request['name']}"
        with self.hub.lock:
            exists = repo in self.hub.repos
            self.hub.repos.setdefault(repo, {})
        answer = {"name": repo, "url": f"{self.hub.url}/{repo}"}  # with `exist_ok` the client reads it from a 409, too
        self.send(409, {**answer, "error": "You already created this model repo"}) if exists else self.send(200, answer)

    def validate_yaml(self):
        has_metadata = json.loads(self.body)["content"].startswith("---")
        warnings = [] if has_metadata else [{"message": "empty or missing yaml metadata in repo card"}]
        self.send(200, {"errors": [], "warnings": warnings})

    def preupload(self, repo, revision):
        files, _ = self.stored(repo, revision)
        answers = []
        for path, size in ((file["path"], file["size"]) for file in json.loads(self.body)["files"]):
            answer = {"path": path, "uploadMode": "lfs" if _is_lfs(path, size) else "regular", "shouldIgnore": False}
            if path in files:
                answer["oid"] = _oid(path, files[path])  # the client leaves unchanged files out of the commit
            answers.append(answer)
        self.send(200, {"files": answers})

    def lfs_batch(self, repo):
        self.stored(repo)  # refuses where there is no such repo
        objects = json.loads(self.body)["objects"]
        for item in objects:
            action = {"href": f"{self.hub.url}/lfs/{item['oid']}"}
            item["actions"] = {"upload": action, "verify": action}
        self.send(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise _Refused(400, "The content does not have the sha256 it was announced with")
        self.hub.lfs_objects[oid] = self.body
        self.send(200, b"")

    def lfs_verify(self, oid):
        if len(self.hub.lfs_objects.get(oid, b"")) != json.loads(self.body)["size"]:
            raise _Refused(404, "The object was not uploaded")
        self.send(200, {})

    def commit(self, repo, revision):
        files, _ = self.stored(repo, revision)
        for operation in map(json.loads, self.body.splitlines()):
            key, value = operation["key"], operation["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.hub.lfs_objects:
                    raise _Refused(400, f"The LFS object of {value['path']} was not uploaded")
                files[value["path"]] = self.hub.lfs_objects[value["oid"]]
            elif key in ("deletedFile", "deletedFolder"):
                gone = value["path"].rstrip("/")
                files = {path: data for path, data in files.items() if not f"{path}/".startswith(f"{gone}/")}
        with self.hub.lock:  # all of it or nothing
            self.hub.repos[repo].clear()
            self.hub.repos[repo].update(files)
        sha = self.stored(repo)[1]
        self.send(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{sha}"})

    def model_info(self, repo, revision):
        files, sha = self.stored(repo, revision)
        blobs = {path: _blob(path, files[path]) if "blobs" in self.query else {} for path in files}
        siblings = [{"rfilename": path, **blobs[path]} for path in files]
        self.send(200, {"id": repo, "modelId": repo, "sha": sha, "private": False, "siblings": siblings})

    def tree(self, repo, revision, folder):
        files, _ = self.stored(repo, revision)
        if self.query.get("recursive") != ["true"]:
            raise _Refused(400, "This server lists trees only with recursive=True")
        paths = [path for path in files if path.startswith(f"{folder}/" if folder else "")]
        self.send(200, [{"type": "file", "path": path, **_blob(path, files[path])} for path in paths])

    def resolve(self, repo, revision, path):
        files, sha = self.stored(repo, revision)
        if path not in files:
            raise _Refused(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": sha})
        content, size, start, status = files[path], len(files[path]), 0, 200
        etag = f'"{_oid(path, content)}"'
        headers = {"ETag": etag, "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if _is_lfs(path, size):
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(size)}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(wanted[1]), min(int(wanted[2] or size) + 1, size)
            status, content = 206, content[start:stop]
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self.send(status, content, cut=self.hub.cut(start, size) if self.command == "GET" else None, **headers)

    _REPO, _REVISION = r"(?P<repo>[\w.-]+(?:/[\w.-]+)?)", r"(?P<revision>[^/]+)"
    ROUTES = (
        (r"POST /api/repos/create", create_repo),
        (r"POST /api/validate-yaml", validate_yaml),
        (rf"POST /api/models/{_REPO}/preupload/{_REVISION}", preupload),
        (rf"POST /{_REPO}\.git/info/lfs/objects/batch", lfs_batch),
        (r"PUT /lfs/(?P<oid>[0-9a-f]{64})", lfs_upload),
        (r"POST /lfs/(?P<oid>[0-9a-f]{64})", lfs_verify),
        (rf"POST /api/models/{_REPO}/commit/{_REVISION}", commit),
        (rf"GET /api/models/{_REPO}(?:/revision/{_REVISION})?", model_info),
        (rf"GET /api/models/{_REPO}/tree/{_REVISION}(?:/(?P<folder>.+))?", tree),
        (rf"(?:GET|HEAD) /{_REPO}/resolve/{_REVISION}/(?P<path>.+)", resolve),
    )


def point_client_at(url: str, monkeypatch, cache_dir) -> None:
    """Make the huggingface_hub and diffusers of this process, and processes started from it, use the Hub at `url`.

    They read their settings from the environment when they are imported, so the constants are replaced wherever a
    module holds a copy. All of it goes through pytest's `monkeypatch` and ends with the test, except that a module
    first imported during the test may have copied a replaced constant: import what the test needs beforehand.
    """
    from huggingface_hub import close_session, file_download, hf_api
    from huggingface_hub.utils import _http

    constants = {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HUGGINGFACE_CO_RESOLVE_ENDPOINT": url,
        "HF_HUB_CACHE": str(cache_dir),
        "HF_MODULES_CACHE": f"{cache_dir}/modules",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,  # it makes a request of its own and keeps the answer outside the cache
        "DOWNLOAD_CHUNK_SIZE": 1 << 16,  # a resumed download keeps whole chunks; of 10 MB, a test file has none
    }
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("huggingface_hub", "diffusers", "transformers", "peft", "lavieid_adapters"):
            for constant in constants.keys() & vars(module).keys():
                monkeypatch.setattr(module, constant, constants[constant])
    monkeypatch.setattr(hf_api.api, "endpoint", url)

    environment = {"HF_ENDPOINT": url, "HF_HUB_CACHE": str(cache_dir), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_test"}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "127.0.0.1"}
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    close_session()  # the shared HTTP client has read the proxy settings already

    # The client waits up to 8 s between attempts, which is no use here.
    hasty = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: time.sleep(min(seconds, 0.01))})
    for module in (file_download, _http):
        monkeypatch.setattr(module, "time", hasty)
