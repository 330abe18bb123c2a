"""The conformance checks of the example backbone, one test per check."""

import pytest
from example_backbone import ColourHistogram

from slidepipe.testing import check_backbone, pytest_params


@pytest.mark.parametrize("check", pytest_params(check_backbone(ColourHistogram, {"bins": 3})))
def test_conformance(check):
    """Run one check."""
    check()
