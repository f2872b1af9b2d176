"""The stored values of a DICOM file, checked before anything is decoded."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from pydicom import encaps
from pydicom import uid as uids
from pydicom.pixels import get_decoder

from data.dicom_frames import EXPORT, HEADERS, frame_count
from data.dicom_header import AGAIN, Header, unsaid
from data.nifti_bytes import MAX_VOXELS
from data.scan_error import ScanError

_PIXEL_DATA = 0x7FE00010
_GREY = 'export the scan as grey values (MONOCHROME2)'
_PLAIN = 'export the series uncompressed'
_JPEG_2000 = (
  *uids.JPEG2000TransferSyntaxes,
  uids.HTJ2K,
  uids.HTJ2KLossless,
  uids.HTJ2KLosslessRPCL,
)
# What pydicom decodes these with, as people install it.
_PACKAGES = (
  (_JPEG_2000, 'pylibjpeg and pylibjpeg-openjpeg'),
  (uids.JPEGLSTransferSyntaxes, 'pyjpegls'),
  (uids.JPEGTransferSyntaxes, 'python-gdcm'),
)
_TWELVE_BITS = 'pylibjpeg and pylibjpeg-libjpeg'
_ITEM, _END = b'\xfe\xff\x00\xe0', b'\xfe\xff\xdd\xe0'


class Stored(NamedTuple):
  """A file's pixels as they are stored.

  Attributes:
    values: `[frames, rows, columns]` integers.
    padded: where a PixelPaddingValue says that there is no image, in the same
      shape; None if nowhere.
    notes: what people should know of them, a phrase each.
  """

  values: np.ndarray
  padded: np.ndarray | None
  notes: tuple[str, ...]


def syntax_of(header: Header) -> uids.UID:
  """A file's transfer syntax; from how it was read where it does not say."""
  meta = getattr(header.found, 'file_meta', None) or {}
  if named := meta.get('TransferSyntaxUID'):
    return uids.UID(str(named))
  implicit, little = header.found.original_encoding
  if implicit:
    return uids.ImplicitVRLittleEndian
  return uids.ExplicitVRLittleEndian if little else uids.ExplicitVRBigEndian


def _whole(header: Header, keyword: str) -> int:
  """An element's whole number.

  Raises:
    ScanError: it has none.
  """
  said = header.text(keyword)
  try:
    return int(said)
  except ValueError:
    what = f'impossible {keyword} {said}' if said else f'{keyword} is missing'
    raise ScanError(header.path, what, HEADERS) from None


def check_meaning(header: Header) -> None:
  """Checks that a file's pixels are the grey values of a scan.

  Raises:
    ScanError: they are colours, run the other way, or mean something else.
  """
  file = header.path
  kind = header.text('PhotometricInterpretation').upper()
  if kind == 'MONOCHROME1':
    raise ScanError(
      file, 'MONOCHROME1: low values are bright', 'export as MONOCHROME2'
    )
  if kind == 'PALETTE COLOR':
    raise ScanError(file, 'PALETTE COLOR: colours by a palette', _GREY)
  if kind.startswith(('RGB', 'YBR', 'ARGB', 'CMYK', 'HSV', 'XYB')):
    raise ScanError(file, f'{kind}: colours, no grey-value slice', _GREY)
  if kind != 'MONOCHROME2':
    raise ScanError(
      file,
      f'impossible PhotometricInterpretation {kind}'
      if kind
      else 'PhotometricInterpretation is missing',
      HEADERS,
    )
  if header.found.get('ModalityLUTSequence'):
    raise ScanError(
      file,
      'a Modality LUT Sequence: a table says what its values mean',
      'export with RescaleSlope and RescaleIntercept instead',
    )


def voxel_count(header: Header) -> int:
  """How many voxels a file announces.

  Raises:
    ScanError: no sensible number.
  """
  rows, columns = (_whole(header, name) for name in ('Rows', 'Columns'))
  if min(rows, columns) < 1:
    raise ScanError(
      header.path, f'impossible Rows x Columns {rows} x {columns}', HEADERS
    )
  count = rows * columns * frame_count(header)
  if count > MAX_VOXELS:
    raise ScanError(
      header.path,
      f'announces {rows} x {columns} x {frame_count(header)} voxels, more than'
      ' any scan has',
      AGAIN + ', or resample it if it is that large',
    )
  return count


def check_layout(header: Header) -> None:
  """Checks what a file says of its pixels' layout, and their length.

  Raises:
    ScanError: it makes no sense, or bytes are missing.
  """
  file, place = header.path, header.pixels
  if place.tag != _PIXEL_DATA:
    raise ScanError(file, 'floating-point pixels', 'export it as integers')
  samples = _whole(header, 'SamplesPerPixel')
  if samples != 1:
    raise ScanError(
      file, f'{samples} samples a pixel: colours, no grey-value slice', _GREY
    )
  allocated, bits, sign = (
    _whole(header, name)
    for name in ('BitsAllocated', 'BitsStored', 'PixelRepresentation')
  )
  if allocated not in (1, 8, 16, 32) or not 1 <= bits <= allocated:
    raise ScanError(
      file, f'impossible BitsAllocated {allocated}, BitsStored {bits}', HEADERS
    )
  if sign not in (0, 1):
    raise ScanError(file, f'impossible PixelRepresentation {sign}', HEADERS)
  if header.text('HighBit') and _whole(header, 'HighBit') >= bits:
    raise ScanError(
      file,
      f'HighBit {header.text("HighBit")} beyond the {bits} bits stored',
      EXPORT,
    )
  count = voxel_count(header)
  encapsulated = place.length is None
  syntax = syntax_of(header)
  known = syntax.is_transfer_syntax and not syntax.is_private
  if known and syntax.is_encapsulated != encapsulated:
    raise ScanError(
      file, f'its pixels are not stored as {syntax.name} says', EXPORT
    )
  needed = -(-count * allocated // 8)
  if not encapsulated and place.length < needed:
    raise ScanError(
      file,
      f'{place.length} of the {needed} bytes that its header announces are'
      ' there: truncated, or a damaged header',
      AGAIN,
    )
  extra = 0 if encapsulated else place.length - needed
  frame = max(needed // frame_count(header), 1)
  if extra >= frame and extra % frame <= 1:
    raise ScanError(
      file,
      f'{extra // frame} more frames than the {frame_count(header)} announced',
      EXPORT,
    )


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
    raise ScanError(
      header.path, f'transfer syntax {name} cannot be decoded', _PLAIN
    ) from None
  packages = next((p for group, p in _PACKAGES if syntax in group), '')
  able = not decoder.is_encapsulated or decoder.is_available
  if syntax == uids.JPEGExtended12Bit and _whole(header, 'BitsStored') > 8:
    # The other plug-ins know 8 bits only.
    packages = _TWELVE_BITS
    able = 'pylibjpeg' in decoder.available_plugins
  if not able:
    raise ScanError(
      header.path,
      f'no decoder for {syntax.name} is installed',
      f'install {packages}, or {_PLAIN}',
    )


def _bytes(header: Header) -> bytes:
  """The value of a file's pixel element, without what follows it.

  Raises:
    ScanError: bytes are missing.
  """
  place = header.pixels
  with header.path.open('rb') as file:
    file.seek(place.offset)
    if place.length is not None:
      return file.read(place.length)
    data = file.read()
  at = 0
  while data[at : at + 4] == _ITEM:
    at += 8 + int.from_bytes(data[at + 4 : at + 8], 'little')
  # Some writers forget the last mark: nothing is missing then.
  if at > len(data) or data[at : at + 4] not in (_END, b''):
    raise ScanError(
      header.path,
      'truncated, or damaged: its compressed pixels end early',
      AGAIN,
    )
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


def _check_pictures(header: Header, data: bytes, offsets) -> None:
  """A small picture may say that it is a huge one: decoders believe it."""
  size = (_whole(header, 'Rows'), _whole(header, 'Columns'))
  for encoded in encaps.generate_frames(
    data, number_of_frames=frame_count(header), extended_offsets=offsets
  ):
    if (found := _picture_size(encoded)) != size:
      raise ScanError(
        header.path,
        f'damaged: a compressed picture of {found or "no"} rows and columns in'
        f' a file of {size}',
        AGAIN,
      )


def _decode(header: Header) -> np.ndarray:
  """The pixels of a checked file, unused bits and all."""
  found, data, syntax = header.found, _bytes(header), syntax_of(header)
  options = {
    'rows': _whole(header, 'Rows'),
    'columns': _whole(header, 'Columns'),
    'number_of_frames': frame_count(header),
    'samples_per_pixel': 1,
    'photometric_interpretation': 'MONOCHROME2',
    'bits_allocated': _whole(header, 'BitsAllocated'),
    'bits_stored': _whole(header, 'BitsStored'),
    'pixel_representation': _whole(header, 'PixelRepresentation'),
    'pixel_keyword': 'PixelData',
    'pixel_vr': header.pixels.vr or 'OW',
    'allow_excess_frames': False,
    'correct_unused_bits': False,
  }
  if 'ExtendedOffsetTable' in found and 'ExtendedOffsetTableLengths' in found:
    options['extended_offsets'] = (
      found.ExtendedOffsetTable,
      found.ExtendedOffsetTableLengths,
    )
  if syntax.is_encapsulated and syntax != uids.RLELossless:
    _check_pictures(header, data, options.get('extended_offsets'))
  decoder = get_decoder(syntax)
  values, _ = decoder.as_array(data, raw=True, **options)
  return values.reshape(-1, options['rows'], options['columns'])


def _paddings(header: Header, dtype: np.dtype) -> Iterator[int]:
  """PixelPaddingValue and PixelPaddingRangeLimit as numbers of that type.

  Writers confuse the signs: 63536 is -2000 among signed pixels of 16 bits.
  """
  for name in ('PixelPaddingValue', 'PixelPaddingRangeLimit'):
    try:
      value = header.found.get(name)
      if isinstance(value, bytes):
        value = int.from_bytes(value, 'little') if len(value) == 2 else None
      value = None if value in (None, '') else int(value)
    except Exception:  # An element that nobody can read pads nothing.
      value = None
    bits = 8 * dtype.itemsize
    if value is None or not -(1 << (bits - 1)) <= value < 1 << bits:
      return
    pattern = np.array(value % (1 << bits), f'u{dtype.itemsize}')
    yield int(pattern.view(dtype.newbyteorder('=')))


def read_stored(header: Header) -> Stored:
  """Reads the pixels of a file that the checks have passed.

  Raises:
    ScanError: they are damaged.
  """
  try:
    with unsaid():
      raw = _decode(header)
  except ScanError:
    raise
  except Exception as error:
    words = ' '.join(str(error).split())[:200]
    raise ScanError(
      header.path, f'damaged: its pixels cannot be decoded ({words})', AGAIN
    ) from error
  shift = 8 * raw.dtype.itemsize - _whole(header, 'BitsStored')
  values, notes = raw, ()
  syntax = syntax_of(header)
  # What these decode to has its own number of bits, and a sign.
  own = syntax in (*_JPEG_2000, *uids.JPEGLSTransferSyntaxes)
  if shift > 0 and not own:
    # Overlays were kept there once; a sign goes on into them.
    values = (raw << shift) >> shift
  padded, pads = None, list(_paddings(header, raw.dtype))
  if pads:
    low, high = min(pads), max(pads)
    padded = (raw >= low) & (raw <= high)
    padded |= (values >= low) & (values <= high)
    padded = padded if padded.any() else None
  differs = values != raw if values is not raw else None
  if differs is not None and (
    differs.any() if padded is None else (differs & ~padded).any()
  ):
    notes = (
      f'bits beyond the {_whole(header, "BitsStored")} stored ones are not'
      ' zero: they are ignored',
    )
  return Stored(values, padded, notes)
