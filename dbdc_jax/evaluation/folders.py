"""Label maps in two folders: found, read, checked and scored, case by case."""

from collections.abc import Sequence
import os
import pathlib
from typing import NamedTuple

import numpy as np

from data.scan_error import ScanError
from data.volume_io import close_affines, read_nifti
from dbdc_jax.evaluation import scoring

METRICS = ('dice', 'hd95', 'hd95_union_voxel', 'assd', 'nsd')
METRICS += ('volume_prediction', 'volume_reference')
# An image that was taken for a label map has thousands.
MAX_CODES = 255
_SUFFIXES = ('.nii.gz', '.nii')
# Axes that are off by more than a thousandth shear a volume by half a voxel.
_MAX_COSINE = 1e-3


class Case(NamedTuple):
  """The two files of a case."""

  name: str
  prediction: pathlib.Path
  reference: pathlib.Path


class Found(NamedTuple):
  """What two folders hold.

  Attributes:
    cases: those with both files, by name.
    missing: a finding for each file without its partner.
    twice: a finding for each case that has two files in one folder.
    total: how many cases there are.
  """

  cases: list[Case]
  missing: list[ScanError]
  twice: list[ScanError]
  total: int


class Outcome(NamedTuple):
  """A case's scores, or why it has none.

  Attributes:
    case: its files.
    scores: class -> metric -> value, of `scoring.score`; None if it is bad.
    spacing: voxel sides along the file's axes, mm.
    tolerance: of the NSD, mm.
    others: 'prediction' and 'reference' -> codes found there that belong to no
      class; None if it is bad.
    problem: file, reason, remedy.
  """

  case: Case
  scores: scoring.Scores | None = None
  spacing: tuple[float, ...] = ()
  tolerance: float = 0.0
  others: dict[str, list[int]] | None = None
  problem: tuple[str, str, str] | None = None


def _label_maps(
  folder: pathlib.Path,
) -> tuple[dict[str, pathlib.Path], list[ScanError]]:
  """Case name -> file, and a finding for each name that is there twice."""
  try:
    files = sorted(f for f in folder.iterdir() if f.is_file())
  except OSError as error:
    raise ValueError(
      f'{folder}: cannot be read ({error.strerror}); give a folder of .nii or'
      ' .nii.gz label maps'
    ) from error
  maps: dict[str, pathlib.Path] = {}
  twice = []
  for file in files:
    suffix = next((s for s in _SUFFIXES if file.name.endswith(s)), '')
    name = file.name.removesuffix(suffix)
    # Other systems' hidden copies are no label maps.
    if not suffix or not name or name.startswith('.'):
      continue
    if maps.setdefault(name, file) != file:
      twice.append(
        ScanError(file, f'{maps[name].name} is the same case', 'remove one')
      )
  if not maps:
    raise ValueError(f'{folder}: holds no .nii or .nii.gz label map')
  return maps, twice


def find(prediction: str | os.PathLike, reference: str | os.PathLike) -> Found:
  """Matches predictions with references by their names.

  Args:
    prediction: folder of `NAME.nii` or `NAME.nii.gz`.
    reference: another one; a case may be compressed in only one of them.

  Raises:
    ValueError: a folder is unreadable or holds no label map, or both are one.
  """
  folders = pathlib.Path(prediction), pathlib.Path(reference)
  if folders[0].resolve() == folders[1].resolve():
    raise ValueError(
      f'{folders[0]}: the predictions and the references are the same folder'
    )
  (predictions, twice), (references, more) = map(_label_maps, folders)
  doubtful = {_name(e.file) for e in twice + more}
  missing = []
  for here, there, kind, folder in (
    (references, predictions, 'prediction', folders[0]),
    (predictions, references, 'reference', folders[1]),
  ):
    missing += [
      ScanError(
        here[name],
        f'no {kind} {name}.nii or {name}.nii.gz in {folder}',
        'add it, or leave such cases out: --allow-missing',
      )
      for name in sorted(here.keys() - there.keys())
    ]
  names = sorted(references.keys() & predictions.keys() - doubtful)
  cases = [Case(name, predictions[name], references[name]) for name in names]
  total = len(references.keys() | predictions.keys())
  return Found(cases, missing, twice + more, total)


def _name(file: str) -> str:
  name = pathlib.Path(file).name
  return name.removesuffix('.gz').removesuffix('.nii')


def _read(case: Case) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
  """Both label maps of a case on their common grid.

  The axes are those of the files in reverse: NIfTI's first axis is the fastest,
  numpy's the last, and metrics do not ask which is which.

  Returns:
    Codes `[Z, Y, X]` of prediction and reference; voxel sides of these axes.

  Raises:
    ScanError: a file is unsound, or the two do not lie on the same grid.
  """
  reference = read_nifti(case.reference, label=True)
  prediction = read_nifti(case.prediction, label=True)
  shapes = prediction.voxels.shape, reference.voxels.shape
  remedy = "resample the prediction to the reference's grid (nearest neighbour)"
  if shapes[0] != shapes[1]:
    raise ScanError(
      case.prediction,
      f'shape {shapes[0]}, the reference has {shapes[1]}',
      remedy,
    )
  if not close_affines(reference.affine, prediction.affine, shapes[1]):
    raise ScanError(
      case.prediction, 'lies elsewhere than the reference (affines)', remedy
    )
  axes = reference.affine[:3, :3]
  sides = np.linalg.norm(axes, axis=0)
  cosines = (axes / sides).T @ (axes / sides) - np.eye(3)
  if np.abs(cosines).max() > _MAX_COSINE:
    raise ScanError(
      case.reference,
      'its axes are not at right angles',
      'resample both label maps to a grid that is not sheared',
    )
  codes = (np.ascontiguousarray(v.voxels.T) for v in (prediction, reference))
  return *codes, tuple(float(side) for side in sides[::-1])


def _occurring(codes: np.ndarray) -> np.ndarray:
  """The codes that occur, sorted; wild ones are sorted for, others counted."""
  lowest, highest = int(codes.min()), int(codes.max())
  if highest - lowest > 1 << 16:
    return np.unique(codes).astype(np.int64)
  counts = np.zeros(highest - lowest + 1, np.int64)
  for part in codes:
    counts += np.bincount(part.ravel() - lowest, minlength=len(counts))
  return lowest + np.flatnonzero(counts)


def _indices(
  codes: np.ndarray, occurring: np.ndarray, index: dict[int, int]
) -> np.ndarray:
  """Class indices, uint8 where that is enough; 0 for codes of no class."""
  kind = np.min_scalar_type(max(index.values(), default=0))
  values = np.array([index.get(int(code), 0) for code in occurring], kind)
  if occurring[-1] - occurring[0] > 1 << 16:
    return values[np.searchsorted(occurring, codes)]
  table = np.zeros(occurring[-1] - occurring[0] + 1, kind)
  table[occurring - occurring[0]] = values
  out = np.empty(codes.shape, kind)
  for part, where in zip(out, codes, strict=True):
    part[...] = table[where - occurring[0]]
  return out


def _own_classes(case: Case, occurring: Sequence[np.ndarray]) -> dict[int, str]:
  """Every code above 0, named by its number."""
  found = {}
  for file, codes in zip(case[1:], occurring, strict=True):
    mine = [int(code) for code in codes if code > 0]
    if len(mine) > MAX_CODES:
      raise ScanError(
        file,
        f'{len(mine)} different label codes',
        'give a label map, not an image, or say which codes count: --classes',
      )
    found.update({code: str(code) for code in mine})
  return dict(sorted(found.items()))


def _score(case, codes, tolerance) -> Outcome:
  prediction, reference, spacing = _read(case)
  pair = prediction, reference
  occurring = [_occurring(labels) for labels in pair]
  if codes is None:
    codes = _own_classes(case, occurring)
  classes = ['background', *dict.fromkeys(codes.values())]
  index = {code: classes.index(name, 1) for code, name in codes.items()}
  maps = [
    _indices(labels, there, index)
    for labels, there in zip(pair, occurring, strict=True)
  ]
  others = {
    kind: [int(c) for c in there if c != 0 and int(c) not in codes]
    for kind, there in zip(('prediction', 'reference'), occurring, strict=True)
  }
  tolerance = max(spacing) if tolerance is None else tolerance
  scores = scoring.score(*maps, spacing, classes, METRICS, tolerance)
  return Outcome(case, scores, spacing[::-1], tolerance, others)


def score(
  case: Case, codes: dict[int, str] | None, tolerance: float | None
) -> Outcome:
  """Reads and scores a case; whatever is wrong with it is in the outcome.

  Args:
    case: its files.
    codes: code -> class name; None for every code above 0 that occurs in
      either file, named by its number.
    tolerance: of the NSD, mm; None is the case's largest voxel side.
  """
  try:
    return _score(case, codes, tolerance)
  except ScanError as error:
    return Outcome(case, problem=(error.file, error.reason, error.remedy))
  except MemoryError:
    return too_large(case)


def too_large(case: Case) -> Outcome:
  """The outcome of a case that there was no memory for."""
  reason = 'scoring it needs more memory than there is'
  remedy = 'use fewer processes (--workers=1) or a machine with more memory'
  return Outcome(case, problem=(str(case.reference), reason, remedy))
