"""A workload that is looked at in a process of its own, with other devices."""

from collections.abc import Mapping
import dataclasses
import importlib
import json
import os
import subprocess
import sys
from typing import Any

from dbdc_jax.benchmarking.workload import Workload, use_virtual_devices


def count(
  module: str,
  workload: Workload,
  environment: Mapping[str, str],
  what: str,
  devices: int = 1,
  **options: str,
) -> dict[str, Any]:
  """What a module's own `count` returns in another process.

  Args:
    module: its name.
    workload: what it looks at.
    environment: what differs there from this process's.
    what: is done, for the error.
    devices: of the CPU that the process has.
    **options: more arguments of the module's `count`.

  Raises:
    RuntimeError: the process failed; with its last words.
  """
  given = json.dumps([module, devices, dataclasses.asdict(workload), options])
  done = subprocess.run(
    [sys.executable, '-m', __spec__.name, given],
    env={**os.environ, **environment},
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise RuntimeError(f'{what} failed: {done.stderr[-2000:]}')
  return json.loads(done.stdout.splitlines()[-1])


def _answer(given: str) -> None:
  """Prints what `count` reads: one line of JSON."""
  module, devices, fields, options = json.loads(given)
  use_virtual_devices(devices)
  found = importlib.import_module(module).count(Workload(**fields), **options)
  print(json.dumps(found))


if __name__ == '__main__':
  _answer(sys.argv[1])
