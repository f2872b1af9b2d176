"""The verified bytes of a NIfTI file, and what its header says of them.

A file is decompressed to its end, and never to more than its own header
announces.
"""

import math
import pathlib
from typing import NamedTuple

import nibabel as nib
import numpy as np

from data.formats.inflate import check_length, check_ratio, inflate, peek
from data.formats.scan_error import (
  AGAIN,
  DAMAGED,
  EXPORT,
  ScanError,
  need,
  unreadable,
)

# sizeof_hdr -> first possible voxel byte of a single file. The standard takes
# any lower offset for this one.
_FIRST = {348: 352, 540: 544}
_MAX_OFFSET = 1 << 20
# No scan has more (1024 x 1024 x 1024); a header that says so is damaged or
# wants the memory.
MAX_VOXELS = 1 << 30
_HEAD = 1024


class Layout(NamedTuple):
  """What a header announces.

  Attributes:
    header: as it is on disk, with nothing repaired.
    offset: of the first voxel byte.
    dtype: of a voxel as stored, with its byte order.
    shape: with every axis that the header has.
    length: bytes that the file must have.
  """

  header: nib.Nifti1Header
  offset: int
  dtype: np.dtype
  shape: tuple[int, ...]
  length: int


def check_voxels(shape: tuple[int, ...], file: str) -> int:
  """How many voxels there are.

  Raises:
    ScanError: more than any scan has.
  """
  count, sides = math.prod(shape), ' x '.join(map(str, shape))
  need(
    count <= MAX_VOXELS,
    file,
    f'its header announces {sides} voxels, more than any scan has',
    EXPORT + ', at a lower resolution if it is that large',
  )
  return count


def raw_header(head: bytes, file: str) -> nib.Nifti1Header:
  """A NIfTI header (or what has its length) as it is on disk, not repaired.

  Raises:
    ScanError: the bytes are none.
  """
  short = f'only {len(head)} bytes: no NIfTI header'
  need(len(head) >= 348, file, short, AGAIN)
  for order in '<>':
    size = int(np.frombuffer(head, order + 'i4', 1)[0])
    if size in _FIRST:
      need(len(head) >= size, file, short, AGAIN)
      kind = nib.Nifti1Header if size == 348 else nib.Nifti2Header
      return kind(head[:size], endianness=order, check=False)
  raise ScanError(
    file,
    'not a NIfTI file',
    'give scans as NIfTI (.nii, .nii.gz) or DICOM folders, or move it away',
  )


def layout(head: bytes, file: str) -> Layout:
  """What the first bytes of a single file (.nii) announce.

  Raises:
    ScanError: the bytes are no NIfTI header, or one that makes no sense.
  """
  header = raw_header(head, file)
  kind = type(header)
  magic = header['magic'].item()
  pair = 'the header of a pair of files (its magic is ni1), named as one file'
  remedy = 'name it .hdr and put its .img beside it'
  need(magic != kind.pair_magic, file, pair, remedy)
  single = magic == kind.single_magic
  need(single, file, f'no NIfTI header: its magic is {magic!r}', DAMAGED)
  try:
    dtype = header.get_data_dtype()
  except (KeyError, nib.spatialimages.HeaderDataError):
    dtype = np.dtype('V')
  unknown = f'unknown data type {int(header["datatype"])} in the header'
  need(dtype.itemsize, file, unknown, DAMAGED)
  dims = [int(d) for d in header['dim']]
  shape = tuple(dims[1 : dims[0] + 1])
  sound = 1 <= dims[0] <= 7 and min(shape) >= 1
  need(sound, file, f'impossible dimensions {dims}', DAMAGED)
  offset = float(header['vox_offset'])
  sound = np.isfinite(offset) and offset <= _MAX_OFFSET
  need(sound, file, f'impossible voxel offset {offset}', DAMAGED)
  start = max(int(offset), _FIRST[kind.sizeof_hdr])
  length = start + check_voxels(shape, file) * dtype.itemsize
  return Layout(header, start, dtype, shape, length)


def read_start(path: pathlib.Path, count: int) -> bytes:
  """The first bytes of a file, at most `count`.

  Raises:
    ScanError: it cannot be read, or is empty.
  """
  try:
    with path.open('rb') as file:
      raw = file.read(count)
  except OSError as error:
    raise unreadable(path, error) from error
  need(raw, path, 'the file is empty', AGAIN)
  return raw


def read_head(path: pathlib.Path) -> bytes:
  """The first bytes of a file, of what it holds if it is gzip-compressed.

  Raises:
    ScanError: it cannot be read, is empty or damaged.
  """
  raw = read_start(path, 1 << 16)
  if raw[:2] == b'\x1f\x8b':
    return peek(raw, _HEAD, str(path))
  need(
    path.suffix.lower() != '.gz',
    path,
    'named .gz but not gzip-compressed',
    'take .gz off its name if it opens then, or compress it with gzip',
  )
  return raw[:_HEAD]


def read_all(path: pathlib.Path, announced: int) -> bytes:
  """What a file holds, decompressed to its end and verified.

  Args:
    path: plain, or gzip-compressed.
    announced: bytes that there must be; at most a little more is read.

  Raises:
    ScanError: they are damaged, or not those that are announced.
  """
  file = str(path)
  try:
    size = path.stat().st_size
    with path.open('rb') as opened:
      packed = opened.read(2) == b'\x1f\x8b'
      opened.seek(0)
      if packed:
        check_ratio(announced, size, file)
        return inflate(opened.read(), announced, file)
      check_length(size, announced, file)
      return opened.read(announced)
  except OSError as error:
    raise unreadable(path, error) from error


def read_bytes(path: pathlib.Path) -> bytes:
  """The bytes of a NIfTI file, decompressed to their end and verified.

  Raises:
    ScanError: they are damaged, or not those that their header announces.
  """
  return read_all(path, layout(read_head(path), str(path)).length)
