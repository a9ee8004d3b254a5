"""Whether the Hub can be reached: asked once and briefly, instead of half a minute of retries."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

SECONDS: Final = 5.0
"""How long an answer may take, names looked up included."""


def hub_answers(endpoint: str) -> bool:
    """Whether something accepts connections where the Hub is, or where the proxy to it is.

    Args:
        endpoint: The Hub's address, a URL.
    """
    hub = urlsplit(endpoint)
    proxy = None if proxy_bypass(hub.hostname or "") else getproxies().get(hub.scheme or "https")
    asked = urlsplit(proxy if "//" in proxy else f"//{proxy}") if proxy else hub
    port = asked.port or (80 if asked.scheme == "http" else 443)
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((asked.hostname or "", port), SECONDS).close()
        except OSError:
            return
        finally:
            done.set()
        answered.set()

    # In a thread, as looking up a name takes as long as it likes.
    done = threading.Event()
    threading.Thread(target=connect, daemon=True).start()
    done.wait(SECONDS)
    return answered.wait(0.01)


@contextmanager
def offline_if_unreachable() -> Iterator[str | None]:
    """Let `datasets` use its cache only, where the Hub cannot be reached.

    Yields:
        Why the Hub is not asked; None where it is.
    """
    from datasets import config

    if config.HF_HUB_OFFLINE or config.constants.HF_HUB_OFFLINE:
        yield "HF_HUB_OFFLINE is set"
        return
    if hub_answers(config.HF_ENDPOINT):
        yield None
        return
    config.HF_HUB_OFFLINE = config.constants.HF_HUB_OFFLINE = True
    try:
        yield f"{config.HF_ENDPOINT} does not answer"
    finally:
        config.HF_HUB_OFFLINE = config.constants.HF_HUB_OFFLINE = False
