"""All tables of README.md and docs/, made of the results files and of the shipped predictors' config.json.

    python tests/benchmarks/tables.py           # writes them into the pages
    python tests/benchmarks/tables.py --check   # writes nothing; exits with 1 if a page differs

A page says where a table belongs: everything between '<!-- table: NAME -->' and '<!-- end -->' is replaced by the lines
of the maker of that name (see table_makers). Only JSON and imports are read, so torch is not needed.
"""
import argparse
import re
import sys
from pathlib import Path

from table_makers import MAKERS
from table_makers.sources import REPOSITORY

PLACE = re.compile(r'<!-- table: (\w+) -->\n(.*?)<!-- end -->', flags=re.DOTALL)


def pages() -> list[Path]:
    """README.md and all pages of docs/."""
    return [REPOSITORY / 'README.md', *sorted((REPOSITORY / 'docs').glob('*.md'))]


def with_tables(text: str, page: str) -> str:
    """A page's text with every table made anew.

    Raises:
        SystemExit: A place names no maker, or has no end.
    """
    def made(place: re.Match) -> str:
        if place[1] not in MAKERS:
            raise SystemExit(f"{page}: there is no table '{place[1]}'; there are {', '.join(MAKERS)}")
        if '<!-- table:' in place[2]:
            raise SystemExit(f"{page}: table '{place[1]}' has no end")
        lines = '\n'.join(MAKERS[place[1]]())
        return f'<!-- table: {place[1]} -->\n{lines}\n<!-- end -->'

    text, count = PLACE.subn(made, text)
    if count != text.count('<!-- table:'):
        raise SystemExit(f'{page}: a table has no end')
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing, and exit with 1 if a page differs')
    args = parser.parse_args()
    differing = []
    for path in pages():
        old = path.read_text(encoding='utf-8')
        new = with_tables(old, path.name)
        if new != old:
            differing.append(path.relative_to(REPOSITORY))
            if not args.check:
                path.write_text(new, encoding='utf-8')
    for path in differing:
        print(f"{path} {'differs: run python tests/benchmarks/tables.py' if args.check else 'written'}")
    return int(args.check and bool(differing))


if __name__ == '__main__':
    sys.exit(main())
