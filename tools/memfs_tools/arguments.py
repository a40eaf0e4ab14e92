"""Arguments of commands: what a word on the command line is taken for.

Invariant: to read a command line asks no file system anything, so that a command about a mount
whose daemon hangs does not hang itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from memfs.control.report import PricesReport

F = TypeVar("F", bound="Callable[..., object]")

_EMPTY = "the path is empty; name one, or `.` for the working directory"
"""An empty word is most often a variable of a script that is not set, and not that directory."""


if TYPE_CHECKING:
    _PathType = click.ParamType[Path]
else:
    # It takes no argument before click 8.4.
    _PathType = click.ParamType


class PlacePath(_PathType):
    """A path that is not looked at: `click.Path` asks for its attributes, whatever it is for."""

    name = "path"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        """Return the path as it is written; an empty one is refused."""
        if isinstance(value, Path):
            return value
        if not value:
            self.fail(_EMPTY, param, ctx)
        return Path(str(value))


class GivenPath(click.Path):
    """A path of a file or a directory, that may have to exist; an empty one is refused.

    Args:
        exists: It has to be there.
        file_okay: It may be a file.
        dir_okay: It may be a directory.
    """

    def __init__(
        self, *, exists: bool = False, file_okay: bool = True, dir_okay: bool = True
    ) -> None:
        super().__init__(exists=exists, file_okay=file_okay, dir_okay=dir_okay, path_type=Path)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """Return the path as it is written."""
        if value == "":
            self.fail(_EMPTY, param, ctx)
        return super().convert(value, param, ctx)


MOUNTPOINT = PlacePath()
"""Where a mount is, or is to be."""

MOUNT = click.option(
    "--mount",
    "place",
    type=MOUNTPOINT,
    help="Any path in the mount; by default the one around the working directory, or the only one.",
)
"""The mount that a command is about, where that is no path of its own."""

PATHS = click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=GivenPath())
"""Files and trees to work on."""

AS_JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")
"""One JSON document instead of what people read."""


def price_options(command: F) -> F:
    """Add `--price` and `--currency` to a command: its parameters `prices` and `currency`."""
    price = click.option(
        "--price",
        "prices",
        multiple=True,
        metavar="NAME=AMOUNT",
        help="What a GiB costs for a month on a tier (hot, warm, cold) or stored in the object "
        "store, and what requests (a thousand), received or sent (a GiB) cost; before [prices] of "
        "the configuration. May be given several times.",
    )
    currency = click.option("--currency", metavar="WORD", help="What prices are in, such as EUR.")
    return price(currency(command))


def repricing(
    prices: tuple[str, ...], currency: str | None
) -> Callable[[PricesReport], PricesReport]:
    """Return what puts the prices of the options before those of a mount.

    Raises:
        click.UsageError: A text is no price.
    """
    given: dict[str, str | float] = dict(map(_price, prices))
    if currency is not None:
        given["currency"] = currency
    return lambda known: known._replace(**given)  # type: ignore[arg-type]  # of `_price`


def _price(text: str) -> tuple[str, float]:
    from memfs.report.costs import PRICES

    name, _, amount = text.partition("=")
    try:
        price = float(amount)
    except ValueError:
        price = -1.0
    if name not in PRICES or not 0 <= price < 1e9:
        known = ", ".join(f"{name} ({what})" for name, what in PRICES.items())
        raise click.UsageError(f"{text!r} is no price; write NAME=AMOUNT, with one of {known}.")
    return name, price
