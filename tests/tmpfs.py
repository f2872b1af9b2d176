"""A small disk of its own for a test: what happens when it is full?"""

import functools
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Root may mount without becoming another user, where that is forbidden.
_NAMESPACES = (
  ('unshare', '--user', '--map-root-user', '--mount'),
  ('unshare', '--mount'),
)
_MOUNT = 'mount -t tmpfs -o "size=$1" none "$2" && shift 2 && exec "$@"'


def _command(namespace, size: str, folder: pathlib.Path, *program: str):
  return [*namespace, 'sh', '-c', _MOUNT, 'sh', size, str(folder), *program]


@functools.cache
def _namespace(folder: pathlib.Path) -> tuple[str, ...]:
  """How a disk can be mounted here; the test is skipped where it cannot."""
  said = ''
  for namespace in _NAMESPACES:
    try:
      done = subprocess.run(
        _command(namespace, '1m', folder, 'true'),
        capture_output=True,
        text=True,
        check=False,
      )
    except FileNotFoundError as error:
      said = str(error)
      continue
    if done.returncode == 0:
      return namespace
    said = done.stderr.strip()
  pytest.skip(f'no small disk can be mounted here: {said}')


def run_on_tmpfs(
  code: str, size: str, folder: pathlib.Path
) -> subprocess.CompletedProcess:
  """Runs Python code that sees a new, empty disk at `folder`.

  The disk is gone with the process, so the code itself must look at what is
  left on it. The test is skipped where nothing may be mounted.

  Args:
    code: run from the project's root.
    size: of the disk, e.g. '4m'.
    folder: an existing folder.
  """
  return subprocess.run(
    _command(_namespace(folder), size, folder, sys.executable, '-c', code),
    capture_output=True,
    text=True,
    check=False,
    cwd=ROOT,
  )
