"""Strict reading and writing of NIfTI volumes.

Ordinary readers are not strict: they set a zero pixel size to 1 and ignore a
scaling that is not finite. Here every finding is a `ScanError` that names the
file, the reason and the remedy.
"""

from collections.abc import Mapping
import gzip
import io
import logging
import os
import pathlib
import types
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy import typing as npt

from data.files import atomic
from data.formats.affines import close_affines
from data.formats.label_maps import label_codes
from data.formats.nifti_affine import place, round_quaternion
from data.formats.nifti_bytes import Layout, layout, read_bytes, read_head
from data.formats.scan_error import AGAIN, EXPORT, GREY, ScanError, need


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


# Nibabel's remarks on headers: what matters is a note or an error.
_SILENT = logging.Logger('silent', logging.CRITICAL + 1)


def _extensions(found: Layout, data: bytes):
  """The header's extensions; none if they are damaged, as nobody needs them."""
  kind = type(found.header)
  place = kind.sizeof_hdr
  swapped = found.header.endianness != nib.volumeutils.native_code
  start = place + 4
  if not data[place]:
    return kind.exts_klass()
  number = np.dtype(found.header.endianness + 'i4')
  while start + 16 <= found.offset:
    size = int(np.frombuffer(data, number, 1, start)[0])
    if size < 16 or size % 16 or start + size > found.offset:
      return kind.exts_klass()
    start += size
  part = data[place + 4 : start]
  try:
    return kind.exts_klass.from_fileobj(io.BytesIO(part), len(part), swapped)
  except Exception:  # Whatever a library says of foreign bytes.
    return kind.exts_klass()


def _sound_header(found: Layout, data: bytes) -> nib.Nifti1Header:
  """The header with what nibabel repairs repaired, fit for another volume."""
  header = found.header.copy()
  header['vox_offset'] = 0
  header.check_fix(logger=_SILENT, error_level=100)
  round_quaternion(header)
  header.extensions = _extensions(found, data)
  return header


def check_shape(shape: tuple[int, ...], file: str) -> tuple[int, ...]:
  """A volume's three sides, without trailing axes of 1.

  Raises:
    ScanError: not three axes.
  """
  short = shape
  while len(short) > 3 and short[-1] == 1:
    short = short[:-1]
  words = f'{len(short)}-dimensional, {short}'
  need(len(short) == 3, file, words, 'give one 3-D volume a file')
  return short


def _head(found: Layout, data: bytes, file: str):
  """Header, shape, affine and notes of a volume of one channel."""
  need(found.dtype.fields is None, file, 'a colour (RGB) volume', GREY)
  real = found.dtype.kind != 'c'
  need(real, file, 'complex voxels', GREY + ' (magnitude)')
  shape = check_shape(found.shape, file)
  with np.errstate(all='ignore'):  # The checks find what overflows.
    header = _sound_header(found, data)
    affine, notes = place(header, found.header, shape, file)
  return header, shape, affine, notes


def _scaling(header, file: str) -> tuple[float, float]:
  """Slope and intercept; a slope of 0, NaN or infinity means none."""
  try:
    slope, inter = header.get_slope_inter()
  except nib.spatialimages.HeaderDataError as error:
    slope, inter = (float(header[k]) for k in ('scl_slope', 'scl_inter'))
    words = f'intensity scaling {slope}, {inter} is not finite'
    remedy = 'set scl_slope to 1 and scl_inter to 0, or to their true values'
    raise ScanError(file, words, remedy) from error
  return (1.0, 0.0) if slope is None else (slope, inter)


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
  return nifti_volume(read_bytes(pathlib.Path(path)), str(path), label=label)


def nifti_volume(data: bytes, file: str, *, label: bool = False) -> Volume:
  """The volume that the verified bytes of a single NIfTI file hold.

  Args:
    data: as `nifti_bytes.read_bytes` gives them.
    file: for errors.
    label: whether it is a label map.

  Raises:
    ScanError: for anything that is not a sound 3-D volume.
  """
  found = layout(data, file)
  header, shape, affine, notes = _head(found, data, file)
  slope, inter = _scaling(header, file)
  proxy = nib.arrayproxy.ArrayProxy(
    io.BytesIO(data), (shape, found.dtype, found.offset, slope, inter)
  )
  step = abs(slope) if found.dtype.kind in 'iu' else 0.0
  volume = volume_of(proxy, affine, notes, file, label=label, step=step)
  return volume._replace(header=header)


def volume_of(
  stored: npt.ArrayLike,
  affine: np.ndarray,
  notes: tuple[str, ...],
  file: str,
  *,
  label: bool,
  step: float = 0.0,
) -> Volume:
  """The volume of checked values: codes of a label map, else float32.

  Args:
    stored: `[X, Y, Z]` as the file means them.
    affine: `[4, 4]`.
    notes: what is known so far.
    file: for errors.
    label: whether it is a label map.
    step: see `label_codes`.

  Raises:
    ScanError: no values of a scan, or no codes.
  """
  with np.errstate(all='ignore'):  # The checks find what overflows.
    if label:
      codes, more = label_codes(np.asanyarray(stored), file, step)
      return Volume(codes, affine, notes=notes + more)
    # Scaled in single precision: a large scan need not be there in double.
    voxels = np.asanyarray(stored, np.float32)
  check_image(voxels, file)
  return Volume(voxels, affine, notes=notes)


def read_affine(path: str | os.PathLike) -> np.ndarray:
  """Where a NIfTI file's voxels lie, from its header alone.

  Returns:
    `[4, 4]` float64, voxel index to RAS millimetres.

  Raises:
    ScanError: as `read_nifti`, as far as the header says.
  """
  return nifti_affine(read_head(pathlib.Path(path)), str(path))


def nifti_affine(head: bytes, file: str) -> np.ndarray:
  """Where voxels lie, from the first bytes of a single NIfTI file.

  Raises:
    ScanError: as `nifti_volume`, as far as the header says.
  """
  found = layout(head, file)._replace(offset=0)  # No extension is read.
  return _head(found, head + bytes(8), file)[2]


def check_image(voxels: np.ndarray, file: str) -> None:
  """Checks an image's values.

  An image that is the same everywhere shows nobody: it would only teach that
  nothing is background. It comes from a failed export, so it is refused.

  Raises:
    ScanError: NaN or infinite voxels, or all of them equal.
  """
  bad = voxels.size - int(np.isfinite(voxels).sum())
  remedy = f"set them to the background's value, or {EXPORT}"
  need(not bad, file, f'{bad} voxels are NaN or infinite', remedy)
  varied = voxels.min() < voxels.max()
  words = f'constant: every voxel is {voxels.flat[0]}'
  need(varied, file, words, f'{EXPORT}, or {AGAIN}')


def check_pair(
  image: Volume, label: Volume, label_file: str | os.PathLike
) -> None:
  """Checks that a label map lies on its image's grid.

  Raises:
    ScanError: other shape, or an affine that is off by over half a voxel.
  """
  shape, drawn = image.voxels.shape, label.voxels.shape
  words = f'label shape {drawn} is not the image shape {shape}'
  remedy = 'give the label map that was drawn on this image'
  need(shape == drawn, label_file, words, remedy)
  told = '; '.join(('affines differ', *image.notes, *label.notes))
  need(
    close_affines(image.affine, label.affine, shape),
    label_file,
    f'the label lies elsewhere than the image ({told})',
    'resample the label map to the image',
  )


def nifti_bytes(voxels: np.ndarray, like: Volume, *, level: int = 1) -> bytes:
  """A NIfTI file of voxels that lie where another volume's do.

  Shape, affine, codes of sform and qform, voxel sides and their unit are those
  of the volume's own header; a volume that has none (DICOM) gets its affine as
  both forms. The same voxels give the same bytes.

  Args:
    voxels: `[X, Y, Z]`, on the grid of `like`.
    like: as it was read.
    level: of gzip; 0: not compressed.
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
    two = isinstance(header, nib.Nifti2Header)
    kind = nib.Nifti2Image if two else nib.Nifti1Image
    image = kind(voxels.reshape(header.get_data_shape()), None, header)
  data = image.to_bytes()
  # No time stamp: the same voxels give the same bytes.
  return gzip.compress(data, level, mtime=0) if level else data


def write_nifti(
  path: str | os.PathLike, voxels: np.ndarray, affine: np.ndarray
) -> None:
  """Writes a volume; the file appears whole or not at all.

  The same voxels give the same bytes.

  Raises:
    OSError: the disk took no more; the text names the file.
  """
  path = pathlib.Path(path)
  level = 6 if path.suffix == '.gz' else 0
  atomic.write(path, nifti_bytes(voxels, Volume(voxels, affine), level=level))
