"""Passes bytes between one address and another, so that a test can stop the process in between."""

import socket
import sys
import threading


def address(text: str) -> tuple[str, int]:
    """An address from ``host:port``."""
    host, port = text.rsplit(":", 1)
    return host, int(port)


def pump(source: socket.socket, target: socket.socket) -> None:
    """Passes on what comes until it ends."""
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # The other direction has closed both.
        pass


def main() -> None:
    """Relays every connection to the first address to the second."""
    listener = socket.create_server(address(sys.argv[1]))
    while True:
        incoming, _ = listener.accept()
        outgoing = socket.create_connection(address(sys.argv[2]))
        for pair in ((incoming, outgoing), (outgoing, incoming)):
            threading.Thread(target=pump, args=pair, daemon=True).start()


if __name__ == "__main__":
    main()
