"""Tokens: who has sent a published object, in the metadata of the object.

A token is `RANDOM-STATE-LIFE`. A state directory begins with a life; a state that is imported has
the identity of the one that was exported, and the life after that. So it knows the objects that its
former life has sent since the export, which no record tells of.

Invariant: two imports of one state are not the same life, but with a chance of one in 2**32.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from memfs.metadata.engine import Engine

LIFE_SETTING = "publish.life"

_STATE_LETTERS = 16
_NUMBER_LETTERS = 4


class Sender(NamedTuple):
    """One life of a state."""

    state: str
    life: str
    """Its number in hexadecimal, 4 digits, and what tells it from other imports."""

    @property
    def number(self) -> int:
        """How many imports there were before, at the least."""
        return int(self.life[:_NUMBER_LETTERS], 16)

    def make_token(self) -> str:
        """Return a token that nothing was sent with."""
        # Some places name what belongs to an upload by its first letters.
        return f"{secrets.token_hex(8)}-{self.state}-{self.life}"

    def has_sent(self, token: str) -> bool:
        """Return whether a token is of this life."""
        return token.endswith(f"-{self.state}-{self.life}")

    def inherits(self, token: str) -> bool:
        """Return whether the record of an object has come with an import, by its token."""
        return self.number > 0 and not self.has_sent(token)

    def had_sent(self, token: str) -> bool:
        """Return whether a token is of an earlier life."""
        _, *words = token.split("-")
        if len(words) != 2 or words[0] != self.state:
            return False
        return words[1][:_NUMBER_LETTERS] < self.life[:_NUMBER_LETTERS]


def make_life(number: int) -> bytes:
    """Return the setting of a life that begins.

    Args:
        number: 0 of a state that was not imported; 16 bits.
    """
    return f"{number & 0xFFFF:04x}{secrets.token_hex(4)}".encode()


async def sender_of(engine: Engine) -> Sender:
    """Return the present life of a state; the first call begins it where there is no life yet."""
    life = await engine.get_setting(LIFE_SETTING)
    if life is None:
        life = make_life(0)
        async with engine.change():
            await engine.put_setting(LIFE_SETTING, life)
    return Sender(engine.state_id.hex()[:_STATE_LETTERS], life.decode())
