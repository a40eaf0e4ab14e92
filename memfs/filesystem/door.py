"""The door: where users may ask who have no right to the control socket.

A user reads `user.memfs.ask` of a directory, which tells the address of a socket and gives a token.
The kernel has seen by then that the user can go to that directory and read it; the token shows that
to the socket, where the kernel tells who has connected. A user who writes the token back into the
attribute shows that it may change the directory as well. A mount that is read-only, as in some
containers, takes no attribute.

Invariant: a token is good once, for the user who has read it, below the directory that it was read
from, and a minute; and for changes only once it was written back.
"""

from __future__ import annotations

import json
import secrets

from memfs.bounded import BoundedDict
from memfs.errors import InvalidValueError, NotPermittedError
from memfs.hot.tokens import SECRET_BYTES, TOKEN_CHARS_MAX, TokenSigner, TokenVerifier
from memfs.types import InodeNo

_ADDRESS_BYTES = 16

SHOWN_COUNT_MAX = 256
"""Tokens of a user remembered that were written back; of more, the oldest are not good for changes.
Guess."""

USER_COUNT_MAX = 128
"""Users of whom any are remembered, 20 MB at most; the one who wrote the longest time ago is
forgotten. Guess."""


class Door:
    """The address of one mount, and its tokens."""

    def __init__(self) -> None:
        secret = secrets.token_bytes(SECRET_BYTES)
        self._signer = TokenSigner(secret)
        self._verifier = TokenVerifier(secret)
        self._shown: BoundedDict[int, BoundedDict[str, InodeNo]] = BoundedDict(USER_COUNT_MAX)
        """Directories by the token that was written into their attribute, by who wrote it: no user
        pushes out the tokens of another one."""
        self._name = f"memfs-ask-{secrets.token_hex(_ADDRESS_BYTES)}"

    @property
    def address(self) -> str:
        """An abstract address (unix(7)), which nobody else can have taken before."""
        return f"\0{self._name}"

    def ticket(self, uid: int, directory: InodeNo) -> str:
        """Return what the xattr of a directory tells a user, in JSON."""
        return json.dumps({"socket": self._name, "token": self._signer.sign(directory, 0, uid)})

    def show(self, token: str, uid: int, directory: InodeNo) -> None:
        """A user has written a token into the attribute of a directory.

        Raises:
            InvalidValueError: It is longer than any token.
        """
        if len(token) > TOKEN_CHARS_MAX:
            raise InvalidValueError("that is no token of this mount")
        known = self._shown.get(uid)
        # Set anew, so that it is the newest one.
        self._shown[uid] = known = known if known is not None else BoundedDict(SHOWN_COUNT_MAX)
        known[token] = directory

    def admit(self, token: str, uid: int, *, changes: bool = False) -> InodeNo:
        """Take a token.

        Args:
            token: As the user has sent it.
            uid: Who the kernel says has sent it.
            changes: The user wants to change something.

        Returns:
            The directory that it was read from; it is for what lies below.

        Raises:
            NotPermittedError: It is forged, expired, spent, another user's, or not for changes.
        """
        written = self._shown.get(uid)
        shown = None if written is None else written.pop(token, None)
        claim = self._verifier.redeem(token, uid)
        if changes and shown != claim.ino:
            raise NotPermittedError("the token was not written back: it is not for changes")
        return InodeNo(claim.ino)
