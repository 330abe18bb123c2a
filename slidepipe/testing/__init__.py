"""Conformance checks for authors of plugins: whether a backbone, head or detector behaves as slidepipe needs it.

In the tests of a plugin:

```python
@pytest.mark.parametrize("check", pytest_params(check_backbone(MyBackbone)))
def test_my_backbone(check):
    check()
```

`slidepipe plugins check NAME` runs the same checks. They need no data and no network.
"""

from slidepipe.testing.checks import Check, CheckFailure, CheckResult
from slidepipe.testing.conformance import check_backbone, check_detector, check_head, pytest_params, run_checks

__all__ = [
    "Check",
    "CheckFailure",
    "CheckResult",
    "check_backbone",
    "check_detector",
    "check_head",
    "pytest_params",
    "run_checks",
]
