"""What a workdir says about its run: config, versions, commit, data."""

from collections.abc import Iterator, Mapping
import importlib.metadata
import json
import os
import pathlib
import subprocess
from typing import Any

import ml_collections

_PACKAGES = (
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
  'scipy',
  'nibabel',
  'pydicom',
  'tensorflow-datasets',
  'grain',
)
# Fields that may differ between the calls of one run. More epochs go on from
# where the run stands.
_HARMLESS = (
  'eval_only',
  'expectation',
  'init_from',
  'epochs',
  'evaluation',
  'data.cache',
  'data.memory_limit_gib',
  'data.split',
)


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON so that the file is either whole or not there."""
  partial = path.with_name(path.name + '.partial')
  partial.write_text(json.dumps(value, indent=2, sort_keys=True) + '\n')
  os.replace(partial, path)


def _leaves(config: Mapping[str, Any], prefix: str = '') -> Iterator[tuple]:
  for key, value in config.items():
    if isinstance(value, Mapping):
      yield from _leaves(value, f'{prefix}{key}.')
    else:
      yield prefix + key, value


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Lines 'field: old -> new' for every field that matters to a resume."""
  old_leaves, new_leaves = dict(_leaves(old)), dict(_leaves(new))
  lines = []
  for field in sorted(old_leaves.keys() | new_leaves.keys()):
    if any(field == h or field.startswith(h + '.') for h in _HARMLESS):
      continue
    before, after = old_leaves.get(field), new_leaves.get(field)
    if before != after:
      lines.append(f'{field}: {before!r} -> {after!r}')
  return lines


def started(workdir: pathlib.Path) -> bool:
  """Whether a workdir holds a checkpoint, its own or a modality's."""
  own = workdir.glob('checkpoints/[0-9]*')
  return any(own) or any(workdir.glob('*/checkpoints/[0-9]*'))


def check_data(workdir: pathlib.Path, fingerprint: Mapping[str, Any]) -> None:
  """Checks that a workdir's run was started with the same data.

  Args:
    workdir: of a run that is resumed.
    fingerprint: of the prepared data.

  Raises:
    ValueError: naming what differs.
  """
  old = json.loads((workdir / 'run.json').read_text())['data']
  lines = difference(old, fingerprint)
  if lines:
    raise ValueError(
      f'{workdir} holds a run on other data:\n  '
      + '\n  '.join(lines)
      + '\nChoose another --workdir, or bring that data back.'
    )


def check_resumable(
  workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> None:
  """Checks that a workdir's run was started with the same settings.

  Raises:
    ValueError: naming each field that differs, or that there is nothing to
      test.
  """
  if not started(workdir):
    if config.eval_only:
      raise ValueError(f'eval_only: no run in {workdir}; train there first')
    return
  path = workdir / 'config.json'
  old = json.loads(path.read_text())
  lines = difference(old, config.to_dict())
  if config.epochs < old['epochs']:
    lines.append(f'epochs: {old["epochs"]} -> {config.epochs} (fewer)')
  if lines:
    raise ValueError(
      f'{workdir} holds a run with other settings:\n  '
      + '\n  '.join(lines)
      + '\nChoose another --workdir, or the settings of that run.'
    )


def _commit() -> str:
  """The git commit of the code, '' outside a checkout."""
  try:
    return subprocess.run(
      ['git', 'rev-parse', 'HEAD'],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
      check=True,
    ).stdout.strip()
  except (OSError, subprocess.CalledProcessError):
    return ''


def save(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  *,
  devices: str,
  fingerprint: Mapping[str, Any],
  skipped: list[dict[str, str]],
) -> None:
  """Writes config.json and run.json.

  Args:
    workdir: the run's folder.
    config: as it is used.
    devices: the devices in words.
    fingerprint: of the prepared data.
    skipped: bad scans that the run goes on without.
  """
  write_json(workdir / 'config.json', config.to_dict())
  write_json(
    workdir / 'run.json',
    {
      'packages': {p: importlib.metadata.version(p) for p in _PACKAGES},
      'commit': _commit(),
      'devices': devices,
      'threads': os.environ.get('NPROC', str(os.cpu_count())),
      'data': fingerprint,
      'skipped_scans': skipped,
    },
  )
