"""A bucket of S3: the keys below a prefix of it, and single requests about them, through s3fs.

Invariant: each request goes by the session that the file system has at that moment, so all parts of
a store use renewed credentials as soon as they are read.

Methods that are no coroutines block for a request, in the worker threads of a store.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from s3fs.core import _error_wrapper

from memfs.stores.objects import run_in_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import s3fs

    from memfs.stores.s3_bodies import Part

T = TypeVar("T")

CLIENT_ATTEMPTS = 2
"""One retry inside the client for a reset connection; all others are `stores.retry`'s."""


class Bucket:
    """The keys below a prefix of a bucket.

    Args:
        fs: Has the sessions.
        root: The name of the bucket, and the prefix behind a slash, if there is one.
    """

    def __init__(self, fs: s3fs.S3FileSystem, root: str) -> None:
        self._fs = fs
        self.name, _, self._prefix = root.partition("/")

    def whole(self, key: str) -> str:
        """Return a key as the bucket has it, with the prefix."""
        return f"{self._prefix}/{key}" if self._prefix else key

    def own(self, whole_key: str) -> str:
        """Return a key without the prefix, the reverse of `whole`."""
        return whole_key[len(self.whole("")) :]

    def target(self, key: str) -> dict[str, str]:
        """Return the parameters that name an object."""
        return {"Bucket": self.name, "Key": self.whole(key)}

    def below(self, prefix: str) -> dict[str, str]:
        """Return the parameters that name the objects whose keys begin with a prefix."""
        return {"Bucket": self.name, "Prefix": self.whole(prefix)}

    def call(self, method: str, /, **parameters: object) -> dict[str, Any]:
        """Make a request without a body; returns the answer.

        Raises:
            OSError: As s3fs translates what S3 answers.
            botocore.exceptions.BotoCoreError: The connection failed.
        """
        return self.wait(partial(self.call_async, method, **parameters))

    async def call_async(self, method: str, /, **parameters: object) -> dict[str, Any]:
        """Do as `call`, in the thread of the file system."""
        answer: dict[str, Any] = await self._fs._call_s3(method, **parameters)
        return answer

    def head(self, key: str) -> dict[str, Any]:
        """Return what S3 tells of an object without its bytes; raises as `call`."""
        return self.call("head_object", **self.target(key))

    def wait(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run one coroutine in the thread of the file system, and wait for it."""
        return run_in_loop(self._fs, function)

    async def client(self) -> Any:  # noqa: ANN401  botocore makes its class
        """Return the client of the session, for requests by its own methods."""
        return await self._fs.get_s3(self.name)

    async def send(self, name: str, body: BinaryIO | Part, **parameters: object) -> dict[str, Any]:
        """Make a request with a body, of which a small piece at a time is copied.

        Bytes are handed over as a file: the transport copies what the socket does not take at
        once, all of a part as a rule. Each attempt sends it from its beginning, where the client's
        own retry would go on behind what it has read.

        Raises:
            OSError, botocore.exceptions.BotoCoreError: As `call`.
        """
        await self._fs.set_session()
        method = getattr(await self.client(), name)

        async def attempt(**parameters: object) -> dict[str, Any]:
            body.seek(0)
            answer: dict[str, Any] = await method(Body=body, **parameters)
            return answer

        parameters = self._fs._get_s3_method_kwargs(method, **parameters)
        result: dict[str, Any] = await _error_wrapper(
            attempt, kwargs=parameters, retries=CLIENT_ATTEMPTS
        )
        return result
