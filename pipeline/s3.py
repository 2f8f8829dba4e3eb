"""Requests to S3: how long one may take, and how long one that fails is repeated.

The only module that imports s3fs. Its file system makes each request once and repeats
what fails for a passing reason until its patience ends. The tries of botocore and of
s3fs, which multiply each other and have no limit in time, are off.
"""

import asyncio
import errno
import itertools
import os
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import botocore.exceptions
import botocore.parsers
import s3fs

from pipeline.errors import InputError

PATIENCE_VARIABLE = "STREAMIXTURE_S3_PATIENCE"
# Long enough for a server to restart. With the time of the last try, a request
# that keeps failing ends in an error within a minute.
PATIENCE_SECONDS = 40.0
RESPONSE_SECONDS = 15.0
CONNECT_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 4.0

# What s3fs makes of 500, 502 to 504 and "slow down"; 4xx have other numbers.
_PASSING_NUMBERS = (errno.EBUSY, errno.EREMOTEIO, errno.EIO)
_PASSING = (
    TimeoutError,
    ConnectionError,
    aiohttp.ClientError,
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.IncompleteReadError,
    botocore.parsers.ResponseParserError,
)


def patience() -> float:
    """Seconds for which a request that fails for a passing reason is repeated.

    Raises
    ------
    InputError
        If the environment variable is no positive number.
    """
    text = os.environ.get(PATIENCE_VARIABLE, str(PATIENCE_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InputError(f"{PATIENCE_VARIABLE} is {text!r}; set it to seconds above 0")
    return seconds


def is_passing(error: BaseException) -> bool:
    """Whether the same request may succeed later.

    >>> is_passing(OSError(errno.EBUSY, "slow down")), is_passing(PermissionError())
    (True, False)
    """
    if isinstance(error, OSError) and error.errno in _PASSING_NUMBERS:
        return True
    return isinstance(error, _PASSING)


async def _persist(request: Callable[[], Awaitable[Any]]) -> Any:
    deadline = time.monotonic() + patience()
    for attempt in itertools.count():
        try:
            return await request()
        except Exception as error:
            if not is_passing(error) or time.monotonic() >= deadline:
                raise
        # At random, so that many workers do not come back all at once.
        wait = random.uniform(0.05, 0.1) * 2**attempt
        left = deadline - time.monotonic()
        await asyncio.sleep(max(min(wait, LONGEST_WAIT_SECONDS, left), 0.0))


class PatientFileSystem(s3fs.S3FileSystem):
    """s3fs with one policy of repeating, and bodies that are whole or an error."""

    retries = 1

    async def _call_s3(self, method: str, *options: Any, **arguments: Any) -> Any:
        once = super()._call_s3
        return await _persist(lambda: once(method, *options, **arguments))

    async def _cat_file(
        self,
        path: str,
        version_id: str | None = None,
        start: int | None = None,
        end: int | None = None,
        **_: Any,
    ) -> bytes:
        bucket, key, _version = self.split_path(path)
        options = {}
        if start is not None or end is not None:
            options["Range"] = await self._process_limits(path, start, end)
        once = super()._call_s3

        async def read() -> bytes:
            response = await once("get_object", Bucket=bucket, Key=key, **options)
            async with response["Body"] as body:
                data = await body.read()
            if len(data) != response["ContentLength"]:
                raise ConnectionError(
                    f"{len(data)} bytes came of {response['ContentLength']}"
                )
            return data

        return await _persist(read)


def connect(n_connections: int) -> PatientFileSystem:
    """File system whose endpoint and credentials come from the environment."""
    longest = patience() / 2
    return PatientFileSystem(
        skip_instance_cache=True,
        # Other processes write too: a listing kept is a listing that is wrong.
        use_listings_cache=False,
        config_kwargs={
            "connect_timeout": min(CONNECT_SECONDS, longest),
            "read_timeout": min(RESPONSE_SECONDS, longest),
            "max_pool_connections": n_connections,
            "retries": {"mode": "standard", "total_max_attempts": 1},
        },
    )
