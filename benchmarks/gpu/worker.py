"""The process that measures: one part after the other."""

import argparse
import importlib
import time
import traceback

from benchmarks.gpu import plan, workspace

# With --tiny a part begins as long as so many seconds are left.
_TINY_NEEDED = 5


def _measure(part: plan.Part, context: plan.Context) -> None:
  """Runs a part; its error is its state."""
  found, start = plan.Found(part.name), time.time()
  running = {'part': part.name, 'since': start}
  workspace.write(workspace.running_file(), running)
  print(f'=== {part.name}', flush=True)
  try:
    # Imported here: a part that cannot be imported costs only itself.
    module = importlib.import_module(f'benchmarks.gpu.{part.module}')
    getattr(module, part.function)(context, part.name, found)
    found.setdefault('state', 'ok')
  except BaseException as error:
    traceback.print_exc()
    found['state'] = f'failed: {type(error).__name__}: {str(error)[:400]}'
    if not isinstance(error, Exception):
      raise
  finally:
    found['done'] = True
    found['part_seconds'] = round(time.time() - start, 2)
    found.save()
    workspace.running_file().unlink(missing_ok=True)


def run(flags: argparse.Namespace) -> None:
  """Runs the parts that `flags.parts` names, while the budget lasts."""
  context = plan.Context(flags)
  for part in plan.chosen(flags.parts):
    left = context.left()
    if left < (_TINY_NEEDED if context.tiny else part.needed):
      found = {'done': True, 'state': f'skipped, {left:.0f} s left'}
      workspace.write(workspace.part_file(part.name), found)
    else:
      _measure(part, context)
