"""Tokens: proof that a user may read a file, from the daemon to the hot server.

Invariants:
- A token is good once, for one user, one generation of one file, and a minute.
- What a verifier remembers is a bit for each token that was made in the last minute, at most.

The kernel has checked the permissions when a program reads the token through the mount; the server
needs to ask nobody. Source: HMAC-SHA256 as in RFC 2104.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import itertools
import json
import time
from typing import TYPE_CHECKING, NamedTuple

from memfs.errors import NotPermittedError

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN_S = 60.0
"""For so long a token is good. Guess: spans a program that is stopped between reading it and using
it."""

TOKEN_CHARS_MAX = 512

SECRET_BYTES = 32

_BLOCK_BITS = 12
"""Tokens that are remembered together, as a power of two: 512 bytes."""


def boot_s() -> float:
    """Return the seconds since boot, which no clock change moves and all processes share."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Claim(NamedTuple):
    """What a token says."""

    ino: int
    generation: int
    uid: int
    expiry_s: float
    """By `boot_s`."""
    number: int
    """The signer's, from 0 on."""


class TokenSigner:
    """Makes tokens.

    Args:
        secret: Known to the server as well.
        clock: Seconds since boot.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float] = boot_s) -> None:
        self._secret = secret
        self._clock = clock
        self._numbers = itertools.count()

    def sign(self, ino: int, generation: int, uid: int) -> str:
        """Return a token for one generation of a file, for a user."""
        claim = Claim(ino, generation, uid, self._clock() + TOKEN_S, next(self._numbers))
        body = json.dumps(list(claim)).encode()
        return base64.urlsafe_b64encode(_sign(self._secret, body) + body).decode()


class _Block:
    """Tokens that follow each other: which are spent, and when the last of those expires."""

    __slots__ = ("expiry_s", "spent")

    def __init__(self) -> None:
        self.spent = bytearray(1 << (_BLOCK_BITS - 3))
        self.expiry_s = 0.0


class TokenVerifier:
    """Takes tokens.

    Args:
        secret: That of the signer, which no other signer has: tokens are told apart by its numbers.
        clock: Seconds since boot.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float] = boot_s) -> None:
        self._secret = secret
        self._clock = clock
        self._spent: dict[int, _Block] = {}
        """By the upper bits of their numbers, the oldest first. A table of the tokens themselves
        would take 150 bytes of each, and an ordinary user can spend thousands a second."""

    def redeem(self, token: str, uid: int) -> Claim:
        """Return what a token says, and no longer take it from now on.

        Args:
            uid: Who the kernel says that the program runs as.

        Raises:
            NotPermittedError: It is forged, expired, spent, or another user's.
        """
        claim = self._read(token)
        now_s = self._clock()
        if claim.expiry_s <= now_s:
            raise NotPermittedError("the token has expired; read a new one")
        if claim.uid != uid:
            raise NotPermittedError(f"the token is of user {claim.uid}, not of {uid}")
        while self._spent and next(iter(self._spent.values())).expiry_s <= now_s:
            del self._spent[next(iter(self._spent))]
        if not self._spend(claim):
            raise NotPermittedError("the token was used before; read a new one")
        return claim

    def _spend(self, claim: Claim) -> bool:
        """Remember that a token was used; False: it was before."""
        upper, lower = claim.number >> _BLOCK_BITS, claim.number & ((1 << _BLOCK_BITS) - 1)
        block = self._spent.get(upper)
        if block is None:
            block = self._spent[upper] = _Block()
        byte, bit = lower >> 3, 1 << (lower & 7)
        if block.spent[byte] & bit:
            return False
        block.spent[byte] |= bit
        block.expiry_s = max(block.expiry_s, claim.expiry_s)
        return True

    def _read(self, token: str) -> Claim:
        try:
            if len(token) > TOKEN_CHARS_MAX:
                raise ValueError("too long")
            decoded = base64.urlsafe_b64decode(token.encode())
            signature, body = decoded[:SECRET_BYTES], decoded[SECRET_BYTES:]
            if not hmac.compare_digest(signature, _sign(self._secret, body)):
                raise ValueError("not signed by this mount")
            return Claim(*json.loads(body))
        except (ValueError, TypeError, binascii.Error) as error:
            raise NotPermittedError(f"not a token of this mount: {error}") from None


def _sign(secret: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, body, "sha256")
