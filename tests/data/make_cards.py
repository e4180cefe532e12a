"""Write hub_cards/: one card for each named entry, from its artifact, or one that says that there is none yet.

    python tests/data/make_cards.py
"""
from pathlib import Path

from timm_sbs.cards import artifact_card, entry_card
from timm_sbs.models import embedded_folder
from timm_sbs.models.entries import ENTRIES

CARDS = Path(__file__).parents[2] / 'hub_cards'


def card_of(name: str) -> str:
    folder = embedded_folder(name)
    return artifact_card(folder, f'timm-sbs/{name}') if folder else entry_card(name)


def main() -> None:
    CARDS.mkdir(exist_ok=True)
    for name in ENTRIES:
        (CARDS / f'{name}.md').write_text(card_of(name))


if __name__ == '__main__':
    main()
