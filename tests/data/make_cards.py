"""Write hub_cards/: one card for each shipped predictor, and one for each recipe that nobody has trained yet.

    python tests/data/make_cards.py
"""
from importlib.resources import files
from pathlib import Path

import yaml

from timm_sbs.artifact.card import artifact_card, recipe_card
from timm_sbs.artifact.find import shipped_folder
from timm_sbs.common.entries import ENTRIES

CARDS = Path(__file__).parents[2] / 'hub_cards'


def recipes() -> dict[str, dict[str, object]]:
    """Recipes that name the network they are for."""
    found = {}
    for path in sorted((files('timm_sbs.training') / 'recipes').iterdir(), key=lambda path: path.name):
        settings = yaml.safe_load(path.read_text(encoding='utf-8'))
        if 'model' in settings:
            found[path.name.removesuffix('.yaml')] = settings
    return found


def cards() -> dict[str, str]:
    """All cards by their names."""
    return {
        **{name: artifact_card(shipped_folder(name), f'timm-sbs/{name}') for name in ENTRIES},
        **{f'sbs_{name}': recipe_card(name, found['model'], found['pct']) for name, found in recipes().items()}}


def main() -> None:
    CARDS.mkdir(exist_ok=True)
    for name, card in cards().items():
        (CARDS / f'{name}.md').write_text(card)


if __name__ == '__main__':
    main()
