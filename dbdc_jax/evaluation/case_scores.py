"""The scores of one case: two label maps read, checked and compared."""

from collections.abc import Iterable, Sequence
import pathlib
from typing import NamedTuple

import nibabel as nib
import numpy as np

from data.formats import affines, label_maps, scan_files
from data.formats.nifti import Volume
from data.formats.scan_error import ScanError
from data.readers import left_open
from data.task import UNKNOWN
from dbdc_jax.evaluation import scoring
from dbdc_jax.evaluation.label_codes import Classes
from dbdc_jax.evaluation.matching import Matched

METRICS = (
  'dice', 'hd95', 'hd95_union_voxel', 'assd', 'nsd', 'volume_prediction',
  'volume_reference',
)  # fmt: skip
# What tools write where nobody annotated, if nothing else is said.
UNSET = 255
# Without being told which codes count, no more are taken for classes.
MAX_CODES = 255
# From so many values on it is asked whether they look like an image's.
_FEW_CODES = 16
# Axes that are off by more than a thousandth (degrees) shear a volume by half a
# voxel.
_MAX_SHEAR = np.degrees(1e-3)


class Scored(NamedTuple):
  """A case's scores, or why it has none.

  Attributes:
    case: its label maps.
    scores: class -> metric -> value, of `scoring.score`.
    spacing: voxel sides along the reference's axes, mm.
    tolerance: of the NSD, mm.
    others: 'prediction' and 'reference' -> codes found there that belong to no
      class.
    ignored: volume that was left out, mL.
    undrawn: classes that nobody drew in the reference: they have no scores.
    notes: what people should know of its files.
    problem: file, reason, remedy; only of a bad case.
  """

  case: Matched
  scores: scoring.Scores = {}  # noqa: RUF012  Of a tuple, never changed.
  spacing: tuple[float, ...] = ()
  tolerance: float = 0.0
  others: dict[str, list[int]] = {}  # noqa: RUF012
  ignored: float = 0.0
  undrawn: Sequence[str] = ()
  notes: Sequence[str] = ()
  problem: tuple[str, str, str] | None = None


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


def _on_grid(case: Matched, prediction: Volume, reference: Volume) -> Volume:
  """The prediction on the reference's grid.

  Raises:
    ScanError: it lies on another one.
  """
  shape = reference.voxels.shape
  for volume in (prediction, _turned(prediction, reference)):
    same = volume.voxels.shape == shape
    if same and affines.close_affines(reference.affine, volume.affine, shape):
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


def _read(
  case: Matched,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
  """Both label maps of a case on their common grid.

  The axes are those of the files in reverse: NIfTI's first axis is the fastest,
  numpy's the last, and metrics do not ask which is which.

  Returns:
    The codes of prediction and reference, `[Z, Y, X]`; the affine of `[X, Y,
    Z]`; what people should know of the files.

  Raises:
    ScanError: a file is unsound, or the two do not lie on the same grid.
  """
  reference = scan_files.read(case.reference, label=True)
  found = scan_files.read(case.prediction, label=True)
  prediction = _on_grid(case, found, reference)
  if affines.shear(reference.affine) > _MAX_SHEAR:
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
  mine, theirs = (
    np.ascontiguousarray(volume.voxels.T) for volume in (prediction, reference)
  )
  return mine, theirs, reference.affine, notes


def _not_drawn(
  case: Matched,
  reference: np.ndarray,
  counts: dict[int, int],
  classes: Classes,
  affine: np.ndarray,
) -> tuple[np.ndarray, set[str]]:
  """Voxels at which nobody looked, and classes that nobody drew.

  Args:
    case: of the reference.
    reference: its codes, `[Z, Y, X]`.
    counts: of them.
    classes: what codes mean.
    affine: of `[X, Y, Z]`.

  Raises:
    ScanError: it holds what dataset.json says was not drawn.
  """
  if classes.partial is None:
    return np.isin(reference, classes.ignored), set()
  (modality,) = classes.partial.modalities
  index = {code: modality.codes.get(code, 0) for code in counts}
  label, drawn = left_open.leave_open(
    label_maps.look_up(reference, index, np.uint8).T,
    affine,
    modality,
    case.name,
    str(case.reference.path),
  )
  undrawn: set[str] = set()
  if drawn is not None:
    there = {classes.partial.classes[index] for index in drawn}
    undrawn = {*classes.names.values()} - there
  return label.T == UNKNOWN, undrawn


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


def _check_label_map(
  file: pathlib.Path,
  codes: np.ndarray,
  counts: dict[int, int],
  classes: Classes | None,
) -> None:
  """Checks that a file is a label map, as far as its values say.

  Raises:
    ScanError: it looks like an image, or holds too many codes to be all scored.
  """
  many = len(counts.keys() - {0})
  common = max(counts, key=lambda code: counts[code])
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


def _own_classes(codes: Iterable[int]) -> Classes:
  """Every code above 0, named by its number."""
  mine = sorted(code for code in codes if code > 0 and code != UNSET)
  return Classes({code: str(code) for code in mine})


def _score(
  case: Matched, classes: Classes | None, tolerance: float | None
) -> Scored:
  prediction, reference, affine, notes = _read(case)
  sides = np.linalg.norm(affine[:3, :3], axis=0)
  spacing = tuple(map(float, sides[::-1]))
  here, there = map(label_maps.count_codes, (prediction, reference))
  _check_label_map(case.prediction.path, prediction, here, classes)
  _check_label_map(case.reference.path, reference, there, classes)
  classes = classes or _own_classes(here | there)
  names = classes.names
  order = ['background', *dict.fromkeys(names.values())]
  index = {code: order.index(name, 1) for code, name in names.items()}
  # Classes' indices, in 8 bits where these are enough.
  kind = np.min_scalar_type(len(order) - 1)
  look_up = lambda codes, counts: label_maps.look_up(
    codes, {code: index.get(code, 0) for code in counts}, kind
  )
  prediction, left_out = look_up(prediction, here), 0
  undrawn: set[str] = set()
  if classes.partial or there.keys() & set(classes.ignored):
    unknown, undrawn = _not_drawn(case, reference, there, classes, affine)
    prediction[unknown] = 0
    left_out = int(np.count_nonzero(unknown))
  reference = look_up(reference, there)
  others = {
    'prediction': sorted(here.keys() - {0, *names}),
    'reference': sorted(there.keys() - {0, *names, *classes.ignored}),
  }
  tolerance = max(spacing) if tolerance is None else tolerance
  scores = scoring.score(
    prediction, reference, spacing, order, METRICS, tolerance
  )
  millilitres = left_out * float(np.prod(spacing)) / 1000
  return Scored(
    case,
    scoring.only({*order} - undrawn, scores),
    spacing[::-1],
    tolerance,
    others,
    millilitres,
    sorted(undrawn),
    notes,
  )


def score(
  case: Matched, classes: Classes | None, tolerance: float | None
) -> Scored:
  """Reads and scores a case; whatever is wrong with it is in the result.

  Args:
    case: its label maps.
    classes: what codes mean; None for every code above 0 but 255 that occurs
      in either file, named by its number.
    tolerance: of the NSD, mm; None is the case's largest voxel side.
  """
  try:
    return _score(case, classes, tolerance)
  except ScanError as error:
    return Scored(case, problem=(error.file, error.reason, error.remedy))
  except MemoryError:
    return too_large(case)
  except Exception as error:
    # One file that nobody has thought of must not cost the other cases.
    reason = f'cannot be scored ({type(error).__name__}: {error})'
    remedy = 'open both files of the case and write them again'
    return Scored(case, problem=(str(case.prediction.path), reason, remedy))


def too_large(case: Matched) -> Scored:
  """The result of a case that there was no memory for."""
  reason = 'scoring it needs more memory than there is'
  remedy = 'use fewer processes (--workers=1) or a machine with more memory'
  return Scored(case, problem=(str(case.reference.path), reason, remedy))
