"""The verified bytes of a NIfTI file.

Ordinary readers stop before a gzip trailer, so that a flipped bit or a wrong
checksum passes, and they allocate what a header claims. Here a file is
decompressed to its end, and never to more than its own header announces.
"""

import pathlib
import zlib

import nibabel as nib
import numpy as np

from data.scan_error import ScanError

_HEADERS = {348: 352, 540: 544}  # sizeof_hdr -> first possible voxel byte
_MAX_OFFSET = 1 << 20
# No scan has more (1024 x 1024 x 1024); a header that says so is damaged or
# wants the memory.
MAX_VOXELS = 1 << 30
# Deflate makes no more bytes than this out of one.
_MAX_RATIO = 1032
AGAIN = 'copy the file again from its source'


def _announced_bytes(head: bytes, file: str) -> int:
  """Bytes that a NIfTI file must have, from its own header.

  Raises:
    ScanError: the bytes are no NIfTI header, or one that makes no sense.
  """
  if len(head) < 348:
    raise ScanError(file, f'only {len(head)} bytes: no NIfTI header', AGAIN)
  for order in ('little', 'big'):
    size = int.from_bytes(head[:4], order)
    if size in _HEADERS:
      break
  else:
    raise ScanError(
      file, 'not a NIfTI file', 'give .nii or .nii.gz files, or DICOM folders'
    )
  if len(head) < size:
    raise ScanError(file, f'only {len(head)} bytes: no NIfTI header', AGAIN)
  kind = nib.Nifti1Header if size == 348 else nib.Nifti2Header
  raw = head[:size]
  header = kind(raw, endianness='<' if order == 'little' else '>', check=False)
  try:
    item = header.get_data_dtype().itemsize
  except (KeyError, nib.spatialimages.HeaderDataError) as error:
    raise ScanError(
      file,
      f'unknown data type {int(header["datatype"])} in the header',
      AGAIN,
    ) from error
  dims = [int(d) for d in header['dim']]
  if not 1 <= dims[0] <= 7 or any(d < 1 for d in dims[1 : dims[0] + 1]):
    raise ScanError(file, f'impossible dimensions {dims}', AGAIN)
  count = 1
  for d in dims[1 : dims[0] + 1]:
    count *= d
  if count > MAX_VOXELS:
    sides = ' x '.join(map(str, dims[1 : dims[0] + 1]))
    raise ScanError(
      file,
      f'its header announces {sides} voxels, more than any scan has',
      AGAIN + ', or resample it if it is that large',
    )
  offset = float(header['vox_offset'])
  if not np.isfinite(offset) or offset > _MAX_OFFSET:
    raise ScanError(file, f'impossible voxel offset {offset}', AGAIN)
  return max(int(offset), _HEADERS[size]) + count * item


def read_bytes(path: pathlib.Path) -> bytes:
  """The bytes of a NIfTI file, decompressed to their end and verified.

  Raises:
    ScanError: they are damaged, or not those that their header announces.
  """
  file = str(path)
  try:
    raw = path.read_bytes()
  except OSError as error:
    raise ScanError(
      file, f'cannot be read ({error.strerror})', 'check name and permissions'
    ) from error
  if not raw:
    raise ScanError(file, 'the file is empty', AGAIN)
  if raw[:2] != b'\x1f\x8b':
    if path.suffix == '.gz':
      raise ScanError(file, 'named .gz but not gzip-compressed', AGAIN)
    announced = _announced_bytes(raw[:1024], file)
    _check_length(len(raw), announced, file)
    return raw
  decompressor = zlib.decompressobj(31)
  try:
    head = decompressor.decompress(raw, 1024)
    announced = _announced_bytes(head, file)
    if announced > _MAX_RATIO * len(raw):
      raise ScanError(
        file,
        f'its header announces {announced} bytes, which cannot come out of'
        f' {len(raw)}: truncated, or a damaged header',
        AGAIN,
      )
    # Never more than the header announces (and a little, to notice it).
    rest = decompressor.decompress(
      decompressor.unconsumed_tail, announced + 4096 - len(head)
    )
  except zlib.error as error:
    raise ScanError(
      file, f'damaged: gzip data or checksum wrong ({error})', AGAIN
    ) from error
  data = head + rest
  if not decompressor.eof:
    if len(data) > announced:
      raise ScanError(
        file,
        f'holds more than the {announced} bytes its header announces',
        AGAIN,
      )
    raise ScanError(
      file,
      f'truncated: {len(data)} of {announced} bytes, or no gzip trailer',
      AGAIN,
    )
  if decompressor.unused_data.strip(b'\0'):
    raise ScanError(file, 'bytes behind the end of the gzip data', AGAIN)
  _check_length(len(data), announced, file)
  return data


def _check_length(length: int, announced: int, file: str) -> None:
  if length < announced:
    raise ScanError(
      file,
      f'its header announces {announced} bytes, the file holds {length}:'
      ' truncated, or a damaged header',
      AGAIN,
    )
