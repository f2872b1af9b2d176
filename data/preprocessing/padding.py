"""The ends of a scan's own values, without padding and single odd voxels.

Scanners and exporters fill what lies outside of the field of view with a value
that no tissue has (-2000, -3024, -32768), and single voxels may be as far off.
Taken for the darkest value, any of these would squeeze all tissue into a
fraction of the scale.

* Padding: one value that at least `SHARE` of the voxels have, below (or above)
  all others but `SHARE` of them, and apart from these by over `APART` of their
  range.
* Odd voxels: the darkest ones, `SHARE` of all at most, that lie over `APART` of
  the range below the rest.

Padding counts as the darkest value: outside of the field of view is air. A scan
without any keeps its minimum, so that nothing changes for it.
"""

import numpy as np

SHARE = 1e-3
APART = 0.25
# Values that padding lies apart from are many: few ones are a drawing's.
_LEVELS = 16
# Voxels that are looked at to find padding; the rest is as they are.
_SAMPLE = 1 << 20
# Padding may have several values, one after another.
_ROUNDS = 4


def _quantile(values: np.ndarray, share: float) -> float:
  """The value that `share` of all lie below; one that occurs."""
  place = int(share * (values.size - 1))
  return float(np.partition(values, place)[place])


def _padding(values: np.ndarray) -> float | None:
  """The value that pads the low end, if one does.

  Args:
    values: `[n]`, of a scan without what is known to be padding.
  """
  pad = _quantile(values, SHARE)
  rest = values[values > pad]
  if np.mean(values == pad) < SHARE or rest.size < _LEVELS:
    return None
  low, high = _quantile(rest, SHARE), _quantile(rest, 1 - SHARE)
  apart = low - pad > APART * (high - low) > 0
  return pad if apart and len(np.unique(rest)) >= _LEVELS else None


def limits(image: np.ndarray, upper_percentile: float) -> tuple[float, float]:
  """The darkest value of a scan that counts, and its upper percentile.

  Args:
    image: scanner values.
    upper_percentile: in percent, of all voxels, padding counting as dark.
  """
  values = image.ravel()
  sample = values[:: max(1, values.size // _SAMPLE)]
  floor, ceiling = -np.inf, np.inf
  for _ in range(_ROUNDS):
    low = _padding(sample)
    high = _padding(-sample)
    if low is None and high is None:
      break
    floor = floor if low is None else low
    ceiling = ceiling if high is None else -high
    sample = sample[(sample > floor) & (sample < ceiling)]
  own = values
  if np.isfinite([floor, ceiling]).any():
    own = values[(values > floor) & (values < ceiling)]
    values = np.where(values < ceiling, values, floor)
  top = float(np.percentile(values, upper_percentile))
  least, bottom = float(own.min()), _quantile(sample, SHARE)
  fence = bottom - APART * (top - bottom)
  if least < fence:
    least = float(own[own >= fence].min())
  return least, top
