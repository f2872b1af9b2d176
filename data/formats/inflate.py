"""Compressed bytes, verified to their end and never more than announced.

Ordinary readers stop before a gzip trailer, so that a flipped bit or a wrong
checksum passes, and they allocate what a header claims.
"""

import zlib

from data.formats.scan_error import AGAIN, EXPORT, ScanError, need

# Of `zlib`: gzip alone, and gzip or zlib, whichever it is.
GZIP, EITHER = 31, 47
# Deflate makes no more bytes than this out of one.
_MAX_RATIO = 1032
# Programs pad the end of a volume; more is a volume that the header hides.
SLACK = 4096


def _decompress(decompressor, packed: bytes, most: int, file: str) -> bytes:
  """At most so many bytes."""
  try:
    return decompressor.decompress(packed, most)
  except zlib.error as error:
    words = f'damaged: compressed data or checksum wrong ({error})'
    raise ScanError(file, words, AGAIN) from error


def peek(raw: bytes, length: int, file: str) -> bytes:
  """The first bytes that a gzip file holds, at most `length`.

  Args:
    raw: the file's own first bytes; a part of them may be enough.
    length: how many are wanted.
    file: for the error.

  Raises:
    ScanError: they are damaged.
  """
  found, rest = b'', raw
  while rest[:2] == b'\x1f\x8b' and len(found) < length:
    decompressor = zlib.decompressobj(GZIP)
    found += _decompress(decompressor, rest, length - len(found), file)
    rest = decompressor.unused_data
  return found


def check_ratio(announced: int, compressed: int, file: str) -> None:
  """Checks that so few bytes can hold what a header announces.

  Raises:
    ScanError: they cannot; or they are far more than deflate ever makes of it.
  """
  need(
    announced <= _MAX_RATIO * compressed,
    file,
    f'its header announces {announced} bytes, which cannot come out of'
    f' {compressed}: truncated, or a damaged header',
    AGAIN,
  )
  _need_no_more(compressed <= 2 * announced + (1 << 20), announced, file)


def _need_no_more(sound: bool, announced: int, file: str) -> None:
  need(
    sound,
    file,
    f'holds more than the {announced} bytes its header announces',
    EXPORT + ': the dimensions in its header are not those of its voxels',
  )


def inflate(raw: bytes, announced: int, file: str, kind: int = GZIP) -> bytes:
  """All that compressed bytes hold; several gzip members are one file.

  Args:
    raw: the compressed bytes, whole.
    announced: how many bytes the header says that there are. At most `SLACK`
      more are accepted.
    file: for the errors.
    kind: `GZIP` or `EITHER`.

  Raises:
    ScanError: damaged, fewer bytes than announced, or more.
  """
  check_ratio(announced, len(raw), file)
  parts, length, rest = [], 0, raw
  while rest:
    decompressor = zlib.decompressobj(kind)
    # Never more than the header announces (and a little, to notice it).
    most = announced + SLACK - length
    parts.append(_decompress(decompressor, rest, most, file))
    length += len(parts[-1])
    if not decompressor.eof:
      _need_no_more(length <= announced, announced, file)
      words = f'truncated: {length} of {announced} bytes, or no gzip trailer'
      raise ScanError(file, words, AGAIN)
    rest = decompressor.unused_data.lstrip(b'\0')
    member = not rest or rest[:2] == b'\x1f\x8b'
    need(member, file, 'bytes behind the end of the gzip data', AGAIN)
    fits = not rest or length < announced + SLACK
    _need_no_more(fits, announced, file)
  check_length(length, announced, file)
  return parts[0] if len(parts) == 1 else b''.join(parts)


def check_length(length: int, announced: int, file: str) -> None:
  """Checks that a header's bytes are there.

  Raises:
    ScanError: there are fewer; or over a MiB more, which no padding is.
  """
  need(
    length >= announced,
    file,
    f'its header announces {announced} bytes, the file holds {length}:'
    ' truncated, or a damaged header',
    AGAIN,
  )
  _need_no_more(length <= announced + (1 << 20), announced, file)
