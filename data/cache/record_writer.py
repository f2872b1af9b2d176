"""Cases to the records of the prepared data, and to its fingerprint."""

from collections.abc import Callable, Iterator, Sequence
import hashlib
from typing import Any

import numpy as np

from data.cache.prepared import PreparedCase
from data.formats.scan_error import ScanError
from data.preprocessing import planes, preprocess, signs
from data.task import UNKNOWN, Case, Modality, Scan, Task


class RecordWriter:
  """Turns cases into records, and remembers what it saw.

  Attributes:
    meta: what is known of each case that was prepared.
    errors: what was wrong with the others.
    notes: what people should know of the good ones: dicts of file, note.
  """

  def __init__(
    self,
    task: Task,
    modalities: Sequence[Modality],
    cases: Sequence[Case],
    *,
    roi: str,
    slice_size: int,
    advance: Callable[[], None],
  ):
    """Makes the writer; `advance` is called after each case."""
    self._task, self._modalities = task, {m.name: m for m in modalities}
    self._cases, self._advance = cases, advance
    self._roi, self._slice_size = roi, slice_size
    self.meta: list[PreparedCase] = []
    self.errors: list[ScanError] = []
    self.notes: list[dict[str, str]] = []
    self._histograms: dict[str, np.ndarray] = {}

  def records(self, modality: str) -> Iterator[dict[str, Any]]:
    """The records of a modality, one scan in memory at a time."""
    offset = 0
    for case in self._cases:
      if case.modality != modality:
        continue
      try:
        scan = case.read()
        ready = self._ready(case, scan)
      except ScanError as error:
        self.errors.append(error)
        self._advance()
        continue
      self._remember(case, scan, ready, offset)
      offset += len(ready.images)
      for index, image in enumerate(ready.images):
        yield {
          'image': image,
          'label': ready.labels[index],
          'native_label': ready.native_labels[index],
          'case': case.name,
          'patient': case.patient,
          'modality': modality,
          'slice': index,
        }
      self._advance()

  def _ready(self, case: Case, scan: Scan) -> preprocess.PreparedScan:
    try:
      return preprocess.prepare_scan(
        scan,
        self._modalities[case.modality],
        roi=self._roi,
        slice_size=self._slice_size,
      )
    except preprocess.SliceTooSmallError as error:
      raise ScanError(
        case.files[0], str(error), 'mend it in the dataset.json'
      ) from error

  def _remember(self, case, scan, ready, offset):
    classes = len(self._task.classes)
    counts = np.bincount(ready.labels.ravel(), minlength=UNKNOWN + 1)
    nobody = (ready.native_labels == UNKNOWN).all((1, 2))
    histogram = np.bincount(ready.images.ravel() >> 6, minlength=1024)
    before = self._histograms.get(case.modality, 0)
    self._histograms[case.modality] = before + histogram
    self.notes += [
      {'file': case.files[0], 'note': note}
      for note in (*scan.notes, *self._odd_cut(case, scan))
    ]
    self.meta.append(
      PreparedCase(
        name=case.name,
        patient=case.patient,
        modality=case.modality,
        labeled=scan.label is not None,
        num_slices=len(ready.images),
        offset=offset,
        geometry=ready.geometry,
        spacing=ready.spacing,
        mm_per_pixel=ready.geometry['mm_per_pixel'],
        voxels_per_class=[int(n) for n in counts[:classes]],
        content=hashlib.sha256(ready.images.tobytes()).hexdigest(),
        signs=signs.take(
          scan.image, scan.affine, scan.tags, self._modalities[case.modality]
        ),
        drawn=None if scan.drawn is None else list(scan.drawn),
        unknown=int(counts[UNKNOWN]),
        undrawn=np.flatnonzero(nobody).tolist(),
      )
    )

  def _odd_cut(self, case: Case, scan: Scan) -> list[str]:
    """What to say of a scan that is cut otherwise than most of its modality."""
    plane = self._modalities[case.modality].plane
    view = planes.cut(scan.affine, plane)
    if planes.VIEWS[view] == planes.axes(plane):
      return []
    return [f'acquired as {view} slices, unlike most of {case.modality}']

  def fingerprint(self) -> dict[str, Any]:
    """Per modality what the data is, and a hash of all of it."""
    out: dict[str, Any] = {}
    for name in self._modalities:
      mine = [case for case in self.meta if case.modality == name]
      if not mine:
        continue
      share = np.cumsum(self._histograms[name]) / self._histograms[name].sum()
      voxels = np.sum([case.voxels_per_class for case in mine], 0)
      spacing = np.array([case.spacing for case in mine])
      out[name] = {
        'cases': len(mine),
        'labeled': sum(case.labeled for case in mine),
        'slices': sum(case.num_slices for case in mine),
        'median_spacing_mm': np.median(spacing, 0).round(4).tolist(),
        'mm_per_pixel': float(np.median([case.mm_per_pixel for case in mine])),
        'intensity_percentiles': {
          str(q): round(float(np.searchsorted(share, q / 100) / 1023), 4)
          for q in (5, 25, 50, 75, 95)
        },
        'voxels_per_class': dict(
          zip(self._task.classes, map(int, voxels), strict=True)
        ),
      }
    contents = ''.join(case.content for case in self.meta)
    out['hash'] = hashlib.sha256(contents.encode()).hexdigest()
    return out
