"""Tokens: good once, for one user and a minute, and for nobody who made one up."""

from __future__ import annotations

import base64
import json
import tracemalloc

import pytest

from memfs.errors import NotPermittedError
from memfs.hot.tokens import SECRET_BYTES, TOKEN_S, TokenSigner, TokenVerifier

SECRET = b"s" * SECRET_BYTES


class Clock:
    """Seconds since boot, as the test says."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_token_says_what_it_was_made_for() -> None:
    """Inode, generation and user."""
    claim = TokenVerifier(SECRET).redeem(TokenSigner(SECRET).sign(12, 3, 1000), 1000)
    assert (claim.ino, claim.generation, claim.uid) == (12, 3, 1000)


def test_a_token_is_good_once() -> None:
    """Who overhears one that was used has nothing."""
    verifier, token = TokenVerifier(SECRET), TokenSigner(SECRET).sign(1, 1, 0)
    verifier.redeem(token, 0)
    with pytest.raises(NotPermittedError, match="used before"):
        verifier.redeem(token, 0)


def test_a_token_of_another_user_is_refused_and_stays_good_for_its_own() -> None:
    """Root's too: the kernel says who is at the other end."""
    verifier, token = TokenVerifier(SECRET), TokenSigner(SECRET).sign(1, 1, 1000)
    for uid in (0, 1001):
        with pytest.raises(NotPermittedError, match=f"of user 1000, not of {uid}"):
            verifier.redeem(token, uid)
    assert verifier.redeem(token, 1000).ino == 1


def test_a_minute_of_tokens_takes_little_memory_and_each_stays_spent() -> None:
    """An ordinary user can spend thousands a second, and reads more of them than are spent."""
    clock = Clock()
    verifier, signer = TokenVerifier(SECRET, clock), TokenSigner(SECRET, clock)
    tokens = [signer.sign(1, 1, 1000) for _ in range(20_000)]
    tracemalloc.start()
    try:
        for token in tokens[::2]:
            verifier.redeem(token, 1000)
        taken_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert taken_bytes < 20_000
    for token in tokens[::400]:
        with pytest.raises(NotPermittedError, match="used before"):
            verifier.redeem(token, 1000)
    for token in tokens[1::400]:
        assert verifier.redeem(token, 1000).uid == 1000


def test_a_token_expires_and_is_remembered_no_longer_than_that() -> None:
    """Memory of spent tokens is bounded by what a minute brings."""
    clock = Clock()
    verifier, signer = TokenVerifier(SECRET, clock), TokenSigner(SECRET, clock)
    late = signer.sign(1, 1, 0)
    for _ in range(10):
        verifier.redeem(signer.sign(1, 1, 0), 0)
    clock.now_s += TOKEN_S
    with pytest.raises(NotPermittedError, match="expired"):
        verifier.redeem(late, 0)
    verifier.redeem(signer.sign(2, 1, 0), 0)
    assert len(verifier._spent) == 1


@pytest.mark.parametrize(
    "token",
    [
        "",
        "no token",
        "A" * 10_000,
        base64.urlsafe_b64encode(b"short").decode(),
        base64.urlsafe_b64encode(bytes(SECRET_BYTES) + b"[1, 1, 0, 1e9, 'x']").decode(),
        TokenSigner(b"another").sign(1, 1, 0),
        "é" * 80,
    ],
    # A token holds the time: all test processes must call it alike.
    ids=["empty", "words", "long", "short", "wrong_fields", "of_another_mount", "not_ascii"],
)
def test_what_this_mount_did_not_sign_is_no_token(token: str) -> None:
    """Whatever arrives, the answer is a refusal."""
    with pytest.raises(NotPermittedError, match="not a token of this mount"):
        TokenVerifier(SECRET).redeem(token, 0)


def test_a_changed_token_is_refused() -> None:
    """The signature covers every field."""
    decoded = base64.urlsafe_b64decode(TokenSigner(SECRET).sign(1, 1, 1000))
    fields = json.loads(decoded[SECRET_BYTES:])
    fields[0] = 2
    forged = base64.urlsafe_b64encode(decoded[:SECRET_BYTES] + json.dumps(fields).encode())
    with pytest.raises(NotPermittedError, match="not signed"):
        TokenVerifier(SECRET).redeem(forged.decode(), 1000)
