"""Code lines of the project: without blanks, comments and docstrings.

python benchmarks/code_lines.py            # per room
python benchmarks/code_lines.py --files    # per file
"""

import argparse
import ast
import collections
import io
import pathlib
import tokenize

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ('configs', 'data', 'dbdc_jax')
# Tokens that make no line a code line.
_SILENT = {
  tokenize.COMMENT,
  tokenize.DEDENT,
  tokenize.ENCODING,
  tokenize.ENDMARKER,
  tokenize.INDENT,
  tokenize.NEWLINE,
  tokenize.NL,
}
_WITH_DOCSTRING = (
  ast.AsyncFunctionDef,
  ast.ClassDef,
  ast.FunctionDef,
  ast.Module,
)


def code_lines(text: str) -> int:
  """Lines of a module that hold code; a string of several lines counts each."""
  documented = set()
  for node in ast.walk(ast.parse(text)):
    if (
      isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node) is not None
    ):
      first = node.body[0]
      documented |= set(range(first.lineno, first.end_lineno + 1))
  lines = set()
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type not in _SILENT:
      lines |= set(range(token.start[0], token.end[0] + 1))
  return len(lines - documented)


def main() -> None:
  """Prints the count of every room or file, and of all."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--files', action='store_true', help='one line per file')
  per_file = parser.parse_args().files
  found = collections.Counter()
  for package in PACKAGES:
    for file in sorted((ROOT / package).rglob('*.py')):
      place = file if per_file else file.parent
      found[str(place.relative_to(ROOT))] += code_lines(file.read_text())
  for name, lines in found.items():
    print(f'{lines:6d} {name}')
  print(f'{found.total():6d} in all')


if __name__ == '__main__':
  main()
