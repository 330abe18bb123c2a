"""The whole test of a backbone."""

import pytest
from example_backbone import ColourHistogram

from slidepipe.testing import check_backbone, pytest_params


@pytest.mark.parametrize("check", pytest_params(check_backbone(ColourHistogram, {"bins": 3})))
def test_it_keeps_the_contract(check):
    """Each check is a test of its own."""
    check()
