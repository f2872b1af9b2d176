"""The scores of one case: two label maps read, checked and compared."""

from collections.abc import Sequence
from typing import NamedTuple

import nibabel as nib
import numpy as np

from data.formats import scan_files
from data.formats.nifti import Volume, close_affines
from data.formats.scan_error import ScanError
from dbdc_jax.evaluation import scoring
from dbdc_jax.evaluation.label_codes import Classes
from dbdc_jax.evaluation.matching import Case

METRICS = ('dice', 'hd95', 'hd95_union_voxel', 'assd', 'nsd')
METRICS += ('volume_prediction', 'volume_reference')
# What tools write where nobody annotated, if nothing else is said.
UNSET = 255
# Without being told which codes count, no more are taken for classes.
MAX_CODES = 255
# From so many values on it is asked whether they look like an image's.
_FEW_CODES = 16
# Axes that are off by more than a thousandth shear a volume by half a voxel.
_MAX_COSINE = 1e-3


class Outcome(NamedTuple):
  """A case's scores, or why it has none.

  Attributes:
    case: its label maps.
    scores: class -> metric -> value, of `scoring.score`; None if it is bad.
    spacing: voxel sides along the reference's axes, mm.
    tolerance: of the NSD, mm.
    others: 'prediction' and 'reference' -> codes found there that belong to no
      class; None if it is bad.
    ignored: volume that was left out, mL.
    notes: what people should know of its files.
    problem: file, reason, remedy.
  """

  case: Case
  scores: scoring.Scores | None = None
  spacing: tuple[float, ...] = ()
  tolerance: float = 0.0
  others: dict[str, list[int]] | None = None
  ignored: float = 0.0
  notes: tuple[str, ...] = ()
  problem: tuple[str, str, str] | None = None


class _Pair(NamedTuple):
  """Two label maps on their common grid.

  The axes are those of the files in reverse: NIfTI's first axis is the fastest,
  numpy's the last, and metrics do not ask which is which.

  Attributes:
    maps: codes `[Z, Y, X]` of prediction and reference.
    spacing: voxel sides of these axes, mm.
    notes: what people should know of the files.
  """

  maps: tuple[np.ndarray, np.ndarray]
  spacing: tuple[float, ...]
  notes: tuple[str, ...]


def _turned(prediction: Volume, reference: Volume) -> Volume:
  """The prediction with its axes in the order and direction of the reference's.

  Nothing is resampled.
  """
  orientation = nib.orientations.io_orientation
  turn = nib.orientations.ornt_transform(
    orientation(prediction.affine), orientation(reference.affine)
  )
  back = nib.orientations.inv_ornt_aff(turn, prediction.voxels.shape)
  return prediction._replace(
    voxels=nib.orientations.apply_orientation(prediction.voxels, turn),
    affine=prediction.affine @ back,
  )


def _on_grid(case: Case, prediction: Volume, reference: Volume) -> Volume:
  """The prediction on the reference's grid.

  Raises:
    ScanError: it lies on another one.
  """
  shape = reference.voxels.shape
  for volume in (prediction, _turned(prediction, reference)):
    same = volume.voxels.shape == shape
    if same and close_affines(reference.affine, volume.affine, shape):
      return volume
  remedy = "resample the prediction to the reference's grid (nearest neighbour)"
  reason = f'shape {prediction.voxels.shape}, the reference has {shape}'
  if prediction.voxels.shape == shape:
    reason = 'lies elsewhere than the reference (affines)'
    remedy += (
      "; if its voxels are the reference's, one by one, write it again with the"
      " reference's affine"
    )
  raise ScanError(case.prediction.path, reason, remedy)


def _read(case: Case) -> _Pair:
  """Both label maps of a case.

  Raises:
    ScanError: a file is unsound, or the two do not lie on the same grid.
  """
  reference = scan_files.read(case.reference, label=True)
  found = scan_files.read(case.prediction, label=True)
  prediction = _on_grid(case, found, reference)
  axes = reference.affine[:3, :3]
  sides = np.linalg.norm(axes, axis=0)
  cosines = (axes / sides).T @ (axes / sides) - np.eye(3)
  if np.abs(cosines).max() > _MAX_COSINE:
    raise ScanError(
      case.reference.path,
      'its axes are not at right angles',
      'resample both label maps to a grid that is not sheared',
    )
  notes = [
    f'{source.path.name}: {note}'
    for source, volume in zip(case[1:], (found, reference), strict=True)
    for note in volume.notes
  ]
  if prediction is not found:
    name = case.prediction.path.name
    notes.append(f"{name}: its axes were put in the reference's order")
  maps = tuple(
    np.ascontiguousarray(v.voxels.T) for v in (prediction, reference)
  )
  return _Pair(maps, tuple(map(float, sides[::-1])), tuple(notes))


def _occurring(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The codes that occur, sorted, and how often each does.

  Wild ones are sorted for, others counted.
  """
  lowest, highest = int(codes.min()), int(codes.max())
  if highest - lowest > 1 << 16:
    values, counts = np.unique(codes, return_counts=True)
    return values.astype(np.int64), counts
  counts = np.zeros(highest - lowest + 1, np.int64)
  for part in codes:
    counts += np.bincount(part.ravel() - lowest, minlength=len(counts))
  there = np.flatnonzero(counts)
  return lowest + there, counts[there]


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


def _is_image(codes: np.ndarray, common: int) -> bool:
  """Whether most voxels differ from the next one along every axis.

  Args:
    codes: of a volume.
    common: the code of most voxels, whose inside tells nothing.
  """
  for axis in range(codes.ndim):
    lines = codes.swapaxes(0, axis)
    here, there = lines[:-1], lines[1:]
    asked = (here != common) | (there != common)
    if 2 * np.count_nonzero((here == there) & asked) >= np.count_nonzero(asked):
      return False
  return True


def _check_label_map(file, codes, values, counts, classes) -> None:
  """Checks that a file is a label map, as far as its values say.

  Raises:
    ScanError: it looks like an image, or holds too many codes to be all scored.
  """
  many = int(np.count_nonzero(values))
  common = int(values[np.argmax(counts)])
  if many > _FEW_CODES and _is_image(codes, common):
    raise ScanError(
      file,
      f'{many} different label codes, most voxels unlike the one beside them:'
      ' an image, not a label map',
      'give the label map of this case',
    )
  if many > MAX_CODES and classes is None:
    raise ScanError(
      file,
      f'{many} different label codes',
      'give a label map, not an image, or say which codes count: --classes',
    )


def _own_classes(found: Sequence[np.ndarray]) -> Classes:
  """Every code above 0, named by its number."""
  codes = {int(code) for values in found for code in values}
  mine = sorted(code for code in codes if code > 0 and code != UNSET)
  return Classes({code: str(code) for code in mine})


def _score(
  case: Case, classes: Classes | None, tolerance: float | None
) -> Outcome:
  maps, spacing, notes = _read(case)
  occurring = []
  for source, codes in zip(case[1:], maps, strict=True):
    values, counts = _occurring(codes)
    _check_label_map(source.path, codes, values, counts, classes)
    occurring.append(values)
  names, ignored = classes or _own_classes(occurring)
  order = ['background', *dict.fromkeys(names.values())]
  index = {code: order.index(name, 1) for code, name in names.items()}
  prediction, reference = (
    _indices(codes, values, index)
    for codes, values in zip(maps, occurring, strict=True)
  )
  left_out = 0
  if set(ignored) & set(occurring[1].tolist()):
    unknown = _indices(maps[1], occurring[1], dict.fromkeys(ignored, 1)) > 0
    prediction[unknown] = 0
    left_out = np.count_nonzero(unknown)
  known = ({0, *names}, {0, *names, *ignored})
  others = {
    kind: [int(c) for c in values if int(c) not in mine]
    for kind, values, mine in zip(
      ('prediction', 'reference'), occurring, known, strict=True
    )
  }
  tolerance = max(spacing) if tolerance is None else tolerance
  scores = scoring.score(
    prediction, reference, spacing, order, METRICS, tolerance
  )
  millilitres = left_out * float(np.prod(spacing)) / 1000
  return Outcome(
    case, scores, spacing[::-1], tolerance, others, millilitres, notes
  )


def score(
  case: Case, classes: Classes | None, tolerance: float | None
) -> Outcome:
  """Reads and scores a case; whatever is wrong with it is in the outcome.

  Args:
    case: its label maps.
    classes: what codes mean; None for every code above 0 but 255 that occurs
      in either file, named by its number.
    tolerance: of the NSD, mm; None is the case's largest voxel side.
  """
  try:
    return _score(case, classes, tolerance)
  except ScanError as error:
    return Outcome(case, problem=(error.file, error.reason, error.remedy))
  except MemoryError:
    return too_large(case)
  except Exception as error:
    # One file that nobody has thought of must not cost the other cases.
    reason = f'cannot be scored ({type(error).__name__}: {error})'
    remedy = 'open both files of the case and write them again'
    return Outcome(case, problem=(str(case.prediction.path), reason, remedy))


def too_large(case: Case) -> Outcome:
  """The outcome of a case that there was no memory for."""
  reason = 'scoring it needs more memory than there is'
  remedy = 'use fewer processes (--workers=1) or a machine with more memory'
  return Outcome(case, problem=(str(case.reference.path), reason, remedy))
