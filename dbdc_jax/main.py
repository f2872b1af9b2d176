r"""Trains and tests one network for many modalities.

  python -m dbdc_jax.main --config configs/heart.py
      on the built-in phantom, sized for two CPU cores

  python -m dbdc_jax.main --config configs/abdomen.py:scans=DIR \
      --config.modalities=ct,t2 --workdir runs/abdomen
      on real scans, with the paper's settings

Any field of the config can be set: --config.epochs=20,
--config.labeled_fraction=1, --config.optimizer.learning_rate=0.001 (see
configs/common.py, which explains each one). The same command again resumes;
--config.eval_only=true tests a finished workdir again.

The workdir receives results.json, results.csv, metrics.jsonl, progress.png,
overlays/, split.json, config.json, run.json, TensorBoard logs and checkpoints.
"""

import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Config file with optional arguments: configs/heart.py or configs/abdomen.py'
  '[:scans=DIR,method=NAME]. Set fields with --config.FIELD=VALUE.',
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Folder of the run. Default: runs/TASK_METHOD.',
)


def _workdir(config) -> str:
  return _WORKDIR.value or f'runs/{config.task}_{config.method}'


def main(argv: list[str]) -> int:
  """Runs the flags' config; returns the process's exit code."""
  if len(argv) > 1:
    print(f'unexpected arguments: {" ".join(argv[1:])}', file=sys.stderr)
    return 2
  if _CONFIG.value is None:
    print(__doc__ + '\n--config is missing.', file=sys.stderr)
    return 2
  # The chatter of libraries would hide what matters.
  logging.set_verbosity(logging.ERROR)
  # Imported late: --help and bad flags should not wait for it.
  from data.prepare import BadScans
  from data.volume_io import ScanError
  from dbdc_jax import train
  from dbdc_jax.epoch_metrics import NonFiniteLossError

  config = _CONFIG.value
  try:
    train.train_and_evaluate(config, _workdir(config))
  except (BadScans, ScanError, ValueError, FileExistsError) as error:
    if os.environ.get('DBDC_TRACEBACK'):
      raise
    print(f'\nerror: {error}', file=sys.stderr)
    return 1
  except NonFiniteLossError as error:
    print(f'\nerror: {error}', file=sys.stderr)
    return 1
  where = pathlib.Path(_workdir(config)).absolute()
  print(f'results, curves and pictures: {where}')
  return 0


if __name__ == '__main__':
  app.run(main)
