"""Parts `deterministic` and `drill`: whole runs that must end the same.

Runs of the smallest size with `--config.deterministic=true`. All use the same
compiled programs, which the first leaves in the cache.
"""

from collections.abc import Mapping
import pathlib
import shutil
import subprocess
import time
from typing import Any

import jax
import numpy as np

from benchmarks.gpu import plan, training, workspace
from dbdc_jax.workdir import checkpoint
from dbdc_jax.workdir.metric_writer import read_rows

_FIRST = 'deterministic_1'
# Fields of a row that hold times.
CLOCKS = ('time', 'images_per_second', 'seconds', 'share_outside_steps')
_EPOCHS = 2
# Seconds left for the last words of a part.
_REST = 10


def _command(workdir: pathlib.Path) -> list[str]:
  return training.command(
    workdir,
    *training.tiny_flags(),
    '--config.deterministic=true',
    f'--config.epochs={_EPOCHS}',
    '--config.dc.warmup_epochs=1',
    '--config.evaluation.every=1',
  )


def _end(context: plan.Context, workdir: pathlib.Path) -> dict[str, Any]:
  """Runs the command to its end; how that was."""
  seconds = max(15.0, context.left() - _REST)
  return workspace.outcome(_command(workdir), seconds)


def same_bits(a: Any, b: Any) -> bool:
  """Whether two trees of arrays hold the same bits."""
  a, b = jax.tree.leaves(a), jax.tree.leaves(b)
  return len(a) == len(b) and all(
    np.asarray(x).tobytes() == np.asarray(y).tobytes()
    for x, y in zip(a, b, strict=True)
  )


def _rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
  return [
    {key: value for key, value in row.items() if key not in CLOCKS}
    for row in read_rows(workdir)
  ]


def equal(a: pathlib.Path, b: pathlib.Path) -> dict[str, bool]:
  """What two finished runs have in common, by name; times do not count."""
  scores = [workspace.read(run / 'results.json', {}) for run in (a, b)]
  scores = [(s.get('mean'), s.get('modalities')) for s in scores]
  return {
    'checkpoint': same_bits(checkpoint.read(a), checkpoint.read(b)),
    'metrics.jsonl': _rows(a) == _rows(b),
    'results.json': scores[0] == scores[1],
  }


def _say(found: Mapping[str, bool]) -> str:
  return ', '.join(
    f'{k} {"equal" if v else "DIFFERS"}' for k, v in found.items()
  )


def _judge(found: plan.Found, same: Mapping[str, bool]) -> None:
  found['equal'] = same
  found['lines'].append(_say(same))
  if not all(same.values()):
    found['state'] = f'DIFFERS: {_say(same)}'


def repeat(context: plan.Context, name: str, found: plan.Found) -> None:
  """The same run twice: do checkpoints, curves and scores have equal bits?"""
  del name
  workdirs = [workspace.work() / _FIRST, workspace.work() / 'deterministic_2']
  found.update(command=' '.join(_command(workdirs[0])), runs=[], lines=[])
  for workdir in workdirs:
    shutil.rmtree(workdir, ignore_errors=True)
    run = _end(context, workdir)
    found['runs'].append(run)
    found['lines'].append(f'exit code {run["exit_code"]}, {run["seconds"]} s')
    found.save()
    if run['exit_code'] != 0:
      found['state'] = f'failed: exit code {run["exit_code"]}'
      return
  _judge(found, equal(*workdirs))


def _in_a_save(workdir: pathlib.Path) -> bool:
  """Whether the last epoch is over: one checkpoint stands, one is written."""
  return len(read_rows(workdir)) >= _EPOCHS and bool(checkpoint.steps(workdir))


def _kill_in_a_save(context: plan.Context, workdir: pathlib.Path) -> int | None:
  """Starts the run and kills it in its last save; the exit code."""
  end = time.time() + context.left() - _REST
  with subprocess.Popen(
    _command(workdir),
    cwd=workspace.ROOT,
    env=workspace.environment(),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  ) as process:
    # The row is on the disk before its checkpoint is.
    while (
      not _in_a_save(workdir) and process.poll() is None and time.time() < end
    ):
      time.sleep(0.005)
    process.kill()
  return process.returncode


def drill(context: plan.Context, name: str, found: plan.Found) -> None:
  """A run that is killed with SIGKILL goes on with the same command."""
  del name
  workdir = workspace.work() / 'drill'
  shutil.rmtree(workdir, ignore_errors=True)
  found.update(command=' '.join(_command(workdir)), lines=[])
  start = time.time()
  code = _kill_in_a_save(context, workdir)
  found['killed'] = {
    'exit_code': code,
    'seconds': round(time.time() - start, 1),
    'rows': len(read_rows(workdir)),
    'checkpoints': checkpoint.steps(workdir),
  }
  found['lines'].append(
    f'killed: exit code {code}, {found["killed"]["rows"]} epochs done, whole'
    f' checkpoints {found["killed"]["checkpoints"]}'
  )
  found.save()
  if not found['killed']['checkpoints']:
    found['state'] = 'failed: it was killed before its first whole checkpoint'
    return
  run = _end(context, workdir)
  found['again'] = run
  found['lines'].append(
    f'the same command: exit code {run["exit_code"]}, {run["seconds"]} s'
  )
  if code != -9 or run['exit_code'] != 0:
    found['state'] = f'failed: exit codes {code} and {run["exit_code"]}'
    return
  first = workspace.work() / _FIRST
  if (first / 'results.json').exists():
    _judge(found, equal(workdir, first))
  else:
    found['state'] = 'not compared: that needs the part deterministic before it'
