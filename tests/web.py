"""A server on localhost that answers ranges, as object stores do, and counts what it sent."""

import contextlib
import dataclasses
import http.server
import pathlib
import re
import threading


@dataclasses.dataclass
class Served:
    """An address whose paths are the files of a folder, what was asked of it, and how it is to fail."""

    address: str
    requests: list[str] = dataclasses.field(default_factory=list)
    sent: dict[str, int] = dataclasses.field(default_factory=dict)  # bytes of the bodies, by path
    failures: dict[str, int] = dataclasses.field(default_factory=dict)  # how many of a path's next requests fail
    cut: dict[str, int] = dataclasses.field(default_factory=dict)  # bytes after which an answer breaks off, by path


@contextlib.contextmanager
def serve(folder: pathlib.Path):
    """Serve a folder while the block runs."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self, body=True):
            path = self.path.partition("?")[0]
            served.requests.append(f"{self.command} {self.path}")
            if served.failures.get(path, 0) > 0:
                served.failures[path] -= 1
                self.send_error(503)
                return
            file = folder / path.lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            data = file.read_bytes()
            size = len(data)
            if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                first, last = int(match[1]), min(int(match[2] or size - 1), size - 1)
                data = data[first : last + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            else:
                self.send_response(200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if path in served.cut:
                self.wfile.write(data[: served.cut[path]])
                self.close_connection = True
                return
            if body:
                self.wfile.write(data)
                served.sent[path] = served.sent.get(path, 0) + len(data)

        def do_HEAD(self):
            self.do_GET(body=False)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Served(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
