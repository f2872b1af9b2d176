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

import errno
import os
import pathlib
import shutil
import sys

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Config file with optional arguments: configs/heart.py or configs/abdomen.py'
  "[:scans=DIR,method=NAME]; or a run's config.json. Set fields with"
  ' --config.FIELD=VALUE.',
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the run. Default: runs/TASK_METHOD.',
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  '',
  'Several processes share the run: HOST:PORT of process 0, with'
  " --num_processes and --process_id; or 'auto': Slurm, Open MPI, Kubernetes or"
  ' the TPU pod says who is who.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'How many processes there are.', lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Which process this is; 0 leads.', lower_bound=0
)


def _workdir(config) -> str:
  # A folder's task is the path of its dataset.json.
  path = pathlib.Path(config.task)
  task = path.parent.name if path.suffix == '.json' else config.task
  return _WORKDIR.value or f'runs/{task}_{config.method}'


def _saved_configs(argv: list[str]) -> list[str]:
  """Lets `--config run/config.json` mean `configs/saved.py:run/config.json`."""
  root = pathlib.Path(__file__).parents[1]
  out = list(argv)
  for i, text in enumerate(argv):
    flag, equals, value = text.partition('=')
    if flag not in ('--config', '-config'):
      continue
    at = i if equals else i + 1
    value = value if equals else ''.join(argv[at : at + 1])
    if value.endswith('.json'):
      value = f'{root / "configs" / "saved.py"}:{value}'
      out[at] = f'{flag}={value}' if equals else value
  return out


def _parse(argv: list[str]) -> list[str]:
  """Parses the flags; ends with a sentence and exit code 2 if it cannot."""
  try:
    return flags.FLAGS(_saved_configs(argv))
  except flags.Error as error:
    lines = str(error).strip().splitlines()
    text = '\n'.join(lines)
    if 'Traceback' in text:  # Of a config file: what it said is enough.
      _, _, text = lines[-1].strip().partition(': ')
    print(f'error: {text}', file=sys.stderr)
    sys.exit(2)
  except AttributeError as error:
    # ml_collections wraps what it wants to say.
    said = error.args[0]
    said = said.args[0] if isinstance(said, Exception) else said
    name, *hint = str(said).splitlines()
    print(
      f'error: the config has no field {name}. {" ".join(hint)}\n'
      'configs/common.py explains each one.',
      file=sys.stderr,
    )
    sys.exit(2)


def _fail(error: BaseException) -> int:
  """Says what went wrong; returns the exit code."""
  if os.environ.get('DBDC_TRACEBACK'):
    raise error
  print(f'\nerror: {error}', file=sys.stderr)
  return 1


def _explain(error: OSError) -> OSError:
  """Adds what is free to a full disk's error, where it does not say so."""
  known = 'bytes free' in str(error)
  if error.errno != errno.ENOSPC or not error.filename or known:
    return error
  folder = pathlib.Path(error.filename)
  while not folder.exists():
    folder = folder.parent
  free = shutil.disk_usage(folder).free
  return OSError(
    error.errno,
    f'{error.strerror} ({free:,} bytes free). What was complete stays; make'
    ' space, then the same command resumes',
    error.filename,
  )


def _run(config) -> int:
  """Trains and tests; returns the exit code."""
  from dbdc_jax.runtime import memory

  memory.keep()
  # Imported late: --help and bad flags should not wait for it.
  from data import prepare
  from data.formats.nifti import ScanError
  from dbdc_jax.runtime import (
    compilation_cache,
    determinism,
    parallel,
    stopping,
  )
  from dbdc_jax.training import train
  from dbdc_jax.training.epoch_metrics import NonFiniteLossError
  from dbdc_jax.workdir import checkpoint

  if config.deterministic:
    determinism.ask()
  try:
    if _COORDINATOR.value:
      parallel.start(
        _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
      )
    elif _NUM_PROCESSES.value or _PROCESS_ID.value is not None:
      raise ValueError('--num_processes and --process_id need --coordinator')
    compilation_cache.use(prepare.cache_folder(config.data.cache))
    with stopping.stoppable(lambda: checkpoint.standing(_workdir(config))):
      train.train_and_evaluate(config, _workdir(config))
  except OSError as error:
    return _fail(_explain(error))
  except RuntimeError as error:
    if not parallel.is_distributed():
      raise
    # What a collective says whose other end is gone.
    return _fail(
      RuntimeError(f'a process of this run does not answer: {error}')
    )
  except (
    prepare.BadScans,
    ScanError,
    ValueError,
    NonFiniteLossError,
  ) as error:
    return _fail(error)
  if parallel.is_lead():
    where = pathlib.Path(_workdir(config)).absolute()
    print(f'results, curves and pictures: {where}')
  return 0


def main(argv: list[str]) -> int:
  """Runs the flags' config; returns the process's exit code."""
  if len(argv) > 1:
    print(f'unexpected arguments: {" ".join(argv[1:])}', file=sys.stderr)
    return 2
  if _CONFIG.value is None:
    print(__doc__ + '\n--config is missing.', file=sys.stderr)
    return 2
  # The chatter of libraries, which log each error before they raise it, would
  # hide what matters.
  logging.set_verbosity(logging.FATAL)
  config = _CONFIG.value
  code = _run(config)
  if code and _COORDINATOR.value:
    # The others do not answer any more: leave without taking leave.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  return code


if __name__ == '__main__':
  app.run(main, flags_parser=_parse)
