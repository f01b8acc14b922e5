"""A whole federation on this machine, told step by step: from keys to a deletion's certificate, verified.

Nothing in it is special to it: every step calls what an operator would call, most of them as the command itself. Its
modules are imported one by one, for some need torch and some must not wait for it.
"""

from __future__ import annotations

__all__: list[str] = []
