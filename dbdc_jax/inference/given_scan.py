"""What a program gives as a scan: its voxels, and where they lie.

Labels end up in the wrong place, or nowhere, if axes are mistaken: so nothing
of a grid is guessed.
"""

from collections.abc import Sequence
import os
from typing import Any
import warnings

import nibabel as nib
import numpy as np

from data.formats import affines, nifti_affine
from data.preprocessing import planes

# Voxel sides from two sources are equal up to this share.
_CLOSE = 1e-3
_HOW = (
  'give the image of nibabel.load(path), or affine= (voxel index to RAS mm), or'
  " spacing= with axes=: where each axis runs to, e.g. axes='SPL' for slices"
  ' from feet to head, rows from front to back, columns from right to left'
)


def grid(
  image: Any,
  affine: np.ndarray | None,
  spacing: Sequence[float] | None,
  axes: Sequence[str] | None,
) -> tuple[np.ndarray, np.ndarray]:
  """Voxels `[X, Y, Z]` and affine `[4, 4]` of what `Segmenter.segment` takes.

  Raises:
    TypeError: `image` is no image; says how to make it one.
    ScanError: an affine or a header that no scan can have.
    ValueError: its shape, values or grid cannot be those of a scan, or two
      arguments contradict each other.
  """
  if isinstance(image, str | os.PathLike):
    raise TypeError(
      f'{image} is a path: give nibabel.load(path), or use'
      ' `python -m dbdc_jax.predict`, which reads every format'
    )
  if hasattr(image, 'GetDirection'):
    raise TypeError(
      'a SimpleITK image: write it with SimpleITK.WriteImage(image,'
      " 'scan.nii.gz') and give nibabel.load('scan.nii.gz')"
    )
  if hasattr(image, 'dataobj'):
    place = _of_header(image)
    if affine is None:
      affine = place
    elif place is not None and not np.allclose(affine, place):
      raise ValueError(
        'affine= is not the affine of the nibabel image: leave it away, or give'
        ' the image without its header: image.get_fdata()'
      )
    image = image.dataobj
  voxels = _voxels(np.asanyarray(image))
  if affine is None:
    return voxels, _affine(spacing, axes)
  given, affine = affine, _numbers(affine)
  if affine.shape != (4, 4) or not np.array_equal(affine[3], (0, 0, 0, 1)):
    raise ValueError(
      'affine= must be [4, 4], voxel index to RAS mm, with the last row'
      f' 0 0 0 1, not {given!r}'
    )
  affines.check_regular(affine, 'affine=', 'it', 'give that of the scan')
  affines.check_sides(affine, 'affine=')
  _check_agreement(affine, spacing, axes)
  return voxels, affine


def _of_header(image: Any) -> np.ndarray | None:
  """The affine of a nibabel image, checked as that of a file is."""
  if not isinstance(image, nib.Nifti1Pair):
    return image.affine
  file = str(image.get_filename() or 'the NIfTI image')
  affine, notes = nifti_affine.place(
    image.header, image.header, image.shape[:3], file
  )
  for note in notes:
    warnings.warn(f'{file}: {note}', stacklevel=4)
  return affine


def _voxels(voxels: np.ndarray) -> np.ndarray:
  """Checks the values; returns them."""
  if voxels.ndim != 3 or not voxels.size:
    raise ValueError(
      f'a volume of shape {voxels.shape}: three axes are needed; of more'
      ' channels or times give one, volume[..., 0], and a single slice as'
      ' volume[None]'
    )
  if voxels.dtype.kind not in 'iuf':
    raise ValueError(
      f'voxels of type {voxels.dtype}: give the scanner values (of a CT, HU) as'
      ' integers or floats'
    )
  if bad := int(np.count_nonzero(~np.isfinite(voxels))):
    raise ValueError(
      f'{bad:,} of {voxels.size:,} voxels are not finite: give them the value'
      ' of air before, e.g. numpy.nan_to_num(volume, nan=-1024) of a CT'
    )
  return voxels


def _affine(
  spacing: Sequence[float] | None, axes: Sequence[str] | None
) -> np.ndarray:
  """The affine of voxel sides and of the directions that axes run to."""
  if spacing is None or axes is None:
    lacking = 'where its axes run to' if axes is None else 'its voxel sides'
    if spacing is None and axes is None:
      lacking = 'its grid'
    raise ValueError(f'an array does not say {lacking}: {_HOW}')
  sides = _sides(spacing)
  letters = list(_letters(axes))
  known = {name: pair for pair in ('LR', 'PA', 'IS') for name in pair}
  if sorted(known.get(name, '') for name in letters) != ['IS', 'LR', 'PA']:
    raise ValueError(
      f'axes={axes!r}: name where each of the three axes runs to, with one'
      " letter of each of L/R, P/A and I/S, e.g. 'SPL'"
    )
  return planes.affine_of(letters, sides.tolist())


def _numbers(values: Any) -> np.ndarray:
  """Numbers as an array; an empty one of what are none."""
  try:
    return np.asarray(values, float)
  except (TypeError, ValueError):
    return np.zeros(0)


def _letters(axes: Any) -> str:
  """'SPL' of that, or of a sequence of letters."""
  return ''.join(map(str, axes if isinstance(axes, Sequence) else ())).upper()


def _sides(spacing: Sequence[float]) -> np.ndarray:
  sides = _numbers(spacing)
  if sides.shape != (3,) or not np.isfinite(sides).all() or sides.min() <= 0:
    raise ValueError(
      f'spacing={spacing!r}: three positive sides in mm are needed, in the'
      ' order of the axes'
    )
  return sides


def _check_agreement(
  affine: np.ndarray,
  spacing: Sequence[float] | None,
  axes: Sequence[str] | None,
) -> None:
  """What stands beside an affine must say the same."""
  sides = np.linalg.norm(affine[:3, :3], axis=0)
  given = sides if spacing is None else _sides(spacing)
  if not np.allclose(given, sides, rtol=_CLOSE):
    said, true = (
      ', '.join(f'{side:.4g}' for side in part) for part in (given, sides)
    )
    raise ValueError(
      f'spacing=({said}) contradicts the affine, whose voxel sides are ({true})'
      ' mm in the order of the axes: leave spacing= away, or mend the affine'
    )
  runs = ''.join(nib.aff2axcodes(affine))
  if axes is not None and _letters(axes) != runs:
    raise ValueError(
      f'axes={axes!r} contradicts the affine, whose axes run to {runs}: leave'
      ' axes= away, or mend the affine'
    )
