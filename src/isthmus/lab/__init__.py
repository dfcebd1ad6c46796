"""Kubernetes clusters on one machine: API servers, controllers, nodes and pods as processes in network namespaces."""

import sys

if "structlog" not in sys.modules:
    # structlog imports rich, and that pygments, wherever it finds them: 10 MB of a process that only writes plain
    # lines, times the number of daemons. Nothing in a lab uses either.
    vars(sys)["modules"].setdefault("rich", None)
