"""Prepared cases through a network, to scores."""

import collections
from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from data.cache.prepared import Prepared, PreparedCase
from data.files import names
from data.preprocessing import preprocess
from dbdc_jax.evaluation import components, metrics, pictures, scoring
from dbdc_jax.inference import sliding_window, voting
from dbdc_jax.methods import Method, Problem
from dbdc_jax.runtime import parallel


@dataclasses.dataclass
class Slices:
  """Slices of scans, one scan behind the other.

  Attributes:
    images: `[S, H, W]` uint16 prepared slices.
    labels: `[S, H, W]` uint8, their classes.
    counts: slices of each scan.
    modalities: each scan's modality's id.
  """

  images: np.ndarray
  labels: np.ndarray
  counts: list[int]
  modalities: list[int]
  _placed: list[tuple[Any, Any, Any]] | None = None

  def placed(self, batch: int) -> list[tuple[Any, Any, Any]]:
    """Images, labels and ids on the devices, `batch` slices at a time.

    They stay there, if the devices have memory of their own.
    """
    placed = self._placed
    if placed is None:
      ids = np.repeat(np.array(self.modalities, np.int32), self.counts)
      parts = zip(
        *(
          sliding_window.filled(array, batch)
          for array in (self.images, self.labels, ids)
        ),
        strict=True,
      )
      spread = parallel.spread
      placed = [(spread(x), spread(y), spread(i)) for x, y, i in parts]
      if parallel.room() is not None:
        self._placed = placed
    return placed


class Scans:
  """Segments prepared scans with a method, in its own way.

  Args of the constructor:
    problem: that the method solves.
    method: the method.
    params: its parameters.
    memory: its memory.
    prepared: the prepared data.
    labeled: labelled training cases per modality, in bank order; only a method
      that votes (`Traits.vote`) looks at them.
  """

  def __init__(
    self,
    problem: Problem,
    method: Method,
    params: Any,
    memory: Any,
    prepared: Prepared,
    labeled: Sequence[Sequence[PreparedCase]],
  ):
    config = problem.config
    self.problem, self.prepared = problem, prepared
    self._patch = config.augment.patch_size
    self._batch = parallel.per_call(config.evaluation.batch_size)
    self._network = sliding_window.Network(method.predict, params, memory)
    self._voters = None
    if method.traits.vote:
      self._voters = voting.Voters(
        method, params, memory, prepared, labeled, problem.labelable
      )

  def probabilities(self, images: np.ndarray, modality: int) -> np.ndarray:
    """`[S, H, W]` uint16 slices to `[S, H, W, C]` float32."""
    if self._voters:
      return self._voters.probabilities(images, modality)
    return self._segment(images, modality, hard=False)

  def labels(self, images: np.ndarray, modality: int) -> np.ndarray:
    """`[S, H, W]` uint16 slices to their classes, `[S, H, W]` uint8."""
    if self._voters:
      p = self._voters.probabilities(images, modality)
      return p.argmax(-1).astype(np.uint8)
    return self._segment(images, modality, hard=True)

  def _segment(
    self, images: np.ndarray, modality: int, hard: bool
  ) -> np.ndarray:
    return sliding_window.of_one_size(
      self._network,
      images,
      modality,
      patch=self._patch,
      stride=self._patch // 2,
      batch=self._batch,
      hard=hard,
    )

  def joint_histograms(self, slices: Slices) -> list[np.ndarray]:
    """Of each scan, see `metrics.joint_histogram`: `[C, C]` counts.

    Windows lie side by side here (the last one ends at the edge), as this is
    done after every epoch: 4 instead of 9 cover a slice of twice their side.
    """
    ends = np.cumsum(slices.counts)[:-1]
    if self._voters:
      scans = zip(
        slices.modalities,
        np.split(slices.images, ends),
        np.split(slices.labels, ends),
        strict=True,
      )
      count = len(self.problem.classes)
      return [
        metrics.joint_histogram(
          *metrics.where_drawn(self.labels(images, k), labels), count
        )
        for k, images, labels in scans
      ]
    patch, placed = self._patch, slices.placed(self._batch)
    # Nothing is read before the device has it all.
    found = [
      sliding_window.joint_histograms(
        self._network, *part, patch=patch, stride=patch
      )
      for part in placed
    ]
    joints = np.concatenate(jax.device_get(found))[: len(slices.images)]
    return [part.sum(0) for part in np.split(joints, ends)]


class _Segmented(NamedTuple):
  """A case's classes and its reference's, inside the region of interest.

  Where nobody drew both are background.

  Attributes:
    native: of the scan's own grid, `[S, h, w]` uint8 both.
    prepared: of the prepared grid, `[S, H, W]` uint8 both.
  """

  native: tuple[np.ndarray, np.ndarray]
  prepared: tuple[np.ndarray, np.ndarray]

  def keeping(self, kept: Collection[int]) -> '_Segmented':
    """With the largest component alone of some classes."""
    return _Segmented(
      *((components.largest(found, kept), label) for found, label in self)
    )


def _segmented(scans: Scans, case: PreparedCase, modality: int) -> _Segmented:
  prepared = scans.prepared
  p = scans.probabilities(prepared.images(case), modality)
  native = preprocess.to_native(p, case.geometry)
  return _Segmented(
    metrics.where_drawn(native, prepared.native_labels(case)),
    metrics.where_drawn(p.argmax(-1).astype(np.uint8), prepared.labels(case)),
  )


def _labelled(scans: Scans, case: PreparedCase, modality: int) -> list[int]:
  """The classes of a case that have a reference."""
  mask = scans.problem.labelable[modality]
  return np.flatnonzero(mask & case.drawn_for(mask)).tolist()


def _scores(
  scans: Scans, case: PreparedCase, modality: int, found: _Segmented
) -> dict[str, scoring.Scores]:
  classes = scans.problem.classes
  labelled = _labelled(scans, case, modality)
  score = lambda *measured: scoring.only(
    {classes[index] for index in labelled}, scoring.score(*measured)
  )
  voxel = (1.0, 1.0, 1.0)
  return {
    'native': score(*found.native, case.spacing, classes, scoring.NATIVE),
    'prepared': score(*found.prepared, voxel, classes, scoring.PREPARED),
  }


def choose_components(
  scans: Scans, cases: Sequence[Sequence[PreparedCase]]
) -> dict[str, components.Choice]:
  """Has validation cases choose whose largest component alone is kept.

  They are segmented as test cases are: on their own grid, with overlap.

  Args:
    scans: segments them.
    cases: per modality, in bank order.

  Returns:
    Modality -> its choice.
  """
  out, problem = {}, scans.problem
  for modality, (name, group) in enumerate(
    zip(problem.names, cases, strict=True)
  ):
    labelled = np.flatnonzero(problem.labelable[modality])
    chooser = components.Chooser(problem.classes, labelled.tolist())
    for case in group:
      native = _segmented(scans, case, modality).native
      chooser.add(*native, _labelled(scans, case, modality))
    out[name] = chooser.choice()
  return out


def test_cases(
  scans: Scans,
  cases: Sequence[Sequence[PreparedCase]],
  chosen: Mapping[str, components.Choice],
  on_case: Callable[[PreparedCase, np.ndarray, np.ndarray], None],
) -> list[dict[str, Any]]:
  """Scores each modality's test cases, as they are and by the choice.

  Args:
    scans: segments them.
    cases: per modality, in bank order.
    chosen: of `choose_components`.
    on_case: called with the case, its native prediction and reference.

  Returns:
    One dict per case: `native` scores on the scan's own grid inside the region
    of interest, `prepared` ones on the prepared grid, both of the way that
    `evaluation.components` names; `beside`: the same of the other one.
  """
  out, problem = [], scans.problem
  plain = problem.config.evaluation.components == components.NONE
  for modality, group in enumerate(cases):
    choice = chosen.get(problem.names[modality], {})
    kept = components.kept(choice, problem.classes)
    for case in group:
      found = _segmented(scans, case, modality)
      # The results' way first; without a choice both are one.
      ways = [found, found.keeping(kept)] if kept else [found]
      ways = ways if plain else ways[::-1]
      scores = [_scores(scans, case, modality, way) for way in ways]
      on_case(case, *ways[0].native)
      out.append(
        {
          'case': case.name,
          'patient': case.patient,
          'modality': case.modality,
          **scores[0],
          'beside': scores[-1],
        }
      )
  return out


def overlay_writer(
  folder: pathlib.Path, scans: Scans
) -> Callable[[PreparedCase, np.ndarray, np.ndarray], None]:
  """An `on_case` that writes overlays of each modality's first test cases.

  Args:
    folder: where the PNG files go.
    scans: that segment the cases.
  """
  written: collections.Counter[str] = collections.Counter()
  problem, prepared = scans.problem, scans.prepared

  def write(case, prediction, reference):
    if written[case.modality] >= problem.config.evaluation.overlays:
      return
    written[case.modality] += 1
    index = pictures.choose_slices(reference, 1)[0]
    image = preprocess.image_to_native(
      prepared.image(case, index), case.geometry
    )
    png = pictures.overlay_png(
      image,
      reference[index],
      prediction[index],
      problem.classes,
      title=f'{case.name}, slice {index}',
      spacing=case.spacing[1:],
    )
    name = names.on_disk(case.name, f'_slice{index:03d}.png')
    pictures.save(png, folder / name)

  return write
