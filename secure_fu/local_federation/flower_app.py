"""The Flower app of the local federation: that of `examples/flower`, for those who have the package alone."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["write_flower_app"]

_PACKAGE: Final = "secure_fu_app"
_PROJECT: Final = """\
[project]
name = "secure-fu-app"
version = "1.0.0"
description = "A federation that trains and forgets on encrypted, noisy sums"
license = "Apache-2.0"
dependencies = ["secure-fu[flower]"]

[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[tool.hatch.build.targets.wheel]
packages = ["secure_fu_app"]

[tool.flwr.app]
publisher = "secure-fu"

[tool.flwr.app.components]
serverapp = "secure_fu_app.server_app:app"
clientapp = "secure_fu_app.client_app:app"

[tool.flwr.app.config]
job = "status"
server-directory = ""
rounds = 0
now = false
nodes-directory = ""
wait-for-nodes = 0
wait-seconds = 120.0
exchange-timeout = 60.0
round-timeout = 600.0
poll-seconds = 0.2
report = ""
capture-directory = ""
"""
_MODULE: Final = '"""{title}"""\n\nfrom secure_fu.flower.{name} import {name}\n\napp = {name}()\n'


def write_flower_app(folder: Path) -> Path:
    """Write the app into a folder, which is made; returns it."""
    package = folder / _PACKAGE
    package.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
    (package / "__init__.py").write_text('"""The Flower app of a secure_fu federation."""\n', encoding="utf-8")
    for name, title in (("client_app", "Runs beside each node."), ("server_app", "Runs beside the SuperLink.")):
        (package / f"{name}.py").write_text(_MODULE.format(title=title, name=name), encoding="utf-8")
    return folder
