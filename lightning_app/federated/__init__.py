"""Several owners, one recogniser: every owner desensitizes with the same mask, and only parameters travel (paper, 3.4).

`partition`, `aggregate`, `weights` and `messages` are plain; `local`, `client` and `server` know Lightning; `wire`,
`apps`, `serverapp` and `clientapp` alone know Flower, and for a deployment (`deploy/federated`) `superlink` and
`superexec`, which keep strangers' code out.
"""

import os

# before Flower is imported: it reports home, and looks for newer versions of itself, unless told not to
for _name, _value in (
    ("FLWR_TELEMETRY_ENABLED", "0"),
    ("FLWR_DISABLE_UPDATE_CHECK", "1"),
    ("RAY_USAGE_STATS_ENABLED", "0"),
):
    os.environ.setdefault(_name, _value)
