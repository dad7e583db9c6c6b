"""A proxy in front of a server that behaves like a connection pooler, as far as its clients can tell."""

from __future__ import annotations

import contextlib
import socket
import threading


class Pooler:
    """A proxy that does what every pooler does: it tells its clients a process id of its own making."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._door = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> int:
        threading.Thread(target=self._serve, daemon=True).start()
        return int(self._door.getsockname()[1])

    def __exit__(self, *_: object) -> None:
        self._door.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    @staticmethod
    def _pass(client: socket.socket, server: socket.socket) -> None:
        # Whichever side hangs up first, the other thread may have closed both by now.
        with contextlib.suppress(OSError), server:
            while data := client.recv(65536):
                server.sendall(data)

    @staticmethod
    def _answer(server: socket.socket, client: socket.socket) -> None:
        """Pass the server's messages on, with another process id in the one that names it."""
        with contextlib.suppress(OSError), client, server.makefile("rb") as stream:
            while head := stream.read(5):
                body = stream.read(int.from_bytes(head[1:], "big") - 4)
                if head[:1] == b"K":
                    body = (99_999_999).to_bytes(4, "big") + body[4:]
                client.sendall(head + body)
