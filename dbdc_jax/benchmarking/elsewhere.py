"""A workload that is looked at in a process of its own, with other devices."""

from collections.abc import Callable, Mapping
import dataclasses
import json
import subprocess
import sys
from typing import Any

from dbdc_jax.benchmarking.workload import Workload


def ask(
  module: str,
  workload: Workload,
  flag: str,
  environment: Mapping[str, str],
  what: str,
) -> dict[str, Any]:
  """Runs a module that `answer`s.

  Args:
    module: its name.
    workload: what it looks at.
    flag: another argument.
    environment: of the process.
    what: is done, for the error.

  Raises:
    RuntimeError: the process failed; with its last words.
  """
  fields = json.dumps(dataclasses.asdict(workload))
  done = subprocess.run(
    [sys.executable, '-m', module, flag, f'--workload={fields}'],
    env=environment,
    capture_output=True,
    text=True,
    check=False,
  )
  if done.returncode:
    raise RuntimeError(f'{what} failed: {done.stderr[-2000:]}')
  return json.loads(done.stdout.splitlines()[-1])


def answer(fields: str, count: Callable[[Workload], dict[str, Any]]) -> None:
  """Prints what `ask` reads: one line of JSON.

  Args:
    fields: of the workload, as JSON.
    count: looks at it.
  """
  print(json.dumps(count(Workload(**json.loads(fields)))))
