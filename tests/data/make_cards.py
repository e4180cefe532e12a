"""Write hub_cards/: one card for each shipped predictor.

    python tests/data/make_cards.py
"""
from pathlib import Path

import timm_sbs
from timm_sbs.common.entries import ENTRIES

CARDS = Path(__file__).parents[2] / 'hub_cards'


def cards() -> dict[str, str]:
    """All cards by their names."""
    return {name: timm_sbs.load(name).card(f'timm-sbs/{name}') for name in ENTRIES}


def main() -> None:
    CARDS.mkdir(exist_ok=True)
    for name, card in cards().items():
        (CARDS / f'{name}.md').write_text(card)


if __name__ == '__main__':
    main()
