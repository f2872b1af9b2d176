"""Where a NIfTI header says that its voxels lie.

The sform counts where its code is above 0, else the qform where its code is
above 0, else the voxel sides, with x from right to left. That is nibabel's
rule; SPM, FSL and ITK differ only where the two forms do.
"""

import nibabel as nib
import numpy as np

from data.formats import affines
from data.formats.scan_error import ScanError, need

_UNITS = {1: 'metres', 3: 'micrometres'}
# Quaternions are stored in single precision. Nibabel allows for 3.6e-7.
_ROUNDING = 1e-5
_REPAIR = 'repair sform and qform in the header'
_BOTH_WAYS = (
  'find out which one is right: with nibabel, image.set_qform(image.affine)'
  ' keeps the sform and image.set_sform(image.get_qform()) the qform'
)


def round_quaternion(header: nib.Nifti1Header) -> None:
  """Makes a quaternion that is too long by rounding a unit one, in place."""
  names = ('quatern_b', 'quatern_c', 'quatern_d')
  stored = np.array([header[name] for name in names], np.float64)
  excess = float(stored @ stored) - 1
  if abs(float(header.quaternion_threshold)) <= excess <= _ROUNDING:
    # A little short of 1, so that it stays there when it is stored.
    stored *= (1 - 1e-15) / np.sqrt(1 + excess)
    for name, value in zip(names, stored, strict=True):
      header[name] = value


def _qform(header, file: str) -> np.ndarray:
  """The qform, checked.

  Raises:
    ScanError: it is no rotation, or not finite.
  """
  stored = np.array([header[f'quatern_{axis}'] for axis in 'bcd'], np.float64)
  try:
    affine = np.asarray(header.get_qform(), np.float64)
  except (ValueError, np.linalg.LinAlgError, nib.spatialimages.HeaderDataError):
    words = f'its quaternion {stored.round(6).tolist()} is longer than 1'
    remedy = 'repair the qform, with nibabel: image.set_qform(the true affine)'
    words = f'the qform is no rotation: {words}'
    raise ScanError(file, words, remedy) from None
  affines.check_regular(affine, file, 'the qform', _REPAIR)
  return affine


def _compare(affine, other, shape, file: str) -> tuple[str, ...]:
  """What is to be told of a qform beside the sform that counts.

  Raises:
    ScanError: they orient the volume differently.
  """
  # A qform cannot hold a shear: it has the nearest rotation.
  for form in (affine, affines.straightened(affine)):
    if affines.close_affines(form, other, shape):
      return ()
  one, two = (''.join(nib.aff2axcodes(form)) for form in (affine, other))
  # Close to 45 degrees two names may stand for nearly the same axes.
  turn = nib.io_orientation(np.linalg.inv(affine) @ other)
  same = one == two or np.array_equal(turn, [[0, 1], [1, 1], [2, 1]])
  words = f'sform and qform disagree on the orientation: {one} and {two}'
  need(same, file, words, _BOTH_WAYS)
  apart = affines.distance(affine, other, shape)
  return (f'sform and qform differ by up to {apart:.3g} mm: the sform is used',)


def _by_sform(header, shape, file: str) -> tuple[np.ndarray, tuple[str, ...]]:
  affine = np.asarray(header.get_sform(), np.float64)
  other, notes = None, []
  if header['qform_code'] > 0:
    try:
      other = _qform(header, file)
    except ScanError:
      notes.append('the qform is damaged: the sform is used')
  remedy = _REPAIR
  if other is not None:
    remedy = 'repair the sform, or set sform_code to 0: the qform is then used'
  affines.check_regular(affine, file, 'the sform', remedy)
  if other is not None:
    notes += _compare(affine, other, shape, file)
  elif not notes:
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    said = np.asarray(header['pixdim'][1:4], np.float64)
    if np.abs(said / sides - 1).max() > 0.01:
      text = affines.sides_text(said)
      notes.append(f'pixdim says {text} mm: the sform is used')
  return affine, (*notes, *affines.shear_notes(affine))


def place(
  header: nib.Nifti1Header, raw: nib.Nifti1Header, shape, file: str
) -> tuple[np.ndarray, tuple[str, ...]]:
  """The affine that counts, and what people should know of it.

  Args:
    header: with what nibabel repairs repaired.
    raw: as it is on disk.
    shape: of the volume, three sides.
    file: for errors.

  Returns:
    `[4, 4]` float64, voxel index to RAS millimetres; phrases.

  Raises:
    ScanError: nothing in the header says where voxels lie, or two things do.
  """
  sides = np.asarray(raw['pixdim'], np.float64)[1:4]
  sound = np.isfinite(sides).all() and sides.all()
  words = f'pixel sizes {sides.tolist()} are not all positive'
  need(sound, file, words, affines.SIZES)
  for form in ('sform', 'qform'):
    code = int(raw[f'{form}_code'])
    remedy = f'set {form}_code to 1 if the {form} is right, or to 0'
    need(0 <= code <= 5, file, f'unknown {form}_code {code}', remedy)
  notes: tuple[str, ...] = ()
  if header['sform_code'] > 0:
    affine, notes = _by_sform(header, shape, file)
  elif header['qform_code'] > 0:
    affine = _qform(header, file)
  else:
    affine = np.asarray(header.get_base_affine(), np.float64)
    notes = ('left and right are assumed: neither sform nor qform is set',)
  unit = _UNITS.get(int(raw['xyzt_units']) & 7, '')
  affines.check_sides(affine, file, unit)
  if unit:
    notes += (f'its header says {unit}: taken as mm',)
  return affine, notes
