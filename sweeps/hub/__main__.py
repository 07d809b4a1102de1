"""Start the hub, to which the real W&B client talks as it does to the cloud.

python -m sweeps.hub [--root runs/hub] [--host 127.0.0.1] [--port 8990] [--url URL] [--settings]

Its key is in the file `key` of the root folder, where only its owner can read it.
"""

import argparse
import contextlib
import ipaddress
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn
import wandb

from sweeps.hub.api import ENTITY, Api
from sweeps.hub.app import make_app
from sweeps.hub.private import hub_key, write_private

SETTINGS = Path("wandb/settings")
"""File in which every W&B client that is started in this folder looks for its server."""
SETTINGS_MARK = "# of the hub: removed when it stops\n"
"""First line of settings that a hub has written."""


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        arguments: options, see `parse`.

    Raises:
        ValueError: the options would take runs from the cloud.
        OSError: the address is in use.
    """
    args = parse(arguments)
    if args.settings and has_wandb_login():
        raise ValueError(
            "--settings would send runs to the hub that you are logged in for to send to W&B: "
            "log out, or use `make sweep BACKEND=local`"
        )
    # An exception, so that key and settings are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with socket.create_server((args.host, args.port)) as listener, hub_key(args.root) as key:
        url = args.url or _url_of(args.host, listener)
        app = make_app(Api(args.root, args.sweeps, key, url, args.heartbeat_timeout_s))
        settings = client_settings(url, key) if args.settings else contextlib.nullcontext()
        with settings:
            # `sweeps.run` reads the URL from this line.
            print(f"hub: {url}", flush=True)
            config = uvicorn.Config(app, log_level="warning", lifespan="off")
            uvicorn.Server(config).run(sockets=[listener])


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m sweeps.hub")
    parser.add_argument(
        "--root", type=Path, default=Path("runs/hub"), help="folder of its database and files"
    )
    parser.add_argument(
        "--sweeps",
        type=Path,
        default=Path("sweeps"),
        help="folder of the files that agents may name",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8990, help="0: any that is free")
    parser.add_argument("--url", help="by which clients reach it")
    parser.add_argument(
        "--heartbeat-timeout-s",
        "--lease-s",
        type=float,
        default=60,
        help="seconds of silence after which a run is handed out again (default 60)",
    )
    parser.add_argument(
        "--settings", action="store_true", help=f"write {SETTINGS}: every client here finds the hub"
    )
    return parser.parse_args(arguments)


def is_loopback(host: str) -> bool:
    """Whether a host can only be reached from this machine.

    Raises:
        ValueError: it is a name other than localhost, which may stand for any address.
    """
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def _url_of(host: str, listener: socket.socket) -> str:
    """URL of a hub for which the user has given none."""
    _, port = listener.getsockname()[:2]
    # An address such as 0.0.0.0 is none that clients could use.
    name = host if is_loopback(host) else socket.gethostname()
    return f"http://{name}:{port}"


def has_wandb_login() -> bool:
    """Whether the client has a key, other than one that a hub has written."""
    if is_client_on_hub():
        return False
    try:
        return bool(wandb.login(prompt=False))
    # a key that the client does not accept
    except (wandb.Error, ValueError):
        return False


def is_client_on_hub() -> bool:
    """Whether the clients of this folder use a hub, which runs now or was killed."""
    return SETTINGS.exists() and SETTINGS.read_text().startswith(SETTINGS_MARK)


@contextlib.contextmanager
def client_settings(url: str, key: str) -> Iterator[None]:
    """A context in which the W&B clients of this folder use a hub.

    Args:
        url: of the hub.
        key: of the hub.
    """
    SETTINGS.parent.mkdir(exist_ok=True)
    try:
        write_private(
            SETTINGS,
            f"{SETTINGS_MARK}[default]\nbase_url = {url}\nentity = {ENTITY}\napi_key = {key}\n",
        )
        yield
    finally:
        # The user may have replaced them meanwhile.
        if is_client_on_hub():
            SETTINGS.unlink()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
