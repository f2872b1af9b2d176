"""From a scan to its label map, with the networks of one or several runs."""

from collections.abc import Iterator, Sequence
import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np

from data.preprocessing import preprocess
from data.task import Modality
from dbdc_jax.evaluation import components
from dbdc_jax.inference import choices, given_scan, sliding_window, trained_run
from dbdc_jax.inference.trained_run import TrainedRun

# Slices that are in memory as probabilities at a time, and windows per call.
SLAB = 8
WINDOWS = 32
# Passes that look for the region, and the share of what they find that may lie
# outside of it on each side.
_COARSE_PASSES = 3
_OUTERMOST = 0.01

Box = list[list[int]]


class Segmentation(NamedTuple):
  """What was found in a scan, on the scan's own grid.

  Attributes:
    labels: `[X, Y, Z]` label codes of the task (uint8, or uint16 or int32
      where they need it).
    classes: `[X, Y, Z]` uint8 class indices of the task.
    entropy: `[X, Y, Z]` float32 in [0, 1], 1 being a guess between all
      classes; None unless asked for.
    box: `[[start, stop]] * 3` of the region that was segmented, on the
      reoriented grid (slices, rows, columns).
  """

  labels: np.ndarray
  classes: np.ndarray
  entropy: np.ndarray | None
  box: Box


class Region(NamedTuple):
  """A part of a reoriented scan, and how it becomes [0, 1].

  Attributes:
    image: `[S, h, w]`, scanner units.
    spacing: (slice, row, column), mm.
  """

  image: np.ndarray
  spacing: tuple[float, float, float]

  def inside(self, box: Box) -> 'Region':
    """The part in a box."""
    return self._replace(image=self.image[crop(box)])


def crop(box: Box) -> tuple[slice, ...]:
  """The index that takes a box out of an array."""
  return tuple(slice(*part) for part in box)


def _probabilities(
  run: TrainedRun, modality: str, region: Region, mm: float, mirror: bool
) -> Iterator[np.ndarray]:
  """Slices of class probabilities on the region's grid, `[h, w, C]` each."""
  network = run.networks[modality]
  patch = run.config.augment.patch_size
  geometry, canvas = preprocess.region_geometry(
    region.image.shape, region.spacing, mm, patch
  )
  intensity = run.modality(modality).intensity
  low, high = preprocess.limits(region.image, intensity)
  for first in range(0, len(region.image), SLAB):
    slab = region.image[first : first + SLAB]
    images = preprocess.resample(
      preprocess.between(slab, low, high), geometry, canvas, order=1
    )
    found = sliding_window.of_any_size(
      network.predict,
      images.astype(np.float32),
      network.place,
      patch=patch,
      stride=patch // 2,
      batch=WINDOWS,
      mirrored=mirror,
    )
    for p in found:
      yield preprocess.native_probabilities(p, geometry)


def central_box(
  classes: np.ndarray, spacing: Sequence[float], margin: float
) -> Box:
  """The box of what is found, without the outermost hundredth on each side.

  Args:
    classes: `[S, h, w]`, somewhere not 0.
    spacing: mm.
    margin: mm added on every side.
  """
  box = []
  for axis, mm in enumerate(spacing):
    others = tuple(i for i in range(3) if i != axis)
    share = np.cumsum((classes > 0).sum(others))
    share = share / share[-1]
    extra = int(np.ceil(margin / mm))
    first = int(np.searchsorted(share, _OUTERMOST)) - extra
    last = int(np.searchsorted(share, 1 - _OUTERMOST)) + 1 + extra
    box.append([max(0, first), min(classes.shape[axis], last)])
  return box


def to_codes(classes: np.ndarray, modality: Modality) -> np.ndarray:
  """Class indices to the label codes of a modality's own label maps."""
  codes = modality.written_codes()
  table = np.zeros(256, np.int32)
  table[list(codes)] = list(codes.values())
  kinds = (np.uint8, np.uint16, np.int32)
  low, high = table.min(), table.max()
  kind = next(
    k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max
  )
  return table.astype(kind)[classes]


@dataclasses.dataclass(eq=False, repr=False)
class Segmenter:
  """Segments scans with one run, or with the average of several.

  Attributes:
    runs: at least one; their probabilities are averaged.
    mirror: average over mirror images, too.
    components: the classes whose largest component alone is kept, one of
      `choices.COMPONENTS`. 'run': those that the run's own results have;
      'validation': those that its validation scans chose; 'largest': all;
      'none'. Of several runs, those that all of them say.
    entropy: return the entropy map.
    roi: 'auto': for a run that was trained on cropped scans, a coarse pass
      finds the region that a fine pass segments; 'none': one pass over
      everything.
  """

  runs: Sequence[TrainedRun]
  _: dataclasses.KW_ONLY
  mirror: bool = False
  components: str = 'run'
  entropy: bool = False
  roi: str = 'auto'

  def __post_init__(self):
    """Checks what was asked for.

    Raises:
      ValueError: no runs, runs of other classes, another `roi` or
        `components`, or a run whose validation scans have chosen nothing yet.
    """
    if not self.runs:
      raise ValueError('no run to segment with')
    if self.roi not in choices.ROI:
      raise ValueError(f'roi={self.roi!r}: choose {" or ".join(choices.ROI)}')
    if self.components not in choices.COMPONENTS:
      known = ', '.join(choices.COMPONENTS)
      raise ValueError(f'components={self.components!r}: choose {known}')
    for run in self.runs:
      if self.components == components.VALIDATION and not run.components:
        raise ValueError(
          f'{run.folder}: its validation scans have not chosen whose largest'
          ' component is kept; --config.eval_only=true tests the run again'
          ' and has them choose (of an export: the run, which is then exported'
          ' again)'
        )
    for run in self.runs[1:]:
      if run.task.classes != self.runs[0].task.classes:
        raise ValueError(
          f'{run.folder} has other classes than {self.runs[0].folder}: only'
          ' runs of one task can be averaged'
        )

  def segment(
    self,
    image: Any,
    modality: str,
    *,
    affine: np.ndarray | None = None,
    spacing: Sequence[float] | None = None,
    axes: Sequence[str] | None = None,
  ) -> Segmentation:
    """Segments one scan.

    Args:
      image: a nibabel image; or an array `[X, Y, Z]` of scanner values (HU for
        CT) together with `affine`, or with `spacing` and `axes`.
      modality: name of one of the runs' modalities.
      affine: `[4, 4]` voxel index to RAS mm.
      spacing: voxel sides in mm, in the order of the axes.
      axes: where each axis runs to, a letter of L/R, P/A and I/S for each:
        'SPL' of slices from feet to head, rows from front to back, columns from
        right to left.

    Returns:
      What was found, on the axes of `image`.

    Raises:
      TypeError: `image` is no image.
      ValueError: a run was not trained on the modality, the scan's grid is not
        known, or contradicts itself, or the values cannot be those of a scan.
    """
    plane = self._plane(modality)
    volume, affine = given_scan.grid(image, affine, spacing, axes)
    whole = Region(
      preprocess.reorient(volume, affine, plane),
      preprocess.reoriented_spacing(affine, plane),
    )
    box = self._find_region(whole, modality)
    classes, entropy = self._segment_region(whole, modality, box)
    classes = components.largest(classes, self.kept(modality))
    classes = preprocess.restore(classes, affine, plane)
    if entropy is not None:
      entropy = preprocess.restore(entropy, affine, plane)
    return Segmentation(
      labels=to_codes(classes, self.runs[0].modality(modality)),
      classes=classes,
      entropy=entropy,
      box=box,
    )

  def kept(self, modality: str) -> list[int]:
    """Indices of the classes whose largest component alone is kept."""
    found = set(range(1, len(self.runs[0].task.classes)))
    for run in self.runs:
      if self.components != 'largest':
        found &= self._kept_by(run, modality)
    return sorted(found)

  def _kept_by(self, run: TrainedRun, modality: str) -> set[int]:
    way = self.components
    if way == 'run':
      way = run.config.evaluation.components
    return set(run.kept(modality)) if way == components.VALIDATION else set()

  def names_of_kept(self, modality: str) -> list[str]:
    """Names of these classes."""
    return [self.runs[0].task.classes[index] for index in self.kept(modality)]

  def _plane(self, modality: str) -> str:
    """Along which axis scans of a modality are cut, by all runs alike."""
    found = [run.modality(modality).plane for run in self.runs]
    for run, plane in zip(self.runs, found, strict=True):
      if plane != found[0]:
        raise ValueError(
          f'{run.folder} takes {modality} as {plane} slices,'
          f' {self.runs[0].folder} as {found[0]} ones: they cannot be averaged'
        )
    return found[0]

  def _crops(self, run: TrainedRun) -> bool:
    return self.roi == 'auto' and run.config.data.roi == 'label'

  def _pixel(self, region: Region, run: TrainedRun, modality: str) -> float:
    """Pixel side in mm; of a cropped scan as in its preparation."""
    if not self._crops(run):
      return run.mm_per_pixel[modality]
    sides = zip(region.image.shape[1:], region.spacing[1:], strict=True)
    longest = max(n * mm for n, mm in sides)
    fixed = run.modality(modality).mm_per_pixel
    return fixed or longest / run.config.data.slice_size

  def _find_region(self, whole: Region, modality: str) -> Box:
    """The box that is segmented: all, or what coarse passes find.

    A network that was trained on cropped scans has not seen what lies around
    them, and finds something there too. So the first box is a rough one, and
    each further pass looks at the box before, prepared as in training.
    """
    box = [[0, n] for n in whole.image.shape]
    run = next(filter(self._crops, self.runs), None)
    if run is None:
      return box
    mm = run.mm_per_pixel[modality]
    for _ in range(_COARSE_PASSES):
      slices = _probabilities(run, modality, whole.inside(box), mm, False)
      found = np.zeros(whole.image.shape, np.uint8)
      found[crop(box)] = np.stack([p.argmax(-1) for p in slices])
      found = components.largest(found, range(1, len(run.task.classes)))
      if not found.any():
        return box
      box = central_box(found, whole.spacing, preprocess.ROI_MARGIN)
      mm = self._pixel(whole.inside(box), run, modality)
    return box

  def _segment_region(self, whole: Region, modality: str, box: Box):
    """Classes and entropy of the whole reoriented scan."""
    region, pixels = whole.inside(box), crop(box)[1:]
    streams = []
    for run in self.runs:
      mm = self._pixel(region, run, modality)
      streams.append(_probabilities(run, modality, region, mm, self.mirror))
    count = len(self.runs[0].task.classes)
    classes = np.zeros(whole.image.shape, np.uint8)
    entropy = None
    if self.entropy:
      entropy = np.zeros(whole.image.shape, np.float32)
    for index, parts in enumerate(zip(*streams, strict=True), box[0][0]):
      p = sum(parts) / len(parts)
      classes[index][pixels] = p.argmax(-1)
      if entropy is not None:
        safe = np.maximum(p, 1e-12)
        entropy[index][pixels] = -(p * np.log(safe)).sum(-1) / np.log(count)
    return classes, entropy


def load(
  *runs: str | os.PathLike[str],
  mirror: bool = False,
  components: str = 'run',
  entropy: bool = False,
  roi: str = 'auto',
) -> Segmenter:
  """Loads what runs have learnt, ready to segment scans.

  Args:
    *runs: workdirs (or exports) of one or several runs of one task; the
      probabilities of several are averaged.
    mirror: average over mirror images, too.
    components: 'run', 'none', 'validation' or 'largest', see `Segmenter`.
    entropy: also return the entropy map.
    roi: 'auto' or 'none', see `Segmenter`.

  Raises:
    ValueError: a folder holds no sound run; says what is wrong.
  """
  return Segmenter(
    [trained_run.load(run) for run in runs],
    mirror=mirror,
    components=components,
    entropy=entropy,
    roi=roi,
  )
