"""How often `--modality auto` is right, by cross-validation over patients.

A run keeps what its training and validation scans look like; no network takes
part. So a run on any of a task's modalities is measured without training one:
four fifths of the patients are known, the scans of the others, and those of the
task's other modalities (foreign ones), are to be told. Each scan is so told
once by each such run.
"""

from collections.abc import Callable, Iterator, Sequence
import itertools
import pathlib
from typing import Any, NamedTuple

import numpy as np
from rich.progress import track
from scipy import ndimage, stats

from data.preprocessing import signs
from data.readers import find_cases
from data.task import Modality, Scan, Task
from dbdc_jax.inference import recognition
from dbdc_jax.training.scans import phantom_folders

_FOLDS = 5
_SIZE, _SUBJECTS = 'quick', 20


class Told(NamedTuple):
  """What became of one scan, told by one run.

  Attributes:
    run: the run's modalities.
    modality: the scan's own.
    fit: what it was taken for.
  """

  run: tuple[str, ...]
  modality: str
  fit: recognition.Fit

  @property
  def foreign(self) -> bool:
    """Whether the scan's modality is none of the run's."""
    return self.modality not in self.run


class _Sample(NamedTuple):
  """A scan: whose, and its signs treated as each of the task's modalities."""

  modality: str
  patient: str
  signs: dict[str, dict[str, Any]]


def _half(scan: Scan) -> Scan:
  axis = int(np.argmax(scan.image.shape))
  half = range(scan.image.shape[axis] // 2)
  return scan._replace(image=scan.image.take(half, axis))


def _narrow(scan: Scan) -> Scan:
  inner = tuple(slice(round(0.1 * n), round(0.9 * n)) for n in scan.image.shape)
  return scan._replace(image=scan.image[inner])


def _padded(scan: Scan) -> Scan:
  rim = [(n // 8, n // 8) for n in scan.image.shape]
  rim[int(np.argmin(scan.image.shape))] = (0, 0)
  image = np.pad(scan.image, rim, constant_values=scan.image.min())
  return scan._replace(image=image)


def _coarse(scan: Scan) -> Scan:
  """Voxels 1.6 times as large, in the plane of the finer ones."""
  sides = np.linalg.norm(scan.affine[:3, :3], axis=0)
  factors = np.where(sides < 1.5 * sides.min(), 1 / 1.6, 1)
  image = ndimage.zoom(scan.image.astype(np.float32), factors, order=1)
  scale = np.array(scan.image.shape) / image.shape
  affine = scan.affine @ np.diag([*scale, 1])
  return scan._replace(image=image, affine=affine)


def _eight_bits(scan: Scan) -> Scan:
  low, high = np.percentile(scan.image, (0, 99.9))
  units = np.clip((scan.image - low) / (high - low), 0, 1)
  return scan._replace(image=np.round(255 * units))


# What may be done to a scan that leaves it of its modality. Grey values without
# a unit do so only where no window is needed.
CHANGES: dict[str, Callable[[Scan], Scan]] = {
  'half of it': _half,
  'a fifth narrower': _narrow,
  'padded': _padded,
  'coarser': _coarse,
  'in 8 bits': _eight_bits,
}


def _samples(
  modalities: Sequence[Modality],
  roots: dict[str, str],
  title: str,
  *changes: Callable[[Scan], Scan],
) -> list[_Sample]:
  samples = []
  for case in track(find_cases.look(modalities, roots).cases, title):
    scan = case.read()
    for change in changes:
      scan = change(scan)
    found = signs.of_each(scan.image, scan.affine, scan.tags, modalities)
    samples.append(_Sample(case.modality, case.patient, found))
  return samples


def _known(modality, samples, most):
  """What a run would know of the modality by these samples."""
  mine = [s for s in samples if s.modality == modality.name]
  patients = sorted({s.patient for s in mine})[:most]
  found = [
    {**s.signs[modality.name], 'patient': patients.index(s.patient)}
    for s in mine
    if s.patient in patients
  ]
  return recognition.know(modality, found)


def cross_validate(
  modalities: Sequence[Modality],
  known: Sequence[_Sample],
  asked: Sequence[_Sample],
  most: int | None,
) -> Iterator[Told]:
  """Tells scans by every run that the modalities allow.

  Args:
    modalities: all of the task's.
    known: what runs learn from.
    asked: what they are asked, the same scans or what was made of them.
    most: patients that a run knows of a modality, at most.
  """
  patients = sorted({s.patient for s in known})
  order = np.random.default_rng(0).permutation(len(patients))
  fold = {p: int(k) % _FOLDS for p, k in zip(patients, order, strict=True)}
  for now in range(_FOLDS):
    rest = [s for s in known if fold[s.patient] != now]
    sums = {m.name: _known(m, rest, most) for m in modalities}
    mine = [s for s in asked if fold[s.patient] == now]
    for count in range(1, len(modalities) + 1):
      for run in itertools.combinations(sums, count):
        own = {name: sums[name] for name in run}
        for s in mine:
          found = {name: s.signs[name] for name in run}
          yield Told(run, s.modality, recognition.decide(own, found))


def measure(
  task: Task,
  names: str,
  roots: dict[str, str],
  *,
  most: int | None = None,
  tags: bool = True,
  changed: bool = False,
) -> dict[str, list[Told]]:
  """Tells all scans of a task's archives, and of what is done to them.

  Args:
    task: heart or abdomen.
    names: its modalities that the archives hold, comma-separated.
    roots: archive -> folder.
    most: see `cross_validate`.
    tags: whether the DICOM tags are looked at.
    changed: also scans that something was done to (`CHANGES`).

  Returns:
    'as they are', and each change -> what became of each scan.
  """
  modalities = task.select(names)
  bare = [] if tags else [lambda scan: scan._replace(tags={})]
  known = _samples(modalities, roots, 'scans as they are', *bare)
  run = lambda asked: list(cross_validate(modalities, known, asked, most))
  out = {'as they are': run(known)}
  for title, change in CHANGES.items() if changed else ():
    asked = _samples(modalities, roots, title, *bare, change)
    out[title] = run(asked)
  return out


def roots(
  task: Task, names: str, scans: str | None, cache: str
) -> dict[str, str]:
  """Archive -> folder; without scans, of a phantom in the cache."""
  if scans:
    sources = {m.source for m in task.select(names)}
    return {source: str(pathlib.Path(scans) / source) for source in sources}
  return phantom_folders(
    task.name, size=_SIZE, subjects=_SUBJECTS, seed=0, cache=cache
  )


def _share(count: int, of: int) -> str:
  """A share in percent with its exact interval of 95 %."""
  if not of:
    return '-'
  low, high = stats.binomtest(count, of).proportion_ci()
  return f'{100 * count / of:.1f} % ({100 * low:.1f}-{100 * high:.1f})'


def _line(title: str, told: Sequence[Told]) -> str:
  own = [t for t in told if not t.foreign]
  right = sum(t.fit.modality == t.modality for t in own)
  declined = sum(t.fit.modality is None for t in own)
  foreign = [t for t in told if t.foreign]
  taken = sum(t.fit.modality is not None for t in foreign)
  accepted = [t for t in told if t.fit.modality is not None]
  sure = float(np.mean([t.fit.confidence for t in accepted] or [np.nan]))
  truth = right / len(accepted) if accepted else float('nan')
  return (
    f'{title:26s}{len(own):5d}{right:6d}{len(own) - right - declined:6d}'
    f'  {_share(declined, len(own)):22s}{len(foreign):7d}'
    f'  {_share(len(foreign) - taken, len(foreign)):22s}'
    f'{sure:8.3f}{truth:8.3f}'
  )


def table(found: dict[str, list[Told]]) -> str:
  """A line for each run, and for each change over all runs."""
  lines = [
    f'{"run":26s}{"own":>5s}{"right":>6s}{"wrong":>6s}  {"declined":22s}'
    f'{"foreign":>7s}  {"declined":22s}{"sure":>8s}{"true":>8s}'
  ]
  plain = found['as they are']
  for run in dict.fromkeys(t.run for t in plain):
    lines.append(_line(', '.join(run), [t for t in plain if t.run == run]))
  lines += [_line(f'all, {title}', told) for title, told in found.items()]
  lines += [
    "own: scans of the run's modalities, of patients that it does not know;",
    'foreign: of the others. In brackets: exact intervals of 95 %. sure and',
    'true: mean confidence, and share that is right, of the accepted scans.',
  ]
  return '\n'.join(lines)


def rows(found: dict[str, list[Told]]) -> list[dict[str, Any]]:
  """Every single answer, for a file."""
  return [
    {
      'scans': title,
      'run': list(told.run),
      'modality': told.modality,
      'taken_for': told.fit.modality,
      'confidence': told.fit.confidence,
      'chances': told.fit.chances,
      'doubts': told.fit.doubts,
    }
    for title, answers in found.items()
    for told in answers
  ]
