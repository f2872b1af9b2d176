"""Tasks: what is segmented, in which modalities, read from which archives.

A task is pure data. A new modality of a task is one more `Modality` here; the
readers, the preparation, the banks and the tables all follow from it.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import types
from typing import Any, NamedTuple

import numpy as np

# What prepared slices, which are uint16, hold for 1.
ONE = 65535
# What labels hold where nobody drew anything; above every class's index.
UNKNOWN = 255


def to_float(stored: Any) -> Any:
  """Prepared slices as float32 in [0, 1]; arrays of numpy, or of jax."""
  return stored.astype(np.float32) / ONE


class Intensity(NamedTuple):
  """How scanner values of a modality become [0, 1].

  Either a fixed `window` (low, high) in scanner units (HU for CT), or, without
  one, each volume's own minimum to its `upper_percentile`.
  """

  window: tuple[float, float] | None = None
  upper_percentile: float = 99.5


class Modality(NamedTuple):
  """One modality of a task.

  Attributes:
    name: the id used in configs, e.g. 'ct'.
    title: the name shown to people, e.g. 'T1 in-phase'.
    source: the reader that finds its scans: 'mmwhs', 'btcv', 'chaos' or
      'folder'.
    series: which of the archive's series it is (the reader's own word).
    codes: label code on disk -> class index of the task, `UNKNOWN` for voxels
      that nobody looked at. Every code that may occur on disk is listed; any
      other is an error of the scan.
    intensity: how its scanner values become [0, 1].
    mm_per_pixel: of its prepared slices; None: each scan's longer side fills
      the slice.
    plane: along which axis its scans are cut, one of `planes.PLANES`.
    dicom_series: which series of a DICOM folder that holds several it is: the
      description, number or SeriesInstanceUID.
    drawn: case -> foreground classes that its label map was drawn for; a case
      that is not there: all.
    sparse: whether slices without a label were not drawn; or case -> slices
      that were.
  """

  name: str
  title: str
  source: str
  series: str
  codes: dict[int, int]
  intensity: Intensity
  mm_per_pixel: float | None = None
  plane: str = 'axial'
  dicom_series: str = ''
  drawn: dict[str, tuple[int, ...]] = {}  # noqa: RUF012  Of a tuple, unchanged.
  sparse: bool | dict[str, tuple[int, ...]] = False

  def written_codes(self) -> dict[int, int]:
    """Class index -> the code that stands for it in predictions."""
    out: dict[int, int] = {0: 0}
    for code, index in self.codes.items():
      if index != UNKNOWN:
        out.setdefault(index, code)
    return out


class Task(NamedTuple):
  """Classes and modalities that are trained together.

  Attributes:
    name: 'heart', 'abdomen', or that of a folder's own task.
    classes: class names; index 0 is the background.
    modalities: in bank order.
    slice_size: side of the square prepared slices, in pixels.
    roi: 'label' (crop to the label's bounding box) or 'none'.
  """

  name: str
  classes: tuple[str, ...]
  modalities: tuple[Modality, ...]
  slice_size: int
  roi: str

  def select(self, names: str) -> tuple[Modality, ...]:
    """Returns the modalities of a comma-separated string, in its order.

    Args:
      names: e.g. 'ct,t2'; an empty string means all of them.

    Raises:
      ValueError: for an unknown or a repeated name.
    """
    known = {m.name: m for m in self.modalities}
    chosen = [n.strip() for n in names.split(',')] if names else list(known)
    for name in chosen:
      if name not in known:
        raise ValueError(
          f'unknown modality {name!r} in modalities={names!r}: task'
          f' {self.name!r} has {", ".join(known)}'
        )
      if chosen.count(name) > 1:
        raise ValueError(f'modality {name!r} is repeated in {names!r}')
    return tuple(known[name] for name in chosen)

  def with_planes(self, planes: Mapping[str, str]) -> 'Task':
    """The task with planes that were decided: modality -> plane."""
    return self._replace(
      modalities=tuple(
        m._replace(plane=planes.get(m.name, m.plane)) for m in self.modalities
      )
    )

  def labelable(self, modalities: Sequence[Modality]) -> np.ndarray:
    """Classes that each modality's labels can contain: `[K, C]` bool.

    Partial labels: what is outside may be in the images, drawn or not.
    """
    out = np.zeros((len(modalities), len(self.classes)), bool)
    for row, modality in zip(out, modalities, strict=True):
      row[[i for i in modality.codes.values() if i != UNKNOWN]] = True
    return out


class Scan(NamedTuple):
  """One scan as read from disk, in its own orientation.

  Attributes:
    image: `[X, Y, Z]` float32, scanner units.
    label: `[X, Y, Z]` uint8 class indices of the task, `UNKNOWN` where nobody
      looked; or None.
    affine: `[4, 4]` float64, voxel index to RAS millimetres.
    notes: what people should know of it, see `nifti.Volume`.
    tags: what it says of itself, see `nifti.Volume`.
    drawn: foreground classes that the label was drawn for; None: all that its
      modality's labels can contain.
  """

  image: np.ndarray
  label: np.ndarray | None
  affine: np.ndarray
  notes: tuple[str, ...] = ()
  tags: Mapping[str, str | float] = types.MappingProxyType({})
  drawn: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Case:
  """One scan that an archive holds; nothing is read until `read()`.

  Attributes:
    name: unique within a task, as `names.case_name` writes it.
    patient: equal for all scans of one person, unique across archives.
    modality: name of the modality.
    files: every file that the scan and its label are read from, sorted.
    labeled: whether the archive holds a label for it.
    read: reads and checks the scan.
    affine: reads where its voxels lie, from the headers alone; only for scans
      of modalities that are cut as they were acquired.

  `read` raises `scan_error.ScanError` (file, reason, remedy) for a bad scan.
  """

  name: str
  patient: str
  modality: str
  files: tuple[str, ...]
  labeled: bool
  read: Callable[[], Scan]
  affine: Callable[[], np.ndarray] | None = None


_MMWHS_CODES = {0: 0, 500: 1, 600: 2, 420: 3, 550: 4, 205: 5, 820: 6, 850: 7}

_HEART_CLASSES = (
  'background', 'left ventricle', 'right ventricle', 'left atrium',
  'right atrium', 'myocardium', 'ascending aorta', 'pulmonary artery',
)  # fmt: skip

HEART = Task(
  name='heart',
  classes=_HEART_CLASSES,
  modalities=(
    # Clipping the top 2 % of each volume is the archive's usual treatment.
    Modality('ct', 'CT', 'mmwhs', 'ct', _MMWHS_CODES, Intensity(None, 98.0)),
    Modality('mr', 'MR', 'mmwhs', 'mr', _MMWHS_CODES, Intensity(None, 98.0)),
  ),
  slice_size=192,
  roi='label',
)

# BTCV labels 13 organs; the four that CHAOS shares are kept.
_BTCV_CODES = {code: 0 for code in range(14)} | {6: 1, 2: 2, 3: 3, 1: 4}
# The CHAOS reader turns each grey range into its middle value.
_CHAOS_CODES = {0: 0, 63: 1, 126: 2, 189: 3, 252: 4}
_MR = Intensity(None, 99.5)

ABDOMEN = Task(
  name='abdomen',
  classes=('background', 'liver', 'right kidney', 'left kidney', 'spleen'),
  modalities=(
    Modality('ct', 'CT', 'btcv', '', _BTCV_CODES, Intensity((-125.0, 275.0))),
    Modality('t2', 'T2', 'chaos', 'T2SPIR', _CHAOS_CODES, _MR),
    Modality(
      't1in', 'T1 in-phase', 'chaos', 'T1DUAL/InPhase', _CHAOS_CODES, _MR
    ),
    Modality(
      't1out', 'T1 out-phase', 'chaos', 'T1DUAL/OutPhase', _CHAOS_CODES, _MR
    ),
  ),
  slice_size=256,
  roi='none',
)

TASKS: dict[str, Task] = {task.name: task for task in (HEART, ABDOMEN)}


def names(modalities: Sequence[Modality]) -> tuple[str, ...]:
  """Returns the modalities' names, in bank order."""
  return tuple(m.name for m in modalities)
