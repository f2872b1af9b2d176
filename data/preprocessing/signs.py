"""What a scan shows of its modality: its look, its scale, and what it says.

Kept of every prepared scan (`PreparedCase.signs`), and taken of a scan that is
to be recognised, in the same way: from the whole scan, as it lies on disk.
"""

from collections.abc import Mapping, Sequence
import re
from typing import Any

import numpy as np

from data.preprocessing import appearance, hounsfield, preprocess
from data.task import Modality

# Scanners by DICOM's Modality, and sequences by words; others say nothing.
_SCANNERS = ('CT', 'MR', 'PT', 'NM', 'US')
_WORDS = {
  't1': r't1',
  't2': r't2',
  'pd': r'pd',
  'flair': r'flair',
  'diffusion': r'dwi|dti|adc|diff\w*',
  'flow': r'tof|pc',
}
_SAID_IN = ('SeriesDescription', 'ProtocolName', 'SequenceName')


def words(text: str) -> list[str]:
  """The sequences that a text names, such as ['t2'] for 'T2_SPIR ax'.

  Args:
    text: a series' description, or a modality's name.
  """
  # Of T1W, T2-weighted and T2star, what follows does not matter.
  after = r'(?:w|wi|star|\*)?(?![a-z0-9])'
  low = text.lower()
  return [
    word
    for word, form in _WORDS.items()
    if re.search(rf'(?<![a-z0-9])(?:{form}){after}', low.replace('_', ' '))
  ]


def said(tags: Mapping[str, str | float]) -> dict[str, Any]:
  """What a DICOM series says of its modality; nothing else of it is kept.

  Returns:
    'scanner', where it is a known one; 'words', where it names a sequence.
  """
  out: dict[str, Any] = {}
  scanner = str(tags.get('Modality', '')).upper()
  if scanner in _SCANNERS:
    out['scanner'] = scanner
  found = words(' '.join(str(tags.get(name, '')) for name in _SAID_IN))
  if found:
    out['words'] = found
  return out


def take(
  voxels: np.ndarray,
  affine: np.ndarray,
  tags: Mapping[str, str | float],
  modality: Modality,
) -> dict[str, Any]:
  """The signs of a scan that is treated as one of a modality; JSON-able.

  Args:
    voxels: `[X, Y, Z]`, scanner values of the whole scan.
    affine: `[4, 4]`, voxel index to RAS mm.
    tags: what its DICOM series says of itself.
    modality: says how it is cut, and how its values become [0, 1].

  Returns:
    'look' (see `appearance.describe`), 'hounsfield' (whether its values alone
    show that they are HU), and what `said` returns.
  """
  image = preprocess.reorient(voxels, affine, modality.plane)
  spacing = preprocess.reoriented_spacing(affine, modality.plane)
  look = appearance.describe(image, spacing, modality.intensity)
  return {
    'look': [round(number, 5) for number in look],
    'hounsfield': hounsfield.evidence(voxels, {})[0],
    **said(tags),
  }


def of_each(
  voxels: np.ndarray,
  affine: np.ndarray,
  tags: Mapping[str, str | float],
  modalities: Sequence[Modality],
) -> dict[str, dict[str, Any]]:
  """Modality -> the signs of a scan that is treated as its own; see `take`."""
  taken: dict[Any, dict[str, Any]] = {}
  out = {}
  for modality in modalities:
    treatment = modality.plane, modality.intensity
    if treatment not in taken:
      taken[treatment] = take(voxels, affine, tags, modality)
    out[modality.name] = taken[treatment]
  return out
