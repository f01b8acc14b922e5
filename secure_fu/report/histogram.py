"""Counts of an attack's scores, as both `result.json` and `audit.json` carry them."""

from __future__ import annotations

from secure_fu.report.node import Node
from secure_fu.report.result import Histogram

__all__ = ["read_histogram"]


def read_histogram(node: Node) -> Histogram:
    """Read one.

    Raises:
        RunDirectoryError: as of :class:`Node`, or the counts are not one between each two edges.
    """
    histogram = Histogram(
        edges=node["edges"].each(Node.number),
        members=node["members"].each(Node.integer),
        non_members=node["non_members"].each(Node.integer),
    )
    for key, counts in (("members", histogram.members), ("non_members", histogram.non_members)):
        if len(counts) + 1 != len(histogram.edges):
            node[key].reject(f"one count between each two of the {len(histogram.edges)} edges")
    return histogram
