"""Undoes how the pixels of a DICOM file are stored and compressed.

Nothing is decoded that is larger than its header says, and nothing of which a
part is missing.
"""

from collections.abc import Iterator
import contextlib
import os
import re
import sys
import tempfile

import numpy as np
from pydicom import encaps
from pydicom import uid as uids
from pydicom.pixels import as_pixel_options, get_decoder

from data.formats.dicom_header import Header, frame_count, text
from data.formats.scan_error import AGAIN

_PLAIN = 'export the series uncompressed'
JPEG_2000 = (
  *uids.JPEG2000TransferSyntaxes,
  uids.HTJ2K,
  uids.HTJ2KLossless,
  uids.HTJ2KLosslessRPCL,
)
# What pydicom decodes these with, as people install it.
_PACKAGES = (
  (JPEG_2000, 'pylibjpeg and pylibjpeg-openjpeg'),
  (uids.JPEGLSTransferSyntaxes, 'pyjpegls'),
  (uids.JPEGTransferSyntaxes, 'python-gdcm'),
)
_TWELVE_BITS = 'pylibjpeg and pylibjpeg-libjpeg'
# Words of the decoders for JPEG and JPEG 2000.
_REMARK = re.compile(
  rb'JPE?G|[Mm]arker|[Tt]ile|codeblock|SO[FST]\b|SIZ|COD|Huffman|[Dd]ecod'
)
_ITEM, _END = b'\xfe\xff\x00\xe0', b'\xfe\xff\xdd\xe0'


def syntax_of(header: Header) -> uids.UID:
  """A file's transfer syntax; from how it was read where it does not say."""
  meta = getattr(header.found, 'file_meta', {})
  if named := text(meta, 'TransferSyntaxUID'):
    return uids.UID(named)
  implicit, little = header.found.original_encoding
  if implicit:
    return uids.ImplicitVRLittleEndian
  return uids.ExplicitVRLittleEndian if little else uids.ExplicitVRBigEndian


def check_decoder(header: Header) -> None:
  """Checks that a file's compression can be undone here.

  Raises:
    ScanError: naming what is missing.
  """
  syntax = syntax_of(header)
  try:
    decoder = get_decoder(syntax)
  except NotImplementedError:
    name = syntax.name if syntax.is_transfer_syntax else str(syntax)
    words = f'transfer syntax {name} cannot be decoded'
    raise header.error(words, _PLAIN) from None
  packages = next((p for group, p in _PACKAGES if syntax in group), '')
  able = not decoder.is_encapsulated or decoder.is_available
  if syntax == uids.JPEGExtended12Bit and header.whole('BitsStored') > 8:
    # The other plug-ins know 8 bits only.
    packages = _TWELVE_BITS
    able = 'pylibjpeg' in decoder.available_plugins
  words = f'no decoder for {syntax.name} is installed'
  header.need(able, words, f'install {packages}, or {_PLAIN}')


def _bytes(header: Header) -> bytes:
  """The value of a file's pixel element, without what follows it.

  Raises:
    ScanError: bytes are missing.
  """
  place = header.place
  with header.path.open('rb') as file:
    file.seek(place.offset)
    if place.length is not None:
      return file.read(place.length)
    data = file.read()
  at = 0
  while data[at : at + 4] == _ITEM:
    at += 8 + int.from_bytes(data[at + 4 : at + 8], 'little')
  # Some writers forget the last mark: nothing is missing then.
  ended = at <= len(data) and data[at : at + 4] in (_END, b'')
  words = 'truncated, or damaged: its compressed pixels end early'
  header.need(ended, words, AGAIN)
  return data[:at]


def _picture_size(data: bytes) -> tuple[int, int] | None:
  """Rows and columns that a JPEG or JPEG 2000 picture says it has."""
  number = lambda at, size: int.from_bytes(data[at : at + size], 'big')
  start = data.find(b'\xff\x4f\xff\x51')
  if start >= 0:
    at = start + 8
    return (
      number(at + 4, 4) - number(at + 12, 4),
      number(at, 4) - number(at + 8, 4),
    )
  at = data.find(b'\xff\xd8') + 2
  while at > 1 and at + 9 < len(data) and data[at] == 0xFF:
    marker = data[at + 1]
    if marker == 0xF7 or marker in set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}:
      return number(at + 5, 2), number(at + 7, 2)
    at += 1 if marker == 0xFF else 2 + number(at + 2, 2)
  return None


@contextlib.contextmanager
def c_remarks() -> Iterator[list[str]]:
  """Keeps from the terminal what decoders written in C say there.

  Yields:
    Their lines, once it is over. What others said meanwhile is handed on.
  """
  said: list[str] = []
  failed = True
  try:
    sys.stderr.flush()
    terminal = os.dup(2)
  except (AttributeError, OSError, ValueError):
    yield said  # There is no terminal.
    return
  with tempfile.TemporaryFile() as kept:
    os.dup2(kept.fileno(), 2)
    try:
      yield said
      failed = False
    finally:
      os.dup2(terminal, 2)
      os.close(terminal)
      kept.seek(0)
      for line in kept.read().splitlines(keepends=True):
        if failed or _REMARK.search(line):
          said.append(line.decode(errors='replace'))
        else:
          os.write(2, line)


def _check_pictures(header: Header, data: bytes, offsets) -> None:
  """A small picture may say that it is a huge one: decoders believe it."""
  size = (header.whole('Rows'), header.whole('Columns'))
  for encoded in encaps.generate_frames(
    data, number_of_frames=frame_count(header), extended_offsets=offsets
  ):
    ended = encoded.rstrip(b'\0\xff').endswith(b'\xff\xd9')
    words = 'truncated, or damaged: a picture in it has no end'
    header.need(ended, words, AGAIN)
    found = _picture_size(encoded)
    words = f'damaged: a compressed picture of {found or "no"} rows and columns'
    header.need(found == size, f'{words} in a file of {size}', AGAIN)


def decode(header: Header) -> np.ndarray:
  """The pixels of a checked file, `[frames, rows, columns]`, all their bits.

  Raises:
    ScanError: they are damaged.
  """
  found, data, syntax = header.found, _bytes(header), syntax_of(header)
  if 'ExtendedOffsetTableLengths' not in found:
    found.pop('ExtendedOffsetTable', None)  # Of no use alone.
  options = as_pixel_options(
    found,
    number_of_frames=frame_count(header),
    photometric_interpretation='MONOCHROME2',
    pixel_keyword='PixelData',
    pixel_vr=header.place.vr or 'OW',
    allow_excess_frames=False,
    correct_unused_bits=False,
  )
  if syntax.is_encapsulated and syntax != uids.RLELossless:
    _check_pictures(header, data, options.get('extended_offsets'))
  with contextlib.ExitStack() as silent:
    packed = syntax.is_encapsulated
    said = silent.enter_context(c_remarks()) if packed else []
    values, _ = get_decoder(syntax).as_array(data, raw=True, **options)
  # It is only a remark to them that a part of a picture is not there.
  if broken := [line for line in said if 'orrupt' in line or 'Prem' in line]:
    raise ValueError(broken[0])
  return values.reshape(-1, header.whole('Rows'), header.whole('Columns'))
