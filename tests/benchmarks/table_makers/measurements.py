"""The table of all measurements: the command of each results file, its hardware and its seeds."""
from table_makers.sources import RESULTS, markdown, results_of


def measurements() -> list[str]:
    rows = []
    for path in sorted(RESULTS.glob('*.json')):
        found = results_of(path.stem)
        seeds = found.get('seeds', [found.get('seed')])
        rows.append((f'[{path.stem}](../tests/benchmarks/results/{path.name})', f"`{found['command']}`",
                     found['hardware'], ', '.join(map(str, seeds))))
    return markdown(['results', 'command', 'hardware', 'seeds'], rows)


MAKERS = {'measurements': measurements}
