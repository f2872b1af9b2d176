"""A phantom: made-up scans of heart and abdomen in the official layouts.

It needs no download, is different in every subject and equal on every machine
run, and lets the whole project be tried and tested. It says nothing about
patients. What can be turned is in `anatomy.Difficulty`.
"""

import json
import os
import pathlib

import nibabel as nib
import numpy as np

from data.files import atomic, destination, progress
from data.phantoms import anatomy, archive, scanner, shapes
from data.phantoms.anatomy import DIFFICULTY, Difficulty
from data.preprocessing import planes

# Raised whenever the same settings would give other scans.
VERSION = 2
_DONE = 'phantom.json'
LAYOUTS = {'heart': 'mmwhs', 'abdomen': 'btcv+chaos'}
# Extent (right-left, back-front, feet-head) of a scan, mm.
_EXTENT = {'heart': (178, 178, 156), 'abdomen': (330, 272, 176)}
_CENTER = {'heart': (0, -2, 8), 'abdomen': (0, -8, 12)}
_CT_ORIENTATIONS = ('LPS', 'RAS', 'LAS')


# Voxels (right-left, back-front, feet-head) of each task's scans.
SIZES = {
  'quick': {'heart': (80, 80, 32), 'abdomen': (96, 80, 24)},
  'tiny': {'heart': (40, 40, 12), 'abdomen': (44, 36, 12)},
}


def _grid(task, size, orientation, rng, tilt=0.0):
  """A subject's own grid: field of view and place vary a little.

  Args:
    task: whose scan it is.
    size: a name of `SIZES`.
    orientation: e.g. 'LPS': the direction of each array axis.
    rng: the subject's.
    tilt: of the whole grid, degrees at most.

  Returns:
    Affine `[4, 4]`, and shape and spacing in the order of the array's axes.
  """
  shape = np.array(SIZES[size][task])
  # Scanners differ in field of view, not only in its centre.
  shape = shape + np.round(shape * rng.uniform(-0.06, 0.06, 3)).astype(int)
  extent = np.array(_EXTENT[task]) * rng.uniform(0.97, 1.06)
  spacing = extent / SIZES[size][task]
  spacing[:2] = spacing[:2].mean()  # Square pixels in the axial plane.
  center = np.array(_CENTER[task]) + rng.normal(size=3) * (4, 4, 3)
  turn = shapes.rotation(rng.normal(size=3), tilt * rng.uniform(-1, 1))
  order = nib.orientations.axcodes2ornt(tuple(orientation))[:, 0].astype(int)
  shape, spacing = shape[order], spacing[order]
  affine = planes.affine_of(orientation, spacing)
  affine[:3, :3] = turn @ affine[:3, :3]
  affine[:3, 3] = center - affine[:3, :3] @ ((shape - 1) / 2)
  return affine, tuple(shape.tolist()), tuple(spacing.tolist())


def heart_subject(
  kind: str, index: int, *, seed: int, size: str, difficulty: Difficulty
):
  """One heart scan.

  Args:
    kind: 'ct' or 'mr'; the same index is another person in the other one.
    index: of the subject.
    seed: of the phantom.
    size: a name of `SIZES`.
    difficulty: how hard it is.

  Returns:
    Image `[X, Y, Z]`, MM-WHS codes of the same shape and affine `[4, 4]`.
  """
  rng = np.random.default_rng([seed, index, 0 if kind == 'ct' else 1])
  orientation, tilt = _CT_ORIENTATIONS[index % 3], 0.0
  if kind == 'mr':
    sagittal = 1001 + index in archive.MMWHS_SAGITTAL
    orientation, tilt = 'PSR' if sagittal else 'RIP', 8.0
  affine, shape, spacing = _grid('heart', size, orientation, rng, tilt)
  points = shapes.grid(affine, shape)
  parts = anatomy.heart(points, rng, difficulty)
  if kind == 'ct':
    image = scanner.ct(parts, 'heart_ct', spacing, rng, difficulty)
  else:
    (image,) = scanner.mr(parts, 'heart_mr', points, spacing, rng, difficulty)
  return image, scanner.paint_label(parts), affine


def _write_heart(root, index, subjects, settings) -> None:
  for kind in ('ct', 'mr'):
    image, label, affine = heart_subject(kind, index, **settings)
    archive.write_mmwhs(root, kind, index, subjects, image, label, affine)


def abdomen_ct(index: int, *, seed: int, size: str, difficulty: Difficulty):
  """One abdominal CT: image, BTCV codes, affine (see `heart_subject`)."""
  rng = np.random.default_rng([seed, index, 2])
  orientation = _CT_ORIENTATIONS[index % 3]
  affine, shape, spacing = _grid('abdomen', size, orientation, rng)
  parts = anatomy.abdomen(shapes.grid(affine, shape), rng, difficulty)
  image = scanner.ct(parts, 'ct', spacing, rng, difficulty)
  return image, scanner.paint_label(parts), affine


def abdomen_mr(
  index: int, sequence: str, *, seed: int, size: str, difficulty: Difficulty
):
  """One abdominal MR acquisition of a patient.

  Args:
    index: of the patient.
    sequence: 't2', or 't1' for in- and out-phase at once. Both show the same
      anatomy; the patient has moved a little in between.
    seed: of the phantom.
    size: a name of `SIZES`.
    difficulty: how hard it is.

  Returns:
    A tuple of images `[X, Y, Z]`, BTCV codes and affine.
  """
  number = ('t2', 't1').index(sequence)
  own = np.random.default_rng([seed, index, 3, 1 + number])
  affine, shape, spacing = _grid('abdomen', size, 'LPS', own)
  points = shapes.grid(affine, shape)
  moved = shapes.apply(shapes.rotation(own.normal(size=3), 2.5), points)
  moved += own.normal(size=(3, 1, 1, 1)).astype(np.float32) * 3
  person = np.random.default_rng([seed, index, 3, 0])
  parts = anatomy.abdomen(moved, person, difficulty)
  images = scanner.mr(parts, sequence, points, spacing, own, difficulty)
  return images, scanner.paint_label(parts), affine


def _write_abdomen(btcv, chaos, index, settings) -> None:
  archive.write_btcv(btcv, index, *abdomen_ct(index, **settings))
  for sequence in ('t2', 't1'):
    scan = abdomen_mr(index, sequence, **settings)
    archive.write_chaos(chaos, index, sequence, *scan)


def _finished(out: pathlib.Path, settings: dict) -> bool:
  """Whether `out` holds this very phantom.

  Raises:
    FileExistsError: it holds something else.
  """
  if not out.exists() or (out.is_dir() and not any(out.iterdir())):
    return False
  try:
    found = json.loads((out / _DONE).read_text())
  except (OSError, ValueError):
    found = None
  if not isinstance(found, dict) or not found.keys() >= settings.keys():
    raise FileExistsError(f'{out} exists and is no phantom: choose another out')
  if found != settings:
    remedy = 'choose another out, or remove that folder'
    raise FileExistsError(
      f'{out} holds a phantom with other settings: {remedy}'
    )
  return True


def write(
  task_name: str,
  out: str | os.PathLike,
  *,
  subjects: int = 20,
  seed: int = 0,
  size: str = 'quick',
  difficulty: Difficulty = DIFFICULTY,
  quiet: bool = False,
) -> dict[str, str]:
  """Writes a phantom, whole or not at all.

  The same arguments give the same bytes. A folder that already holds this very
  phantom is left as it is.

  Args:
    task_name: 'heart' or 'abdomen'.
    out: the folder to make.
    subjects: per archive. CT and MR subjects are different people.
    seed: another seed, other people.
    size: a name of `SIZES`.
    difficulty: how hard it is.
    quiet: no progress bar.

  Returns:
    The archives' roots: {'mmwhs': folder} or {'btcv': folder, 'chaos': folder}.

  Raises:
    ValueError: an unknown task or size, no subjects, or a place where nothing
      can be written.
    FileExistsError: `out` holds something else.
    OSError: the disk took no more; nothing stays there.
  """
  if task_name not in LAYOUTS or size not in SIZES or subjects < 1:
    raise ValueError(
      f'task {task_name!r}, size {size!r}, subjects {subjects}: choose a task'
      f' of {list(LAYOUTS)}, a size of {list(SIZES)} and at least one subject'
    )
  settings = {
    'version': VERSION,
    'task': task_name,
    'subjects': subjects,
    'seed': seed,
    'size': size,
    'difficulty': difficulty._asdict(),
  }
  names = LAYOUTS[task_name].split('+')
  roots = {name: str(pathlib.Path(out, name)) for name in names}
  out = destination.check(out)
  if _finished(out, settings):
    return roots
  each = {'seed': seed, 'size': size, 'difficulty': difficulty}
  done = lambda: _finished(out, settings)
  with atomic.filling(out, done) as partial:
    with progress.bar(quiet) as bar:
      job = bar.add_task(f'phantom ({task_name})', total=subjects)
      for index in range(subjects):
        if task_name == 'heart':
          _write_heart(partial / 'mmwhs', index, subjects, each)
        else:
          _write_abdomen(partial / 'btcv', partial / 'chaos', index, each)
        bar.advance(job)
    (partial / _DONE).write_text(json.dumps(settings, indent=2) + '\n')
  return roots
