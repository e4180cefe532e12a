"""Makers of tables: functions without arguments that return the lines of a Markdown table."""
from collections.abc import Callable

from table_makers import ablation, beside_others, imagenet, loading, networks, rooms, shipped, training

MAKERS: dict[str, Callable[[], list[str]]] = {
    name: maker for module in (shipped, beside_others, training, ablation, networks, loading, imagenet, rooms)
    for name, maker in module.MAKERS.items()}
