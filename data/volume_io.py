"""Strict reading and writing of NIfTI volumes.

Ordinary readers are not strict: they stop before a gzip trailer, so that a
flipped bit or a wrong checksum passes; they set a zero pixel size to 1; they
allocate what a header claims. Here a file is decompressed to its end, checked
against its own header, and every finding is a `ScanError` that names the file,
the reason and the remedy.
"""

import gzip
import os
import pathlib
from typing import NamedTuple
import zlib

import nibabel as nib
import numpy as np

_HEADERS = {348: 352, 540: 544}  # sizeof_hdr -> first possible voxel byte
# Only to bound decompression before the header is known.
_MAX_HEADER = 1 << 20
_AGAIN = 'copy the file again from its source'


class ScanError(Exception):
  """A scan that cannot be used.

  Attributes:
    file: the file or folder.
    reason: what is wrong with it.
    remedy: what to do about it.
  """

  def __init__(self, file: str | os.PathLike, reason: str, remedy: str):
    self.file, self.reason, self.remedy = str(file), reason, remedy
    super().__init__(f'{self.file}: {reason}; {remedy}')


class Volume(NamedTuple):
  """Voxels and where they lie.

  Attributes:
    voxels: `[X, Y, Z]`.
    affine: `[4, 4]` float64, voxel index to RAS millimetres.
  """

  voxels: np.ndarray
  affine: np.ndarray


def _announced_bytes(head: bytes, file: str) -> int:
  """Bytes that a NIfTI file must have, from its own header.

  Raises:
    ScanError: the bytes are no NIfTI header, or one that makes no sense.
  """
  if len(head) < 348:
    raise ScanError(file, f'only {len(head)} bytes: no NIfTI header', _AGAIN)
  for order in ('little', 'big'):
    size = int.from_bytes(head[:4], order)
    if size in _HEADERS:
      break
  else:
    raise ScanError(
      file, 'not a NIfTI file', 'give .nii or .nii.gz files, or DICOM folders'
    )
  kind = nib.Nifti1Header if size == 348 else nib.Nifti2Header
  raw = head[:size]
  header = kind(raw, endianness='<' if order == 'little' else '>', check=False)
  try:
    item = header.get_data_dtype().itemsize
  except nib.spatialimages.HeaderDataError as error:
    raise ScanError(
      file, f'unknown data type in the header ({error})', _AGAIN
    ) from error
  dims = [int(d) for d in header['dim']]
  if not 1 <= dims[0] <= 7 or any(d < 1 for d in dims[1 : dims[0] + 1]):
    raise ScanError(file, f'impossible dimensions {dims}', _AGAIN)
  count = 1
  for d in dims[1 : dims[0] + 1]:
    count *= d
  offset = float(header['vox_offset'])
  if not np.isfinite(offset) or offset > _MAX_HEADER:
    raise ScanError(file, f'impossible voxel offset {offset}', _AGAIN)
  return max(int(offset), _HEADERS[size]) + count * item


def _read_bytes(path: pathlib.Path) -> bytes:
  """The verified, decompressed bytes of a file."""
  file = str(path)
  try:
    raw = path.read_bytes()
  except OSError as error:
    raise ScanError(
      file, f'cannot be read ({error.strerror})', 'check name and permissions'
    ) from error
  if not raw:
    raise ScanError(file, 'the file is empty', _AGAIN)
  if raw[:2] != b'\x1f\x8b':
    if path.suffix == '.gz':
      raise ScanError(file, 'named .gz but not gzip-compressed', _AGAIN)
    announced = _announced_bytes(raw[:1024], file)
    _check_length(len(raw), announced, file)
    return raw
  decompressor = zlib.decompressobj(31)
  try:
    head = decompressor.decompress(raw, 1024)
    announced = _announced_bytes(head, file)
    # Never more than the header announces (and a little, to notice it).
    rest = decompressor.decompress(
      decompressor.unconsumed_tail, announced + 4096 - len(head)
    )
  except zlib.error as error:
    raise ScanError(
      file, f'damaged: gzip data or checksum wrong ({error})', _AGAIN
    ) from error
  data = head + rest
  if not decompressor.eof:
    if len(data) > announced:
      raise ScanError(
        file,
        f'holds more than the {announced} bytes its header announces',
        _AGAIN,
      )
    raise ScanError(
      file,
      f'truncated: {len(data)} of {announced} bytes, or no gzip trailer',
      _AGAIN,
    )
  if decompressor.unused_data.strip(b'\0'):
    raise ScanError(file, 'bytes behind the end of the gzip data', _AGAIN)
  _check_length(len(data), announced, file)
  return data


def _check_length(length: int, announced: int, file: str) -> None:
  if length < announced:
    raise ScanError(
      file,
      f'its header announces {announced} bytes, the file holds {length}:'
      ' truncated, or a damaged header',
      _AGAIN,
    )


def _check_affine(image, raw, file: str) -> np.ndarray:
  """The image's affine, checked; `raw` is the header as it is on disk."""
  header = image.header
  pixdim = np.asarray(raw['pixdim'], np.float64)
  if not np.all(np.isfinite(pixdim[1:4])) or np.any(pixdim[1:4] <= 0):
    raise ScanError(
      file,
      f'pixel sizes {pixdim[1:4].tolist()} are not all positive',
      'write the true voxel size (mm) into the header',
    )
  affine = np.asarray(image.affine, np.float64)
  spacing = np.linalg.norm(affine[:3, :3], axis=0)
  volume = abs(np.linalg.det(affine[:3, :3]))
  if (
    not np.isfinite(affine).all()
    or volume < 1e-3 * np.prod(spacing)
    or not volume
  ):
    raise ScanError(
      file,
      'the affine is not finite or singular',
      'repair sform and qform in the header',
    )
  if header['sform_code'] > 0 and header['qform_code'] > 0:
    try:
      other = header.get_qform()
    except (ValueError, np.linalg.LinAlgError):
      other = np.full((4, 4), np.nan)
    if not close_affines(affine, other, image.shape[:3]):
      raise ScanError(
        file,
        'sform and qform disagree',
        'find out which one is right and write it into both',
      )
  return affine


def close_affines(a: np.ndarray, b: np.ndarray, shape) -> bool:
  """Whether two affines put every voxel in nearly the same place.

  The tolerance is half of the smallest voxel side at each of the volume's
  corners: headers are stored in single precision.
  """
  if not np.isfinite(b).all():
    return False
  size = np.linalg.norm(a[:3, :3], axis=0).min()
  corners = np.array(
    np.meshgrid(*[(0, s - 1) for s in shape[:3]], indexing='ij')
  )
  corners = corners.reshape(3, -1)
  gap = (a - b)[:3, :3] @ corners + (a - b)[:3, 3:]
  return bool(np.linalg.norm(gap, axis=0).max() <= 0.5 * size)


def read_nifti(path: str | os.PathLike, *, label: bool = False) -> Volume:
  """Reads and checks a `.nii` or `.nii.gz` volume.

  Args:
    path: the file.
    label: whether it is a label map.

  Returns:
    Float32 voxels in scanner units, or int32 label codes; and the affine.

  Raises:
    ScanError: for anything that is not a sound 3-D volume.
  """
  path = pathlib.Path(path)
  file = str(path)
  data = _read_bytes(path)
  kind = nib.Nifti1Image
  if int.from_bytes(data[:4], 'little') == 540 or data[:4] == b'\0\0\x02\x1c':
    kind = nib.Nifti2Image
  try:
    image = kind.from_bytes(data)
  except Exception as error:
    raise ScanError(file, f'unreadable header ({error})', _AGAIN) from error
  if image.get_data_dtype().fields is not None:
    raise ScanError(
      file, 'a colour (RGB) volume', 'export the scan as grey values'
    )
  shape = image.shape
  while len(shape) > 3 and shape[-1] == 1:
    shape = shape[:-1]
  if len(shape) != 3:
    raise ScanError(
      file, f'{len(shape)}-dimensional, {shape}', 'give one 3-D volume a file'
    )
  # The loaded image's header has been repaired silently: ask the bytes.
  raw = type(image.header)(data[: int(image.header['sizeof_hdr'])], check=False)
  affine = _check_affine(image, raw, file)
  slope, inter = (float(raw[k]) for k in ('scl_slope', 'scl_inter'))
  if not np.isfinite([slope, inter]).all():
    raise ScanError(
      file,
      f'intensity scaling {slope}, {inter} is not finite',
      'set scl_slope to 1 and scl_inter to 0, or to their true values',
    )
  voxels = np.asanyarray(image.dataobj).reshape(shape)
  if label:
    return Volume(_label_codes(voxels, file), affine)
  voxels = voxels.astype(np.float32)
  check_image(voxels, file)
  return Volume(voxels, affine)


def check_image(voxels: np.ndarray, file: str) -> None:
  """Checks an image's values.

  Raises:
    ScanError: NaN or infinite voxels, or all of them equal.
  """
  bad = voxels.size - int(np.isfinite(voxels).sum())
  if bad:
    raise ScanError(
      file, f'{bad} voxels are NaN or infinite', 'export the scan again'
    )
  if voxels.min() == voxels.max():
    raise ScanError(file, f'constant: every voxel is {voxels.flat[0]}', _AGAIN)


def _label_codes(voxels: np.ndarray, file: str) -> np.ndarray:
  """Whole-numbered codes, rounded before any cast."""
  if np.issubdtype(voxels.dtype, np.integer):
    return voxels.astype(np.int32)
  rounded = np.round(voxels)
  bad = int((~(np.abs(voxels - rounded) <= 1e-3)).sum())
  if bad:
    raise ScanError(
      file,
      f'{bad} label voxels are not whole numbers',
      'resample labels with nearest neighbour',
    )
  return rounded.astype(np.int32)


def map_codes(
  label: np.ndarray, codes: dict[int, int], file: str | os.PathLike
) -> np.ndarray:
  """Label codes on disk to class indices, uint8.

  Raises:
    ScanError: naming every unknown code and its voxel count.
  """
  lowest, highest = int(label.min()), int(label.max())
  # A table over the codes that occur is much faster than sorting all voxels;
  # wild codes are all in one bin, the report below finds them.
  span = min(highest - lowest, 1 << 16) + 1
  place = np.minimum(label.astype(np.int64) - lowest, span - 1)
  counts = np.bincount(place.ravel(), minlength=span)
  occurring = lowest + np.flatnonzero(counts)
  if any(int(code) not in codes for code in occurring):
    values, counts = np.unique(label, return_counts=True)
    unknown = [
      f'{value} ({count} voxels)'
      for value, count in zip(values, counts, strict=True)
      if int(value) not in codes
    ]
    raise ScanError(
      file,
      f'unknown label codes: {", ".join(unknown[:8])}',
      f'expected {sorted(codes)}; correct the label map',
    )
  table = np.zeros(span, np.uint8)
  table[occurring - lowest] = [codes[int(code)] for code in occurring]
  return table[place]


def check_pair(
  image: Volume, label: Volume, image_file: str, label_file: str
) -> None:
  """Checks that a label map lies on its image's grid.

  Raises:
    ScanError: other shape, or an affine that is off by over half a voxel.
  """
  del image_file
  if image.voxels.shape != label.voxels.shape:
    raise ScanError(
      label_file,
      f'label shape {label.voxels.shape} is not the image shape'
      f' {image.voxels.shape}',
      'give the label map that was drawn on this image',
    )
  if not close_affines(image.affine, label.affine, image.voxels.shape):
    raise ScanError(
      label_file,
      'the label lies elsewhere than the image (affines differ)',
      'resample the label map to the image',
    )


def write_nifti(
  path: str | os.PathLike, voxels: np.ndarray, affine: np.ndarray
) -> None:
  """Writes a volume; the file appears whole or not at all.

  The same voxels give the same bytes (no time stamp in the gzip header).
  """
  path = pathlib.Path(path)
  image = nib.Nifti1Image(voxels, affine)
  image.set_sform(affine, 1)
  image.set_qform(affine, 1)
  data = image.to_bytes()
  if path.suffix == '.gz':
    data = gzip.compress(data, 6, mtime=0)
  partial = path.with_name('.partial-' + path.name)
  partial.write_bytes(data)
  os.replace(partial, path)
