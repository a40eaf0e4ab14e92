"""The door: where users may ask who have no right to the control socket.

A user reads `user.memfs.ask` of the root of the mount, which tells the address of a socket and
gives a token. The kernel has seen by then that the user can go to the mount and read its root; the
token shows that to the socket, where the kernel tells who has connected.

Invariant: a token is good once, for the user who has read it, and a minute.
"""

from __future__ import annotations

import json
import secrets

from memfs.hot.tokens import SECRET_BYTES, TokenSigner, TokenVerifier
from memfs.types import ROOT_INODE

_ADDRESS_BYTES = 16


class Door:
    """The address of one mount, and its tokens."""

    def __init__(self) -> None:
        secret = secrets.token_bytes(SECRET_BYTES)
        self._signer = TokenSigner(secret)
        self._verifier = TokenVerifier(secret)
        self._name = f"memfs-ask-{secrets.token_hex(_ADDRESS_BYTES)}"

    @property
    def address(self) -> str:
        """An abstract address (unix(7)), which nobody else can have taken before."""
        return f"\0{self._name}"

    def ticket(self, uid: int) -> str:
        """Return what the xattr tells a user, in JSON."""
        return json.dumps({"socket": self._name, "token": self._signer.sign(ROOT_INODE, 0, uid)})

    def admit(self, token: str, uid: int) -> None:
        """Take a token.

        Args:
            token: As the user has sent it.
            uid: Who the kernel says has sent it.

        Raises:
            NotPermittedError: It is forged, expired, spent, or another user's.
        """
        self._verifier.redeem(token, uid)
