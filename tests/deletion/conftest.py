"""A federation with certificates, made once."""

from __future__ import annotations

import pytest
from certificate_cast import Story


@pytest.fixture(scope="session")
def story(tmp_path_factory):
    return Story(tmp_path_factory.mktemp("story"))
