"""Models and texts on the Hugging Face hub: what is in its cache, and downloads that never hang. No torch on import."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from prunebench.core.errors import MissingData

T = TypeVar("T")

DEFAULT_ENDPOINT = "https://huggingface.co"
"""Where the hub is, unless HF_ENDPOINT names a mirror."""
CONNECT_SECONDS = 5.0
"""How long the hub may take to answer before it counts as out of reach."""


def offline() -> bool:
    """Whether the user has forbidden downloads by HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE."""
    return any(
        os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def named(repository: str) -> bool:
    """Whether a text can be the name of a repository on the hub ("owner/name"), and is not a path."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public by its documentation

    try:
        validate_repo_id(repository)
    except HFValidationError:
        return False
    return True


def cached(repository: str, filename: str, kind: str = "model") -> bool:
    """Whether a file of a repository ("owner/name") is in the hub's cache. Uses no network."""
    from huggingface_hub import try_to_load_from_cache

    return named(repository) and isinstance(try_to_load_from_cache(repository, filename, repo_type=kind), str)


def fetched(what: str, repository: str, fetch: Callable[[], T]) -> T:
    """What `fetch` returns, after making sure that the hub can be reached, with one line of error if it cannot.

    Parameters
    ----------
    what : what messages call it, for example "model"
    repository : "owner/name"
    fetch : downloads and returns

    Raises
    ------
    MissingData   downloads are forbidden, there is no network, or the hub does not give it
    """
    if offline():
        raise MissingData(
            f"{what} {repository!r} is not in the hub's cache and HF_HUB_OFFLINE forbids downloads; "
            "unset it, or give the path of the files"
        )
    refusal = _unreachable()
    if refusal:
        raise MissingData(
            f"{what} {repository!r} is not on this machine nor in the hub's cache, and the hub cannot be reached "
            f"({refusal}); download it where there is a network and give its path, or set HF_HOME to a filled cache"
        )
    try:
        return fetch()
    except (OSError, ValueError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise MissingData(
            f"{what} {repository!r} cannot be had from the hub ({first}); check the name, and log in with "
            "'hf auth login' if it is gated"
        ) from error


def hub_file(what: str, repository: str, filename: str) -> Path:
    """A file of a data set on the hub, out of the cache or downloaded into it.

    Raises
    ------
    MissingData   as `fetched`
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    held = try_to_load_from_cache(repository, filename, repo_type="dataset")
    if isinstance(held, str):
        return Path(held)
    return Path(fetched(what, repository, lambda: hf_hub_download(repository, filename, repo_type="dataset")))


def _unreachable() -> str:
    """Why the hub, or the proxy before it, cannot be reached; "" if it can. Takes CONNECT_SECONDS at most."""
    address = os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    proxy = next((os.environ[name] for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY") if os.environ.get(name)), "")
    parts = urlsplit(proxy or address)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError as error:
        return str(error)
    return ""
