"""An origin of HTTP/1.1 that tells what it was sent: method, length and SHA-256 of the body, and how it was framed.

Listens on a port of 127.0.0.1 that it prints.
"""
import hashlib
import http.server
import socketserver
import sys


class Origin(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body in one write each, at once.
    disable_nagle_algorithm = True

    def answer(self):
        if "chunked" in self.headers.get("transfer-encoding", ""):
            framing, pieces = "chunked", self.chunks()
        else:
            framing, pieces = "length", self.sized(int(self.headers.get("content-length", 0)))
        digest, length = hashlib.sha256(), 0
        for piece in pieces:
            digest.update(piece)
            length += len(piece)
        body = f"{self.command} {length} {digest.hexdigest()} {framing} {self.headers.get('expect')}\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def sized(self, left):
        while left:
            piece = self.rfile.read(min(left, 65536))
            if not piece:
                raise ConnectionError("the body ended early")
            left -= len(piece)
            yield piece

    def chunks(self):
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, *args):
        pass


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 1024


with Server(("127.0.0.1", 0), Origin) as server:
    print(server.server_address[1])
    sys.stdout.flush()
    server.serve_forever()
