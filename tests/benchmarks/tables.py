"""All tables of README.md and docs/, made of the results files and of the config.json of what ships.

    python tests/benchmarks/tables.py           # writes them into the pages
    python tests/benchmarks/tables.py --check   # writes nothing; exits with 1 if a page differs

A page says where a table belongs: everything between '<!-- table: NAME -->' and '<!-- end -->' is replaced by the lines
of the maker of that name (see table_makers). Nothing is measured.
"""
import argparse
import re
import sys
from pathlib import Path

from table_makers import MAKERS
from table_makers.sources import REPOSITORY

PLACE = re.compile(r'<!-- table: (\w+) -->\n.*?<!-- end -->', flags=re.DOTALL)


def pages() -> list[Path]:
    """README.md and all pages of docs/."""
    return [REPOSITORY / 'README.md', *sorted((REPOSITORY / 'docs').glob('*.md'))]


def with_tables(text: str) -> str:
    """A page's text with every table made anew."""
    return PLACE.sub(lambda place: '\n'.join(
        [f'<!-- table: {place[1]} -->', *MAKERS[place[1]](), '<!-- end -->']), text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing, and exit with 1 if a page differs')
    args = parser.parse_args()
    differing = []
    for path in pages():
        old = path.read_text(encoding='utf-8')
        new = with_tables(old)
        if new != old:
            differing.append(path)
            if not args.check:
                path.write_text(new, encoding='utf-8')
    for path in differing:
        print(f"{path} {'differs: run python tests/benchmarks/tables.py' if args.check else 'written'}")
    return int(args.check and bool(differing))


if __name__ == '__main__':
    sys.exit(main())
