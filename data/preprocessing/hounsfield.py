"""Whether a scan's values are Hounsfield units: CT's scale, air -1000, water 0.

In HU every body has air around or inside of it near -1000 and soft tissue
within a hundred of 0; no other scanner's values do that by accident. A CT that
was cut to a window has no air left: both ends of its values are then full.
"""

from collections.abc import Mapping

import numpy as np

# Where air and lungs, and where muscle, organs and blood lie, HU.
_AIR = (-1100, -700)
_SOFT = (-20, 120)
# Of all voxels, at least this share is air and is soft tissue in a CT scan.
_SHARE = 0.01
# A windowed CT: soft tissue, and what was cut off at either end.
_WINDOWED_SOFT, _CUT_LOW, _CUT_HIGH = 0.03, 0.01, 5e-4
# Below air by this much there is only padding.
_BODY = (-150, 150)
_BODY_SHARE = 0.02
_NEGATIVE, _NEGATIVE_SHARE = -20, 0.005


def _share(voxels: np.ndarray, low: float, high: float) -> float:
  return float(np.mean((voxels >= low) & (voxels <= high)))


def _windowed(voxels: np.ndarray, soft: float) -> bool:
  """Whether the values are CT's that were cut to a window, such as [-125, 275].

  Scaled MR may have negative values and a floor, too, but no full ceiling.
  """
  low, high = float(voxels.min()), float(voxels.max())
  some = voxels.ravel()[:: max(1, voxels.size // 100_000)]
  return bool(
    -1100 <= low <= _NEGATIVE < 100 <= high <= 3000
    and np.array_equal(some, np.round(some))
    and soft >= _WINDOWED_SOFT
    and np.mean(voxels == low) >= _CUT_LOW
    and np.mean(voxels == high) >= _CUT_HIGH
  )


def evidence(
  voxels: np.ndarray, tags: Mapping[str, str | float]
) -> tuple[bool, str]:
  """Whether a scan is CT in Hounsfield units, and why that is thought.

  Args:
    voxels: scanner values.
    tags: what its DICOM series says of itself; a Modality there decides.

  Returns:
    The answer, and a phrase for people.
  """
  said = str(tags.get('Modality', ''))
  if said in ('CT', 'MR'):
    return said == 'CT', f'its DICOM tags say {said}'
  low, high = float(voxels.min()), float(voxels.max())
  air, soft = _share(voxels, *_AIR), _share(voxels, *_SOFT)
  told = f'{100 * soft:.0f} %'
  if min(air, soft) >= _SHARE:
    lung = f'{100 * air:.0f} % of its values are air or lung (-1000 HU)'
    return True, f'{lung}, {told} soft tissue (0 to 100 HU)'
  if _windowed(voxels, soft):
    cut = f'HU that were cut to {low:.0f} to {high:.0f}'
    return True, f'{cut}: {told} are soft tissue'
  if low >= 0:
    return False, 'no value is below 0'
  span = f'values from {low:.4g} to {high:.4g}'
  return False, f'{span}, but not those of air and soft tissue in HU'


def doubt(voxels: np.ndarray) -> str:
  """Why a scan of a CT modality is not in Hounsfield units; '' if it may be.

  Args:
    voxels: scanner values.
  """
  low, high = float(voxels.min()), float(voxels.max())
  span = f'values from {low:.4g} to {high:.4g}'
  if high - low < 100:
    return f'{span}: rescaled, not HU'
  if np.mean(voxels < _NEGATIVE) < _NEGATIVE_SHARE:
    if high <= 255:
      return f'{span}: 8-bit grey values, not HU'
    if _share(voxels, 900, 1200) >= 0.1:
      return f'{span}: stored with an offset of about 1024, not HU'
    return f'{span}: neither air nor fat is there, not HU'
  body = _share(voxels, *_BODY)
  little = f'{100 * body:.1f} % between -150 and 150, where all soft tissue is'
  return f'{span}, {little}: not HU' if body < _BODY_SHARE else ''
