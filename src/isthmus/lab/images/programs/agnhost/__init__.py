"""`agnhost` for pods: the test program of Kubernetes' own network tests, as far as they need it.

Subcommands, flags, answers, messages and exit codes follow agnhost 2.39, except that SIGTERM ends every server at
once (serve-hostname of the original sleeps through a minute), and that there is no TLS.
"""

from isthmus.lab.images.programs.agnhost.command import main

__all__ = ["main"]
