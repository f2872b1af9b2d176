r"""All runs of a table, one after another, and the table.

  python -m dbdc_jax.experiment --table 2 --scans DIR --seeds 0,1,2 \
      --output experiments/table2
      the paper's Table II on real scans

  python -m dbdc_jax.experiment --table 1 --preset tiny --dry-run
      the plan of Table I on the phantom, in its smallest size

  python -m dbdc_jax.experiment --table 1 --task abdomen --modalities ct,t2 \
      --scans DIR --output experiments/table1_abdomen
      the rows of Table I on two modalities of the abdomen

  python -m dbdc_jax.experiment --variants rows.json --task heart \
      --config.epochs=20
      rows of your own: a JSON list of objects with "name", and "label",
      "method", "recipe", "fields" ({"mpcl.enabled": false}), "against" (a list
      of further rows to compare with) and "paper" ({"mean": [84.56, 4.21]})
      where wanted; the row "dbdc" is what the others are compared with; a row
      with "results" (a folder, {seed} in its name) is another program's, such
      as benchmarks/nnunet makes, and is only shown

  python -m dbdc_jax.experiment --task folder --scans scans --preset quick \
      --methods dbdc,supervised --vary folds --seeds 0,1,2,3,4
      own scans (a folder with a dataset.json): five folds of each method, the
      table, and the command by which a method's five networks segment together

Each run is the plain command `python -m dbdc_jax.main` in a process of its own,
in OUTPUT/runs/ROW/seedN; what it prints goes to OUTPUT/runs/ROW/seedN.log. The
same command again skips the finished runs and resumes the others. A run that
fails does not stop the rest. After each run OUTPUT/table.md, table.csv,
table.json and scores.csv are written anew. The last has the scores of each scan
and run: with --scores FILE the tables are made of such a file, or of several in
one, and nothing is run.

--list prints one command for each run that is left, for a cluster's job array;
the experiment called once more afterwards makes the tables.

Exit codes: 0 all runs of the table are done, 1 some are not, 2 a wrong command
line, 143 or 130 told to stop.
"""

import argparse
from collections.abc import Callable, Sequence
import functools
import pathlib
import shlex
import sys
from typing import TYPE_CHECKING

from data.files import command

if TYPE_CHECKING:
  from dbdc_jax.experiments import plan, runner, variants


def _names(text: str) -> tuple[str, ...]:
  return tuple(filter(None, text.split(',')))


def _seeds(text: str) -> tuple[int, ...]:
  seeds = tuple(int(part) for part in text.split(','))
  if len(set(seeds)) < len(seeds) or min(seeds) < 0:
    raise argparse.ArgumentTypeError('give different seeds, from 0 on')
  return seeds


def _flags() -> argparse.ArgumentParser:
  from data.task import TASKS
  from dbdc_jax.experiments import paper, variants

  parser = command.parser('dbdc_jax.experiment', __doc__)
  parser.epilog = '--config.FIELD=VALUE is passed on to every run.'
  add = parser.add_argument
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument('--table', choices=paper.TABLES, help="the paper's")
  what.add_argument('--variants', metavar='FILE', help='JSON list of rows')
  what.add_argument(
    '--methods', type=_names, metavar='NAME,NAME', help='a row for each'
  )
  add(
    '--task',
    choices=(*TASKS, variants.OWN),
    help='of --variants, --methods or --table 1; folder: own scans',
  )
  add('--scans', default='', metavar='DIR', help='default: the phantom')
  add('--seeds', type=_seeds, default=(0,), metavar='N,N', help='default: 0')
  add(
    '--vary',
    choices=tuple(variants.VARY),
    default='weights',
    help='by the seeds',
  )
  add('--preset', default='', help='paper, quick or tiny (configs/common.py)')
  add('--modalities', default='', metavar='NAME,NAME', help='default: all')
  add(
    '--only', type=_names, default=(), metavar='ROW,ROW', help='run these rows'
  )
  add('--output', type=pathlib.Path, help='default: experiments/TABLE')
  add(
    '--scores',
    type=pathlib.Path,
    metavar='FILE',
    help="tables of another place's scores.csv; nothing is run",
  )
  how = parser.add_mutually_exclusive_group()
  how.add_argument('--dry-run', action='store_true', help='only the plan')
  how.add_argument('--list', action='store_true', help='only the commands')
  return parser


def _show_plan(
  table: 'variants.Table',
  runs: Sequence['plan.PlannedRun'],
  output: pathlib.Path,
) -> None:
  from rich.console import Console
  from rich.table import Table as Grid

  from dbdc_jax.experiments import plan

  console = Console(highlight=False)
  console.print(f'{table.title}: {len(runs)} runs in {output}', markup=False)
  grid = Grid(box=None, pad_edge=False)
  for column in ('row', 'seed', 'state', ''):
    grid.add_column(column, overflow='fold')
  for run in runs:
    state, why = plan.state(run)
    grid.add_row(run.row, str(run.seed), state, why)
  console.print(grid, markup=False)


def _report(
  runs: Sequence['plan.PlannedRun'],
  outcomes: Sequence['runner.RunOutcome'],
  output: pathlib.Path,
) -> int:
  from dbdc_jax.experiments import runner

  failed = [outcome for outcome in outcomes if outcome.reason]
  print(f'tables: {output / "table.md"} (and .csv, .json)')
  if not failed:
    print('\n'.join(_together(runs)))
    return 0
  said = [f'{len(failed)} of {len(runs)} runs are not done:']
  for outcome in failed:
    said.append(f'  {outcome.run.name}: {outcome.reason}')
    if outcome.seconds:
      said.append(f'    all it printed: {runner.log_file(outcome.run)}')
  if any(outcome.run.command for outcome in failed):
    said.append('The same command again takes them up.')
  command.tell('\n'.join(said))
  return 1


def _together(runs: Sequence['plan.PlannedRun']) -> list[str]:
  """How the networks of a row's folds segment together."""
  rows: dict[str, list[plan.PlannedRun]] = {}
  for run in runs:
    if run.config is not None and run.config.task.endswith('.json'):
      rows.setdefault(run.variant.label, []).append(run)
  out = []
  for label, mine in rows.items():
    if len({run.config and run.config.data.fold for run in mine}) > 1:
      flags = ' '.join(f'--run {shlex.quote(str(run.workdir))}' for run in mine)
      out.append(
        f'{label}, all folds together:\n  python -m dbdc_jax.predict {flags}'
        ' --modality NAME --input DIR --output DIR'
      )
  return out


def _table(args: argparse.Namespace) -> 'variants.Table':
  from dbdc_jax.experiments import paper, variants

  if not args.table:
    if not args.task:
      raise ValueError('--variants and --methods need --task')
    if args.task == variants.OWN and not args.scans:
      raise ValueError('--task folder: give --scans DIR, with a dataset.json')
    if args.variants:
      return variants.read(args.variants, args.task)
    own = args.task == variants.OWN
    title = pathlib.Path(args.scans).absolute().name if own else args.task
    return variants.of_methods(args.methods, args.task, title)
  if args.task == variants.OWN:
    raise ValueError(
      "--table has the paper's tasks: of own scans give --methods"
    )
  return paper.table(args.table, _names(args.modalities), args.task or '')


def _run(
  args: argparse.Namespace,
  overrides: Sequence[str],
  execute: Callable[['plan.PlannedRun'], str] | None,
) -> int:
  from dbdc_jax.experiments import plan, runner, tables

  try:
    table = _table(args)
    name = f'table{args.table}' if args.table else table.title
    name = args.table if args.table == 'fig8' else name
    output = (args.output or pathlib.Path('experiments') / name).absolute()
    options = plan.Options(
      output=output,
      seeds=args.seeds,
      vary=args.vary,
      scans=args.scans and str(pathlib.Path(args.scans).absolute()),
      preset=args.preset,
      modalities=args.modalities,
      overrides=tuple(overrides),
      scores=args.scores and args.scores.absolute(),
    )
    plan.check(table.task, options)
    every = plan.expand(table, options)
    runs = plan.select(every, args.only)
    tables.check(output)
  except ValueError as error:
    raise command.WrongFlags(str(error)) from error
  if args.list:
    for run in filter(plan.is_open, runs):
      print(plan.shell(run))
    return 0
  _show_plan(table, runs, output)
  if args.dry_run:
    return 0
  write = lambda: tables.write(
    tables.collect(table, every, options),
    output,
    None if options.scores else tables.scores_of(every),
  )
  try:
    write()
    outcomes = runner.run_all(runs, write, execute or runner.execute)
    write()
  except SystemExit:  # SIGTERM.
    command.tell('stopped by SIGTERM; the same command goes on')
    raise
  return _report(runs, outcomes, output)


def main(
  argv: Sequence[str] | None = None,
  execute: Callable[['plan.PlannedRun'], str] | None = None,
) -> int:
  """Runs an experiment; returns the process's exit code.

  Args:
    argv: the command line's arguments.
    execute: runs one run; '' or why it failed. By default a process does.
  """
  given = sys.argv[1:] if argv is None else argv
  fields = [text for text in given if text.startswith('--config.')]
  own = [text for text in given if text not in fields]
  run = functools.partial(_run, overrides=fields, execute=execute)
  return command.run(_flags, run, own)


if __name__ == '__main__':
  command.leave(main())
