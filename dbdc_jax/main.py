r"""Trains and tests one network for many modalities.

  python -m dbdc_jax.main --config configs/heart.py
      on the built-in phantom, sized for two CPU cores

  python -m dbdc_jax.main --config configs/abdomen.py:scans=DIR \
      --config.modalities=ct,t2 --workdir runs/abdomen
      on real scans, with the paper's settings

  python -m dbdc_jax.main --config runs/abdomen/config.json
      with the settings of another run

Any field of the config can be set: --config.epochs=20,
--config.labeled_fraction=1, --config.optimizer.learning_rate=0.001 (see
configs/common.py, which explains each one). The same command again resumes;
--config.eval_only=true tests a finished workdir again. A config file is Python
and runs code; a config.json is read as data.

All local devices are used. Several processes (one per host) share a run with
--coordinator, the same command on each; see the README.

SIGTERM or Ctrl-C ends a run in order: the last complete epoch's checkpoint
stands. Exit codes: 0 done, 1 an error that is explained, 2 a wrong command
line, 143 or 130 told to stop.

The workdir receives results.json, results.csv, metrics.jsonl, progress.png,
overlays/, split.json, config.json, run.json, TensorBoard logs and checkpoints.
"""

import os
import pathlib
import sys
from typing import TYPE_CHECKING

from data.files import command, errors

if TYPE_CHECKING:
  import ml_collections


def _main() -> None:
  """Defines the flags, reads them and runs."""
  from absl import app, flags
  from ml_collections import config_flags

  config_flags.DEFINE_config_file(
    'config',
    None,
    'Config file with optional arguments: configs/heart.py or'
    " configs/abdomen.py[:scans=DIR,method=NAME]; or a run's config.json. Set"
    ' fields with --config.FIELD=VALUE.',
    lock_config=True,
  )
  flags.DEFINE_string(
    'workdir', None, 'Folder of the run. Default: runs/TASK_METHOD.'
  )
  flags.DEFINE_string(
    'coordinator',
    '',
    'Several processes share the run: HOST:PORT of process 0, with'
    " --num_processes and --process_id; or 'auto': Slurm, Open MPI, Kubernetes"
    ' or the TPU pod says who is who.',
  )
  flags.DEFINE_integer(
    'num_processes', None, 'How many processes there are.', lower_bound=1
  )
  flags.DEFINE_integer(
    'process_id', None, 'Which process this is; 0 leads.', lower_bound=0
  )
  app.run(main, flags_parser=_parse)


def _workdir(config: 'ml_collections.ConfigDict', given: str | None) -> str:
  # A folder's task is the path of its dataset.json.
  path = pathlib.Path(config.task)
  task = path.parent.name if path.suffix == '.json' else config.task
  return given or f'runs/{task}_{config.method}'


def _saved_configs(argv: list[str]) -> list[str]:
  """Lets `--config run/config.json` mean `configs/saved.py:run/config.json`.

  Raises:
    WrongFlags: there is no such file.
  """
  root = pathlib.Path(__file__).parents[1] / 'configs'
  out = list(argv)
  for i, text in enumerate(argv):
    flag, equals, value = text.partition('=')
    if flag not in ('--config', '-config'):
      continue
    at = i if equals else i + 1
    value = value if equals else ''.join(argv[at : at + 1])
    saved = value.endswith('.json')
    path = pathlib.Path(value if saved else value.partition(':')[0])
    if not path.is_file():
      here = pathlib.Path.cwd() == root.parent
      names = ', '.join(
        f'configs/{file.name}' if here else str(file)
        for file in sorted(root.glob('*.py'))
        if 'def get_config(' in file.read_text() and file.stem != 'saved'
      )
      lacking = f'there is no file {path}' if value else 'it names no file'
      raise command.WrongFlags(
        f"--config: {lacking}: give {names}, or a run's config.json"
      )
    if saved:
      value = f'{root / "saved.py"}:{value}'
      out[at] = f'{flag}={value}' if equals else value
  return out


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags; ends with a sentence and exit code 2 if it cannot."""
  from absl import flags

  try:
    return flags.FLAGS(_saved_configs(argv))
  except SystemExit:  # Of --help.
    sys.exit(0)
  except command.WrongFlags as error:
    text = str(error)
  except flags.Error as error:
    text = str(error).strip()
    if 'Traceback' in text:  # Of a config file: what it said is enough.
      _, _, text = text.splitlines()[-1].strip().partition(': ')
  except AttributeError as error:
    # ml_collections wraps what it wants to say.
    said = error.args[0]
    said = said.args[0] if isinstance(said, Exception) else said
    name, *hint = str(said).splitlines()
    text = (
      f'the config has no field {name}. {" ".join(hint)}\n'
      'configs/common.py explains each one.'
    )
  command.tell(f'error: {text}')
  sys.exit(2)


def _run(config: 'ml_collections.ConfigDict') -> None:
  """Trains and tests."""
  from dbdc_jax.runtime import memory

  memory.keep()
  from absl.flags import FLAGS

  from data import preparation
  from dbdc_jax import sizing
  from dbdc_jax.runtime import (
    compilation_cache,
    determinism,
    parallel,
    stopping,
  )
  from dbdc_jax.training import train
  from dbdc_jax.workdir import checkpoint

  if config.deterministic:
    determinism.ask()
  try:
    if FLAGS.coordinator:
      parallel.start(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    elif FLAGS.num_processes or FLAGS.process_id is not None:
      raise ValueError('--num_processes and --process_id need --coordinator')
    compilation_cache.use(preparation.cache_folder(config.data.cache))
    workdir = _workdir(config, FLAGS.workdir)
    with stopping.stoppable(lambda: checkpoint.standing(workdir)):
      train.train(sizing.settle(config, workdir), workdir)
  except RuntimeError as error:
    if not parallel.is_distributed():
      raise
    # What a collective says whose other end is gone.
    raise errors.Refusal(
      f'a process of this run does not answer: {error}'
    ) from error
  if parallel.is_lead():
    print(f'results, curves and pictures: {pathlib.Path(workdir).absolute()}')


def main(argv: list[str]) -> int:
  """Runs the flags' config; returns the process's exit code."""
  if len(argv) > 1:
    command.tell(f'unexpected arguments: {" ".join(argv[1:])}')
    return 2
  from absl.flags import FLAGS

  if FLAGS.config is None:
    command.tell(f'{__doc__}\n--config is missing.')
    return 2
  code = command.guard(lambda: _run(FLAGS.config))
  if code and FLAGS.coordinator:
    # The others do not answer any more: leave without taking leave.
    os._exit(code)
  return code


if __name__ == '__main__':
  command.leave(command.guard(_main))
