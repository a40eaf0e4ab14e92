"""Tokens: proof that a user may read a file, from the daemon to the hot server.

Invariant: a token is good once, for one user, one generation of one file, and a minute.

The kernel has checked the permissions when a program reads the token through the mount; the server
needs to ask nobody. Source: HMAC-SHA256 as in RFC 2104.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import secrets
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
    nonce: str


class TokenSigner:
    """Makes tokens.

    Args:
        secret: Known to the server as well.
        clock: Seconds since boot.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float] = boot_s) -> None:
        self._secret = secret
        self._clock = clock

    def sign(self, ino: int, generation: int, uid: int) -> str:
        """Return a token for one generation of a file, for a user."""
        claim = Claim(ino, generation, uid, self._clock() + TOKEN_S, secrets.token_hex(8))
        body = json.dumps(list(claim)).encode()
        return base64.urlsafe_b64encode(_sign(self._secret, body) + body).decode()


class TokenVerifier:
    """Takes tokens.

    Args:
        secret: That of the signer.
        clock: Seconds since boot.
    """

    def __init__(self, secret: bytes, clock: Callable[[], float] = boot_s) -> None:
        self._secret = secret
        self._clock = clock
        self._spent: dict[str, float] = {}
        """Expiry by nonce, the oldest first."""

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
        while self._spent and next(iter(self._spent.values())) <= now_s:
            del self._spent[next(iter(self._spent))]
        if claim.nonce in self._spent:
            raise NotPermittedError("the token was used before; read a new one")
        self._spent[claim.nonce] = claim.expiry_s
        return claim

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
