"""Folders, JSON files and processes of the check."""

from collections.abc import Mapping
import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
from typing import Any

from data.files import atomic, destination

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Names the folder of what a later call with --keep uses again: programs, data,
# the parts' numbers. The processes of a call have it from the first one.
WORK = 'GPU_CHECK_WORK'
# Lies in every folder that the check has made, and may empty.
_MARK = '.gpu_check'
_TERM_SECONDS = 4


def read(path: pathlib.Path, default: Any = None) -> Any:
  """The content of a JSON file; `default` where there is none that is whole."""
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    return default


def write(path: pathlib.Path, content: Any) -> None:
  """Writes a JSON file, whole or not at all."""
  text = json.dumps(content, indent=1, default=str) + '\n'
  atomic.write(path, text.encode())


def work() -> pathlib.Path:
  """The folder that `WORK` names in the environment."""
  return pathlib.Path(os.environ[WORK])


def claim(folder: pathlib.Path, fresh: bool = False) -> None:
  """Makes a folder the check's own.

  Args:
    folder: is made where it is not.
    fresh: what an earlier call left in it goes.

  Raises:
    ValueError: it holds what the check has not made, or cannot be made.
  """
  destination.check(folder)
  mark = folder / _MARK
  if folder.exists() and not mark.exists() and any(folder.iterdir()):
    raise ValueError(
      f'{folder} holds files that this check has not made: choose a new folder'
    )
  if fresh:
    shutil.rmtree(folder, ignore_errors=True)
  folder.mkdir(parents=True, exist_ok=True)
  mark.touch()


def part_file(name: str) -> pathlib.Path:
  """Where a part leaves its numbers."""
  return work() / 'parts' / f'{name}.json'


def running_file() -> pathlib.Path:
  """Names the part that runs now, and since when."""
  return work() / 'running.json'


def environment(**more: str) -> dict[str, str]:
  """The environment of the processes that are started here."""
  found = dict(os.environ)
  found.update(
    PYTHONUNBUFFERED='1',
    # Programs are compiled once: steps here, the training run and the export.
    JAX_COMPILATION_CACHE_DIR=str(work() / 'xla'),
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0.5',
    TF_CPP_MIN_LOG_LEVEL='1',
    DBDC_TRACEBACK='1',
  )
  # The worker keeps its context while torch and training runs use the GPU.
  found.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.40')
  path = [str(ROOT), found.get('PYTHONPATH', '')]
  found['PYTHONPATH'] = os.pathsep.join(p for p in path if p)
  found.update(more)
  return found


def start(
  command: list[Any], output: Any, folder: pathlib.Path = ROOT, **env: str
) -> subprocess.Popen:
  """Starts a command in a process group of its own.

  Args:
    command: program and arguments.
    output: file that receives all it says.
    folder: to run it in.
    **env: added to `environment`.
  """
  return subprocess.Popen(
    list(map(str, command)),
    cwd=folder,
    env=environment(**env),
    stdout=output,
    stderr=subprocess.STDOUT,
    start_new_session=True,
  )


def run(
  command: list[Any], seconds: float, **env: str
) -> subprocess.CompletedProcess:
  """Runs a command in the project's folder and keeps what it says.

  It stays in this process's group: what ends the worker ends it too.

  Raises:
    subprocess.TimeoutExpired: it took longer than `seconds`, and was killed.
  """
  return subprocess.run(
    list(map(str, command)),
    cwd=ROOT,
    env=environment(**env),
    capture_output=True,
    text=True,
    check=False,
    timeout=seconds,
  )


def outcome(command: list[Any], seconds: float) -> dict[str, Any]:
  """`run` in numbers: exit code, seconds, and the end of what was said."""
  start = time.time()
  done = run(command, seconds)
  return {
    'exit_code': done.returncode,
    'seconds': round(time.time() - start, 1),
    'said': (done.stdout + done.stderr)[-800:],
  }


def end(process: subprocess.Popen | None) -> None:
  """Ends a process of `start` and all that it has started."""
  if process is None or process.poll() is not None:
    return
  # A training run ends in order on SIGTERM: it is left some seconds.
  for number in (signal.SIGTERM, signal.SIGKILL):
    try:
      os.killpg(process.pid, number)
    except ProcessLookupError:
      return
    try:
      process.wait(_TERM_SECONDS)
      return
    except subprocess.TimeoutExpired:
      pass


def dig(tree: Mapping[str, Any], *keys: str) -> Any:
  """A value of nested dicts; None where a key is missing."""
  for key in keys:
    tree = tree.get(key) if isinstance(tree, Mapping) else None
  return tree
