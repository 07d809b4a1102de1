"""Start the hub, to which the real W&B client talks as it does to the cloud.

python -m sweeps.hub [--root runs/hub] [--host 127.0.0.1] [--port 8990] [--key KEY] [--url URL] [--settings]
"""

import argparse
import hmac
import ipaddress
import signal
import socket
import sys
from pathlib import Path

import uvicorn
import wandb

from sweeps.hub.api import ENTITY, Api
from sweeps.hub.app import make_app

KEY = "local" * 8
"""Key of a hub on loopback: the client insists on 40 characters."""
SETTINGS = Path("wandb/settings")
OURS = "# of the hub: removed when it stops\n"


def main(args: list[str]) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    given = parse(args)
    key = given.key or KEY
    if not loopback(given.host) and (len(key) < 40 or hmac.compare_digest(key, KEY)):
        raise ValueError(
            f"--host={given.host} is no loopback address: give --key=KEY, 40 random characters or more"
        )
    if given.settings and wandb_login():
        raise ValueError(
            "--settings would send runs to the hub that you are logged in for to send to W&B: log out, or use "
            "`make sweep BACKEND=local`"
        )
    with socket.create_server((given.host, given.port)) as listening:
        port = listening.getsockname()[1]
        url = (
            given.url
            or f"http://{given.host if loopback(given.host) else socket.gethostname()}:{port}"
        )
        app = make_app(Api(given.root, given.sweeps, key, url, given.heartbeat_timeout_s))
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            if given.settings:
                point_client_here(url, key)
            print(f"hub: {url}", flush=True)
            uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")).run(
                sockets=[listening]
            )
        finally:
            if given.settings:
                leave_client_alone()


def parse(args: list[str]) -> argparse.Namespace:
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
    parser.add_argument("--key", help="that clients must show; needed beyond loopback")
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
    return parser.parse_args(args)


def loopback(host: str) -> bool:
    """Raises ValueError for a name other than localhost, which may mean any address."""
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


def wandb_login() -> bool:
    """Whether the client has a key, other than one that the hub has written."""
    return not points_here() and bool(wandb.login(prompt=False))


def points_here() -> bool:
    """Whether a hub has told the clients of this folder where it is: one that runs, or that was killed."""
    return SETTINGS.exists() and SETTINGS.read_text().startswith(OURS)


def point_client_here(url: str, key: str) -> None:
    SETTINGS.parent.mkdir(exist_ok=True)
    SETTINGS.write_text(f"{OURS}[default]\nbase_url = {url}\nentity = {ENTITY}\napi_key = {key}\n")


def leave_client_alone() -> None:
    if points_here():
        SETTINGS.unlink()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
