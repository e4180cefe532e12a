"""Makers of tables: functions without arguments that return the lines of a Markdown table."""
from collections.abc import Callable

from table_makers import accuracy, imagenet, measurements, method, onnx, packages, shipped, training, updates

MAKERS: dict[str, Callable[[], list[str]]] = {
    name: maker for module in (shipped, accuracy, training, method, imagenet, onnx, updates, measurements, packages)
    for name, maker in module.MAKERS.items()}
