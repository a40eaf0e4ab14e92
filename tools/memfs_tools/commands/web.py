"""`memfs web`."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from memfs.errors import UsageError
from memfs_tools.arguments import MOUNTPOINT, GivenPath, price_options, repricing
from memfs_tools.mounts import require_mount
from memfs_tools.terminal import complain, tell

if TYPE_CHECKING:
    from pathlib import Path

    from memfs_tools.web.gate import Secrets

_TOKEN_BYTES_MIN = 20
_TOKEN_BYTES_MAX = 200


@click.command()
@click.argument("mountpoint", type=MOUNTPOINT)
@click.option(
    "--listen",
    metavar="ADDRESS",
    default="127.0.0.1:0",
    show_default=True,
    help="HOST:PORT, PORT, or unix:PATH; port 0 is any that is free.",
)
@click.option(
    "--remote", is_flag=True, help="Let other machines connect, where --listen says so; see below."
)
@click.option(
    "--name",
    "names",
    metavar="HOST",
    multiple=True,
    help="A name that browsers have for this machine, as behind a proxy; repeatable.",
)
@click.option(
    "--token-file",
    type=GivenPath(dir_okay=False),
    help="Take the token from there, and make the file if it is missing; else it is new each time.",
)
@price_options
def web(
    mountpoint: Path,
    listen: str,
    remote: bool,
    names: tuple[str, ...],
    token_file: Path | None,
    prices: tuple[str, ...],
    currency: str | None,
) -> None:
    """Show a mount live in a browser: tiers, flows, files to browse, search and pin.

    \b
    memfs web /mnt/data
    memfs web --listen 8765 --token-file ~/.memfs-token /mnt/data
    memfs web --listen unix:/run/user/1000/memfs.sock /mnt/data
    ssh -L 8765:localhost:8765 server        then open the address that it has printed

    It prints an address with a token, and runs until Ctrl-C. The address lets people look at all
    names of the mount, and pin and unpin as the user who runs the command. The server is a process
    of its own: the daemon opens no port.

    Without --remote it listens on this machine only. With --remote all that is shown goes over the
    network as it is, the token too: put a proxy with TLS before it, and give its name by --name.

    The path `metrics` below that address has what `memfs metrics` prints; Prometheus shows the
    token by `authorization`.
    """  # noqa: D301 - \b is for click: keep the lines below as they are
    served = require_mount(mountpoint)
    try:
        from memfs_tools.web.gate import Secrets as MadeSecrets
        from memfs_tools.web.serving import parse_address, serve
    except ImportError as error:
        raise UsageError(f"{error.name} is missing: pip install 'memfs-tiers[web]'") from None
    address, reprice = parse_address(listen), repricing(prices, currency)
    if not address.is_loopback and not remote:
        raise UsageError(
            f"{address.host} can be reached from other machines, and nothing is encrypted; "
            "say --remote if that is meant"
        )
    keys = MadeSecrets.make() if token_file is None else _read_token(token_file)
    # Who may not ask is told so here, and not by the page.
    served.status()

    def tell_address(where: str) -> None:
        tell(where)
        sys.stdout.flush()
        complain(f"{served.mountpoint} is shown there until Ctrl-C")

    serve(served.mountpoint, keys, address, names, tell_address, reprice)


def _read_token(path: Path) -> Secrets:
    from memfs.encryption.secret_files import read_secret_file
    from memfs_tools.web.gate import Secrets as MadeSecrets

    if not os.path.lexists(path):
        keys = MadeSecrets.make()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(f"{keys.token}\n")
        return keys
    token = read_secret_file(path.absolute(), "--token-file")
    is_word = token.isascii() and all(each.isalnum() or each in "-_" for each in token)
    if not is_word or not _TOKEN_BYTES_MIN <= len(token) <= _TOKEN_BYTES_MAX:
        raise UsageError(
            f"{path} holds no token: {_TOKEN_BYTES_MIN} to {_TOKEN_BYTES_MAX} letters, digits, - "
            "and _; remove the file to have one made"
        )
    return MadeSecrets(token)
