"""Compressed answers for whoever takes no gzip: unpacked piece by piece, as they are taken."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from typing import Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PIECE: Final = 256 << 10
_GZIP: Final = 16 + zlib.MAX_WBITS


def unpacked(packed: bytes, media_type: str, headers: Mapping[str, str]) -> Response:
    """Return an answer whose body is a gzipped one, unpacked."""
    if _size(packed) > PIECE:
        return Unpacked(packed, media_type, headers)
    return Response(gzip.decompress(packed), media_type=media_type, headers=headers)


class Unpacked(Response):
    """Unpacks no more than its client takes: memory holds what is packed, once for all who ask.

    Parameters
    ----------
    packed : bytes
        Gzipped, one member.
    media_type : str
    headers : mapping of str to str
    """

    def __init__(self, packed: bytes, media_type: str, headers: Mapping[str, str]) -> None:
        super().__init__(media_type=media_type, headers={**headers, "Content-Length": str(_size(packed))})
        self._packed = packed

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Serve one request."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        unpacking, rest = zlib.decompressobj(_GZIP), self._packed
        while not unpacking.eof:
            piece, rest = unpacking.decompress(rest, PIECE), unpacking.unconsumed_tail
            if not (piece or rest or unpacking.eof):
                raise EOFError("a compressed answer ends too early")
            await send({"type": "http.response.body", "body": piece, "more_body": not unpacking.eof})


def _size(packed: bytes) -> int:
    return int.from_bytes(packed[-4:], "little")  # a gzip file ends with it
