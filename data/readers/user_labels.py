"""What a label map of a user holds: codes, and whether it is one at all."""

from collections.abc import Mapping

import numpy as np

from data.files import names
from data.formats import label_maps
from data.formats.scan_error import ScanError, need

# A map of so many codes is looked at more closely.
_MANY = 30
# Neighbouring voxels of a drawn region mostly have one code; in an image with
# noise hardly any two are equal.
_ALIKE = 0.5
# Every so many voxels are compared before all are.
_SAMPLE = 997


def never_a_class(code: int) -> bool:
  """Whether a code says by custom that a voxel was not annotated."""
  return code < 0 or code == 255


def _same(image: np.ndarray, label: np.ndarray) -> bool:
  """Whether image and label map hold the same values."""
  if image.shape != label.shape:
    return False
  few = image.flat[::_SAMPLE], label.flat[::_SAMPLE]
  return np.array_equal(*few) and all(map(np.array_equal, image, label))


def _alike(label: np.ndarray) -> float:
  """Share of neighbours with one code, where neither is background."""
  most, neighbours, equal = label.min(), 0, 0
  for axis in range(label.ndim):
    one = np.moveaxis(label, axis, 0)
    drawn = (one[1:] != most) & (one[:-1] != most)
    drawn &= (one[1:] != 0) & (one[:-1] != 0)
    neighbours += int(drawn.sum())
    equal += int(((one[1:] == one[:-1]) & drawn).sum())
  return equal / max(neighbours, 1)


def check_drawn(
  label: np.ndarray,
  image: np.ndarray | None,
  label_file: str,
  image_file: str = '',
) -> dict[int, int]:
  """Checks that a label map is one, and not an image.

  Args:
    label: `[X, Y, Z]` int32 codes.
    image: `[X, Y, Z]` scanner values of the scan that it belongs to, if known.
    label_file: where it lies.
    image_file: where the image lies.

  Returns:
    Code -> number of voxels.

  Raises:
    ScanError: an image lies where the label map should.
  """
  codes = label_maps.count_codes(label)
  twice = image is not None and _same(image, label)
  if len(codes) > _MANY and (twice or _alike(label) < _ALIKE):
    words = f'{len(codes)} different codes ({min(codes)} to {max(codes)})'
    words += ': the voxels of its own image' if twice else ''
    raise ScanError(label_file, words, 'give the label map, not an image')
  words = f'holds the voxels of its label map {label_file}'
  remedy = 'give the image that the label map was drawn on'
  need(not twice, image_file, words, remedy)
  return codes


def classes(
  label: np.ndarray, codes: Mapping[int, int], file: str
) -> np.ndarray:
  """Codes of a user's label map to class indices, uint8.

  Args:
    label: int32 codes.
    codes: code -> class index, of a dataset.json.
    file: where the label map lies.

  Raises:
    ScanError: codes that dataset.json does not name, with their voxel counts;
      or nothing is labelled.
  """
  counts = label_maps.count_codes(label)
  unknown = [code for code in counts if code not in codes]
  listed = names.listed([f'{code} ({counts[code]} voxels)' for code in unknown])
  need(
    not unknown or not all(map(never_a_class, unknown)),
    file,
    f'unknown label codes: {listed}, by custom voxels that were not annotated',
    'list them under "ignore" in the labels of dataset.json, name their class'
    ' there, or remove them',
  )
  return label_maps.map_codes(label, codes, file)
