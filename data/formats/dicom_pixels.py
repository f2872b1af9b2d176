"""The stored values of a DICOM file, checked before anything is decoded."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from pydicom import uid as uids

from data.formats import dicom_codec
from data.formats.dicom_header import EXPORT, Header, frame_count, unsaid
from data.formats.nifti_bytes import MAX_VOXELS
from data.formats.scan_error import AGAIN, ScanError

_PIXEL_DATA = 0x7FE00010
_GREY = 'export the scan as grey values (MONOCHROME2)'


class StoredPixels(NamedTuple):
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


def check_meaning(header: Header) -> None:
  """Checks that a file's pixels are the grey values of a scan.

  Raises:
    ScanError: they are colours, run the other way, or mean something else.
  """
  kind = header.text('PhotometricInterpretation').upper()
  colours = kind.startswith(('RGB', 'YBR', 'ARGB', 'CMYK', 'HSV', 'XYB'))
  need = header.need
  need(kind, 'PhotometricInterpretation is missing')
  inverse = 'MONOCHROME1: low values are bright'
  need(kind != 'MONOCHROME1', inverse, 'export as MONOCHROME2')
  palette = 'PALETTE COLOR: colours by a palette'
  need(kind != 'PALETTE COLOR', palette, _GREY)
  need(not colours, f'{kind}: colours, no grey-value slice', _GREY)
  need(kind == 'MONOCHROME2', f'impossible PhotometricInterpretation {kind}')
  need(
    not header.items('ModalityLUTSequence'),
    'a Modality LUT Sequence: a table says what its values mean',
    'export with RescaleSlope and RescaleIntercept instead',
  )


def voxel_count(header: Header) -> int:
  """How many voxels a file announces.

  Raises:
    ScanError: no sensible number.
  """
  rows, columns = (header.whole(name) for name in ('Rows', 'Columns'))
  sides = f'{rows} x {columns}'
  header.need(min(rows, columns) > 0, f'impossible Rows x Columns {sides}')
  count = rows * columns * frame_count(header)
  header.need(
    count <= MAX_VOXELS,
    f'announces {sides} x {frame_count(header)} voxels, more than any scan has',
    AGAIN + ', or resample it if it is that large',
  )
  return count


def check_layout(header: Header) -> None:
  """Checks what a file says of its pixels' layout, and their length.

  Raises:
    ScanError: it makes no sense, or bytes are missing.
  """
  there, need = header.place.length, header.need
  integers = header.place.tag == _PIXEL_DATA
  need(integers, 'floating-point pixels', 'export it as integers')
  samples = header.whole('SamplesPerPixel')
  colours = f'{samples} samples a pixel: colours, no grey-value slice'
  need(samples == 1, colours, _GREY)
  allocated, bits, sign = (
    header.whole(name)
    for name in ('BitsAllocated', 'BitsStored', 'PixelRepresentation')
  )
  need(
    allocated in (1, 8, 16, 32) and 1 <= bits <= allocated,
    f'impossible BitsAllocated {allocated}, BitsStored {bits}',
  )
  need(sign in (0, 1), f'impossible PixelRepresentation {sign}')
  high = header.whole('HighBit') if header.text('HighBit') else 0
  need(high < bits, f'HighBit {high} beyond the {bits} bits stored', EXPORT)
  count = voxel_count(header)
  syntax = dicom_codec.syntax_of(header)
  known = syntax.is_transfer_syntax and not syntax.is_private
  fits = not known or syntax.is_encapsulated == (there is None)
  need(fits, f'its pixels are not stored as {syntax.name} says', EXPORT)
  if there is None:
    return
  needed = -(-count * allocated // 8)
  need(
    there >= needed,
    f'{there} of the {needed} bytes that its header announces are there:'
    ' truncated, or a damaged header',
    AGAIN,
  )
  frames = frame_count(header)
  more, rest = divmod(there - needed, max(needed // frames, 1))
  words = f'{more} more frames than the {frames} announced'
  need(not more or rest > 1, words, EXPORT)


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


def read_stored(header: Header) -> StoredPixels:
  """Reads the pixels of a file that the checks have passed.

  Raises:
    ScanError: they are damaged.
  """
  try:
    with unsaid():
      raw = dicom_codec.decode(header)
  except ScanError:
    raise
  except Exception as error:
    words = ' '.join(str(error).split())[:200]
    text = f'damaged: its pixels cannot be decoded ({words})'
    raise header.error(text, AGAIN) from error
  bits = header.whole('BitsStored')
  shift, values = 8 * raw.dtype.itemsize - bits, raw
  syntax = dicom_codec.syntax_of(header)
  # What these decode to has its own number of bits, and a sign.
  own = syntax in (*dicom_codec.JPEG_2000, *uids.JPEGLSTransferSyntaxes)
  if shift > 0 and not own:
    # Overlays were kept there once; a sign goes on into them.
    values = (raw << shift) >> shift
  padded, pads = None, list(_paddings(header, raw.dtype))
  if pads:
    low, high = min(pads), max(pads)
    padded = (raw >= low) & (raw <= high)
    padded |= (values >= low) & (values <= high)
    padded = padded if padded.any() else None
  beyond = False
  if values is not raw:
    differs = values != raw
    beyond = (differs if padded is None else differs & ~padded).any()
  note = f'bits beyond the {bits} stored ones are not zero: they are ignored'
  return StoredPixels(values, padded, (note,) if beyond else ())
