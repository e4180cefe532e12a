"""Makers of tables: functions without arguments that return the lines of a Markdown table."""
from collections.abc import Callable

from table_makers import ablation, beside_others, frontier, imagenet, loading, networks, rooms, shipped, training

MAKERS: dict[str, Callable[[], list[str]]] = {
    name: maker for module in (shipped, beside_others, frontier, training, ablation, networks, loading, imagenet, rooms)
    for name, maker in module.MAKERS.items()}
