"""Prepared scans, read back from the cache."""

from collections.abc import Mapping, Sequence
import copy
import dataclasses
import json
import pathlib
import threading
from typing import Any

import numpy as np

from data.cache import builder
from data.files import names
from data.task import UNKNOWN

# Everything about the scans but their voxels; written last.
META = 'prepared.json'
# Notes that a summary shows.
_NOTES = 20


@dataclasses.dataclass(frozen=True)
class PreparedCase:
  """What is known of a prepared scan; its slices are in `Prepared`.

  Attributes:
    name: unique within the task.
    patient: equal for all scans of a person.
    modality: name of the modality.
    labeled: whether it has a label.
    num_slices: S.
    offset: its first record in the modality's records.
    geometry: see `preprocess`.
    spacing: (slice, row, column) of the native grid, mm.
    mm_per_pixel: of the prepared slices.
    voxels_per_class: on the prepared grid; for reports only.
    content: hash of the prepared voxels, not of the label.
    signs: what the whole scan shows of its modality, see `signs.take`.
    drawn: see `task.Scan`.
    unknown: voxels of the prepared grid where nobody drew.
    undrawn: slices that hold no others.
  """

  name: str
  patient: str
  modality: str
  labeled: bool
  num_slices: int
  offset: int
  geometry: dict[str, Any]
  spacing: tuple[float, float, float]
  mm_per_pixel: float
  voxels_per_class: list[int]
  content: str
  signs: dict[str, Any] = dataclasses.field(default_factory=dict)
  drawn: list[int] | None = None
  unknown: int = 0
  undrawn: list[int] = dataclasses.field(default_factory=list)

  @property
  def partly_drawn(self) -> bool:
    """Whether its label map leaves anything open."""
    return self.drawn is not None or self.unknown > 0

  def drawn_for(self, labelable: np.ndarray) -> np.ndarray:
    """`[C]` bool: classes that its label map was drawn for.

    The background's entry says whether all were.

    Args:
      labelable: `[C]` bool, classes that its modality's labels can contain.
    """
    if self.drawn is None:
      return np.ones(len(labelable), bool)
    out = np.zeros(len(labelable), bool)
    out[self.drawn] = True
    out[0] = not (labelable & ~out)[1:].any()
    return out

  @property
  def drawn_slices(self) -> list[int]:
    """Slices on which somebody drew."""
    return sorted({*range(self.num_slices)} - {*self.undrawn})

  def open_slices(self, labelable: np.ndarray) -> Sequence[int]:
    """Slices whose label map does not say of every class where it is.

    Voxels that nobody looked at, on slices that were drawn, do not count.

    Args:
      labelable: see `drawn_for`.
    """
    complete = self.drawn_for(labelable)[0]
    return self.undrawn if complete else range(self.num_slices)

  def left_open(self, labels: np.ndarray, slices: Sequence[int]) -> np.ndarray:
    """Labels without what was not drawn.

    Args:
      labels: `[n, size, size]` classes.
      slices: which n slices they are of.
    """
    if self.drawn is not None:
      kept = np.zeros(UNKNOWN + 1, np.uint8)
      kept[[*self.drawn, UNKNOWN]] = [*self.drawn, UNKNOWN]
      labels = kept[labels]
    nobody = np.isin(slices, self.undrawn)
    if nobody.any():
      labels = np.where(nobody[:, None, None], np.uint8(UNKNOWN), labels)
    return labels


class Prepared:
  """Prepared scans of some modalities.

  Attributes:
    folder: where they are.
    cases: by modality, then name.
    fingerprint: what the data is, for the run's record.
    planes: modality -> along which axis its scans were cut (`planes.PLANES`).
    notes: what people should know of scans that are used: dicts of file, note.
    skipped: bad scans left out: dicts of file, reason, remedy.
  """

  def __init__(self, folder: pathlib.Path):
    """Opens prepared scans.

    Raises:
      ValueError: they are damaged.
    """
    self.folder = folder
    try:
      meta = json.loads((folder / META).read_text())
    except ValueError as error:
      raise ValueError(
        f'{folder / META} is damaged ({error}): remove {folder}, and the scans'
        ' are prepared again'
      ) from error
    self.cases = tuple(
      PreparedCase(**{**c, 'spacing': tuple(c['spacing'])})
      for c in meta['cases']
    )
    self.fingerprint: dict[str, Any] = meta['fingerprint']
    self.planes: dict[str, str] = meta['planes']
    self.notes: list[dict[str, str]] = meta['notes']
    self.skipped: list[dict[str, str]] = meta['skipped']
    self._records: dict[str, builder.Records] = {}
    self._opening = threading.Lock()

  def _array(self, case: PreparedCase, index: int, name: str) -> np.ndarray:
    # Opening redirects the process's output for a moment: one at a time.
    with self._opening:
      if case.modality not in self._records:
        self._records[case.modality] = builder.Records(
          str(self.folder), case.modality
        )
    return self._records[case.modality].array(case.offset + index, name)

  def with_cases(self, changed: Mapping[str, PreparedCase]) -> 'Prepared':
    """The same scans, of some of which less was drawn.

    Args:
      changed: by name; `label` and `labels` hold no more than they say.
    """
    out = copy.copy(self)
    out.cases = tuple(changed.get(case.name, case) for case in self.cases)
    return out

  def _all(self, case: PreparedCase, name: str) -> np.ndarray:
    return np.stack(
      [self._array(case, i, name) for i in range(case.num_slices)]
    )

  def image(self, case: PreparedCase, index: int) -> np.ndarray:
    """One slice, `[size, size]` uint16."""
    return self._array(case, index, 'image')

  def label(self, case: PreparedCase, index: int) -> np.ndarray:
    """One slice's label, `[size, size]` uint8."""
    return case.left_open(self._array(case, index, 'label')[None], [index])[0]

  def images(self, case: PreparedCase) -> np.ndarray:
    """All slices, `[S, size, size]` uint16."""
    return self._all(case, 'image')

  def labels(self, case: PreparedCase) -> np.ndarray:
    """All slices' labels, `[S, size, size]` uint8."""
    return case.left_open(self._all(case, 'label'), range(case.num_slices))

  def native_labels(self, case: PreparedCase) -> np.ndarray:
    """Labels on the native grid inside the region of interest, `[S, h, w]`."""
    return self._all(case, 'native_label')


def summary(prepared: Prepared) -> str:
  """The fingerprint as lines for people."""
  lines = [f'prepared data in {prepared.folder}']
  for name, facts in prepared.fingerprint.items():
    if name == 'hash':
      lines.append(f'  data hash {facts[:16]}')
      continue
    spacing = ' x '.join(f'{mm:.2f}' for mm in facts['median_spacing_mm'])
    spread = ', '.join(
      f'{q} %: {v:.2f}' for q, v in facts['intensity_percentiles'].items()
    )
    counts = facts['voxels_per_class'].items()
    voxels = ', '.join(f'{name} {count:,}' for name, count in counts)
    lines += [
      f'  {name}: {facts["cases"]} scans, {facts["labeled"]} with labels,'
      f' {facts["slices"]} slices, median spacing {spacing} mm, prepared at'
      f' {facts["mm_per_pixel"]:.2f} mm per pixel, {prepared.planes[name]}',
      f'    intensities {spread}',
      f'    voxels {voxels}',
    ]
  told = [f'  note {n["file"]}: {n["note"]}' for n in prepared.notes]
  if len(told) > _NOTES:
    told[_NOTES:] = [f'  ... and {len(told) - _NOTES} more notes']
  told += [f'  skipped {b["file"]}: {b["reason"]}' for b in prepared.skipped]
  return '\n'.join([*lines, *map(names.printable, told)])
