"""Equal points, and nearly equal ones, as one: a path goes from group to group, and through a group by index."""
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ['Groups', 'equal_points', 'close_points']

CLOSE = 1e-3  # side of a cell whose points count as one, relative to the standard deviation of a coordinate


@dataclass(frozen=True)
class Groups:
    """A partition of n points into groups, which stand in the order of their first points.

    Attributes:
        members: The points of the first group, then those of the second and so on, each group's by index [n].
        starts: Where each group begins in ``members`` [number of groups].
    """
    members: NDArray[np.int64]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def firsts(self) -> NDArray[np.int64]:
        """The first point of each group, in rising order."""
        return self.members[self.starts]

    def path_of_points(self, path: NDArray[np.int64]) -> NDArray[np.int64]:
        """The path [n] through all points that a path through the groups stands for."""
        sizes = np.diff(self.starts, append=len(self.members))[path]
        begins = np.cumsum(sizes) - sizes
        return self.members[np.arange(len(self.members)) + np.repeat(self.starts[path] - begins, sizes)]


def equal_points(points: NDArray[np.float64]) -> Groups:
    """Group the points [n, d] that are equal in all coordinates.

    >>> equal_points(np.array([[2.], [1.], [2.]])).members
    array([0, 2, 1])
    """
    rows = np.ascontiguousarray(points) + 0.  # makes -0 a 0: rows are compared as bytes, which takes least time
    rows = rows.view(f'V{rows.itemsize * rows.shape[1]}').reshape(-1)
    order = np.argsort(rows, kind='stable')
    new = np.ones(len(rows), dtype=bool)
    new[1:] = rows[order[1:]] != rows[order[:-1]]
    starts = np.flatnonzero(new)
    turns = np.argsort(order[starts])
    sizes = np.diff(starts, append=len(rows))
    members = Groups(order, starts).path_of_points(turns)
    return Groups(members, np.cumsum(sizes[turns]) - sizes[turns])


def close_points(points: NDArray[np.float64]) -> Groups:
    """Group the points [n, d] that lie in one cell of a fine grid, so that 0 lies at the centre of a cell."""
    side = CLOSE * points.std(axis=0).mean()
    return equal_points(np.rint(points / side) if side else points)
