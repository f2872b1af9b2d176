"""Strict reading and writing of NIfTI volumes.

Ordinary readers are not strict: they set a zero pixel size to 1 and ignore a
scaling that is not finite. Here every finding is a `ScanError` that names the
file, the reason and the remedy.
"""

from collections.abc import Iterator, Mapping
import contextlib
import gzip
import os
import pathlib
import types
from typing import NamedTuple

import nibabel as nib
import numpy as np

from data import atomic
from data.nifti_bytes import AGAIN, read_bytes
from data.scan_error import ScanError

_SIZES = 'write the true voxel sizes, in mm, into the header'


class Volume(NamedTuple):
  """Voxels and where they lie.

  Attributes:
    voxels: `[X, Y, Z]`.
    affine: `[4, 4]` float64, voxel index to RAS millimetres.
    header: of the NIfTI file it comes from, if it does.
    notes: what people should know of the file though it can be used, a phrase
      each ("sform and qform differ by 5.2 mm: the sform is used").
    files: of a DICOM series, in slice order.
    tags: what a DICOM series says of itself, by keyword ('Modality',
      'SeriesDescription', 'EchoTime', ...): evidence, not proof.
  """

  voxels: np.ndarray
  affine: np.ndarray
  header: nib.Nifti1Header | None = None
  notes: tuple[str, ...] = ()
  files: tuple[pathlib.Path, ...] = ()
  tags: Mapping[str, str | float] = types.MappingProxyType({})


@contextlib.contextmanager
def _unsaid() -> Iterator[None]:
  """Without nibabel's remarks on headers: what matters gets a row."""
  logger = nib.imageglobals.logger
  before, logger.disabled = logger.disabled, True
  try:
    yield
  finally:
    logger.disabled = before


def check_sides(affine: np.ndarray, file: str) -> None:
  """Checks that voxels are of a scan's size: lengths may not be in mm.

  Raises:
    ScanError: a side below 0.01 mm or above 100 mm.
  """
  sides = np.linalg.norm(affine[:3, :3], axis=0)
  if sides.min() < 0.01 or sides.max() > 100:
    text = ' x '.join(f'{side:.4g}' for side in sides)
    raise ScanError(file, f'voxels of {text} mm', _SIZES)


def _check_affine(image, raw, file: str) -> np.ndarray:
  """The image's affine, checked; `raw` is the header as it is on disk."""
  header = image.header
  pixdim = np.asarray(raw['pixdim'], np.float64)
  if not np.all(np.isfinite(pixdim[1:4])) or np.any(pixdim[1:4] <= 0):
    raise ScanError(
      file,
      f'pixel sizes {pixdim[1:4].tolist()} are not all positive',
      _SIZES,
    )
  # The loaded header has them set to 0, and the other form used, when wrong.
  for form in ('qform_code', 'sform_code'):
    if not 0 <= int(raw[form]) <= 5:
      raise ScanError(file, f'unknown {form} {int(raw[form])}', AGAIN)
  affine = np.asarray(image.affine, np.float64)
  with np.errstate(all='ignore'):
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(np.linalg.det(affine[:3, :3]))
    sound = 0 < volume < np.inf and volume >= 1e-3 * np.prod(spacing)
  if not np.isfinite(affine).all() or not sound:
    raise ScanError(
      file,
      'the affine is not finite or singular',
      'repair sform and qform in the header',
    )
  check_sides(affine, file)
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
  data = read_bytes(path)
  kind = nib.Nifti1Image
  if int.from_bytes(data[:4], 'little') == 540 or data[:4] == b'\0\0\x02\x1c':
    kind = nib.Nifti2Image
  try:
    with _unsaid():
      image = kind.from_bytes(data)
  except Exception as error:
    raise ScanError(file, f'unreadable header ({error})', AGAIN) from error
  if image.get_data_dtype().fields is not None:
    raise ScanError(
      file, 'a colour (RGB) volume', 'export the scan as grey values'
    )
  if image.get_data_dtype().kind == 'c':
    raise ScanError(
      file, 'complex voxels', 'export the scan as grey values (magnitude)'
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
  with np.errstate(all='ignore'):  # The checks find what overflows.
    if label:
      voxels = np.asanyarray(image.dataobj).reshape(shape)
      return Volume(_label_codes(voxels, file), affine, image.header)
    # Scaled in single precision: a large scan need not be there in double.
    voxels = image.get_fdata(caching='unchanged', dtype=np.float32)
    voxels = voxels.reshape(shape)
  check_image(voxels, file)
  return Volume(voxels, affine, image.header)


def check_image(voxels: np.ndarray, file: str) -> None:
  """Checks an image's values.

  An image that is the same everywhere shows nobody: it would only teach that
  nothing is background. It comes from a failed export, so it is refused.

  Raises:
    ScanError: NaN or infinite voxels, or all of them equal.
  """
  bad = voxels.size - int(np.isfinite(voxels).sum())
  if bad:
    raise ScanError(
      file, f'{bad} voxels are NaN or infinite', 'export the scan again'
    )
  if voxels.min() == voxels.max():
    raise ScanError(file, f'constant: every voxel is {voxels.flat[0]}', AGAIN)


def _label_codes(voxels: np.ndarray, file: str) -> np.ndarray:
  """Whole-numbered codes, rounded before any cast."""
  rounded = voxels
  if not np.issubdtype(voxels.dtype, np.integer):
    rounded = np.round(voxels)
    bad = int((~(np.abs(voxels - rounded) <= 1e-3)).sum())
    if bad:
      raise ScanError(
        file,
        f'{bad} label voxels are not whole numbers',
        'resample labels with nearest neighbour',
      )
  # A cast would wrap them, possibly onto a code that exists.
  wild = max(float(rounded.max()), -float(rounded.min()))
  if wild > np.iinfo(np.int32).max:
    raise ScanError(
      file, f'label codes as large as {wild:.4g}', 'correct the label map'
    )
  return rounded.astype(np.int32)


def map_codes(
  label: np.ndarray, codes: dict[int, int], file: str | os.PathLike
) -> np.ndarray:
  """Label codes on disk to class indices, uint8.

  A label map without a single labelled voxel is refused: every labelled scan
  of these archives shows what was drawn, so that it is an export that failed,
  and it would teach that an organ is background. A map whose codes all mean
  background here (another organ was drawn) is sound, and so is one that lacks
  some of the classes.

  Raises:
    ScanError: naming every unknown code and its voxel count; or nothing is
      labelled.
  """
  if not label.any():
    raise ScanError(
      file,
      'all background: no voxel is labelled',
      'give the label map of this scan, or move the scan to the unlabelled'
      ' ones',
    )
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


def nifti_bytes(
  voxels: np.ndarray, like: Volume, *, compressed: bool = True
) -> bytes:
  """A NIfTI file of voxels that lie where another volume's do.

  Shape, affine, codes of sform and qform, voxel sides and their unit are those
  of the volume's own header; a volume that has none (DICOM) gets its affine as
  both forms. The same voxels give the same bytes.

  Args:
    voxels: `[X, Y, Z]`, on the grid of `like`.
    like: as it was read.
    compressed: as .nii.gz.
  """
  if like.header is None:
    image = nib.Nifti1Image(voxels, like.affine)
    image.set_sform(like.affine, 1)
    image.set_qform(like.affine, 1)
  else:
    header = like.header.copy()
    header.set_data_dtype(voxels.dtype)
    # Said of the scan's values, not of these.
    header['cal_min'] = header['cal_max'] = 0
    header.set_slope_inter(1, 0)
    kind = nib.Nifti1Image
    if isinstance(header, nib.Nifti2Header):
      kind = nib.Nifti2Image
    image = kind(voxels.reshape(header.get_data_shape()), None, header)
  data = image.to_bytes()
  return gzip.compress(data, 1, mtime=0) if compressed else data


def write_nifti(
  path: str | os.PathLike, voxels: np.ndarray, affine: np.ndarray
) -> None:
  """Writes a volume; the file appears whole or not at all.

  The same voxels give the same bytes (no time stamp in the gzip header).

  Raises:
    OSError: the disk took no more; the text names the file.
  """
  path = pathlib.Path(path)
  image = nib.Nifti1Image(voxels, affine)
  image.set_sform(affine, 1)
  image.set_qform(affine, 1)
  data = image.to_bytes()
  if path.suffix == '.gz':
    data = gzip.compress(data, 6, mtime=0)
  atomic.write(path, data)
